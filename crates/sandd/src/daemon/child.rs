//! The re-executed helper that stands between the daemon and one command (S-42, S-43).
//!
//! Between `fork` and `exec` only `unsafe` code may run, so the daemon starts its own program again in a hidden mode, and
//! that process, alone and single-purpose, does what has to be done first: a session of its own, and the role of
//! *subreaper*, by which every orphan below it, also one that ran away with `setsid` and a double fork, becomes its child.
//! So "the whole tree of this command" is a question the kernel answers: all descendants of the helper.
//!
//! ```text
//! daemon --spawn--> helper --spawn--> sh -c COMMAND --> ...
//!    |   socket (0)   |    stdout, stderr: pipes of the daemon, inherited
//!    | -- Order ----> |
//!    | <-- Report --- |    once, when the shell ended
//!    | -- any byte -> |    or end of file: TERM to the tree, KILL after 2 s
//! ```
//!
//! The helper lives until its last descendant is gone: a background process may outlive its command, never the daemon.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions};
use serde::{Deserialize, Serialize};

use super::tree;

/// First argument of our own program in this mode.
pub const HELPER_ARGUMENT: &str = "__command";

/// From TERM to KILL.
pub(super) const KILL_AFTER: Duration = Duration::from_secs(2);

/// An order longer than this is refused before it is read: a frame holds no more.
const MAX_ORDER: usize = 32 * 1024 * 1024;

/// What to run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub command: String,
    pub env: BTreeMap<String, String>,
    pub cwd: Option<String>,
}

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// It never ran.
    Failed(String),
    /// The shell ended by itself.
    Exited(i32),
    /// A signal ended the shell.
    Signaled(i32),
}

impl Order {
    /// The order with its length in front.
    pub(super) fn to_bytes(&self) -> std::io::Result<Vec<u8>> {
        let body = serde_json::to_vec(self)?;
        let length = u32::try_from(body.len()).map_err(std::io::Error::other)?;
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend_from_slice(&body);
        Ok(bytes)
    }
}

/// The whole life of a helper process; called by `main` before anything else.
#[must_use]
pub fn run_helper() -> ExitCode {
    let Ok(descriptor) = std::io::stdin().as_fd().try_clone_to_owned() else {
        return ExitCode::FAILURE;
    };
    let mut socket = UnixStream::from(descriptor);
    let Ok(order) = read_order(&mut socket) else {
        return ExitCode::FAILURE;
    };
    let Ok(reports) = socket.try_clone() else {
        return ExitCode::FAILURE;
    };
    // Both can only fail where the system lacks them; the tree is then as good as the process group.
    let _ = rustix::process::setsid();
    #[cfg(target_os = "linux")]
    {
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        // It was started as `/proc/self/exe`, which would be its name in a list of processes.
        let _ = rustix::thread::set_name(c"sandd-command");
    }
    match spawn(&order) {
        Ok(shell) => {
            std::thread::spawn(move || wait_for_end(socket, shell));
            reap_all(shell, reports);
            ExitCode::SUCCESS
        }
        Err(reason) => {
            report(&reports, &Report::Failed(reason));
            ExitCode::SUCCESS
        }
    }
}

fn read_order(socket: &mut UnixStream) -> std::io::Result<Order> {
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_le_bytes(length)).map_err(std::io::Error::other)?;
    if length > MAX_ORDER {
        return Err(std::io::Error::other("order too long"));
    }
    let mut body = Vec::new();
    socket.take(length as u64).read_to_end(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}

/// Starts the shell in a process group of its own; an error is a sentence for the caller of the command.
fn spawn(order: &Order) -> Result<Pid, String> {
    if order.command.contains('\0') {
        return Err("the command contains a NUL byte".to_owned());
    }
    for (name, value) in &order.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(format!(
                "the environment variable {name:?} has an impossible name or value"
            ));
        }
    }
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(&order.command)
        .envs(&order.env)
        .stdin(Stdio::null())
        .process_group(0);
    if let Some(cwd) = &order.cwd {
        match std::fs::metadata(cwd) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(format!("the working directory {cwd:?} is not a directory")),
            Err(error) => return Err(format!("the working directory {cwd:?} cannot be used: {error}")),
        }
        command.current_dir(cwd);
    }
    let child = command
        .spawn()
        .map_err(|error| format!("the shell could not be started: {error}"))?;
    i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| "the shell has no process id".to_owned())
}

/// Reaps the shell and every orphan until none is left.
fn reap_all(shell: Pid, reports: UnixStream) {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == shell => {
                if let Some(code) = status.exit_status() {
                    report(&reports, &Report::Exited(code));
                } else if let Some(signal) = status.terminating_signal() {
                    report(&reports, &Report::Signaled(signal));
                }
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

fn report(mut socket: &UnixStream, report: &Report) {
    if let Ok(mut line) = serde_json::to_vec(report) {
        line.push(b'\n');
        let _ = socket.write_all(&line);
    }
}

/// Ends the tree when the daemon says so, or is no more.
fn wait_for_end(mut socket: UnixStream, shell: Pid) {
    let mut byte = [0];
    while let Err(error) = socket.read(&mut byte) {
        if error.kind() != std::io::ErrorKind::Interrupted {
            break;
        }
    }
    let me = rustix::process::getpid();
    let _ = rustix::process::kill_process_group(shell, Signal::TERM);
    tree::signal_descendants(me, &[Signal::TERM, Signal::CONT]);
    // `reap_all` ends the process as soon as nothing is left, whatever this thread does.
    std::thread::sleep(KILL_AFTER);
    let begun = Instant::now();
    loop {
        let _ = rustix::process::kill_process_group(shell, Signal::KILL);
        // Stopping first keeps a process that forks faster than we look from winning.
        tree::signal_descendants(me, &[Signal::STOP]);
        tree::signal_descendants(me, &[Signal::KILL]);
        let pause = if begun.elapsed() < Duration::from_secs(1) {
            2
        } else {
            50
        };
        std::thread::sleep(Duration::from_millis(pause));
    }
}
