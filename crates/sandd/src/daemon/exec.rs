//! Runs one command: helper, pipes, deadline, the end of its tree (S-43).

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, ChildStdout};

use super::child::{HELPER_ARGUMENT, KILL_AFTER, Order, Report};
use super::output::{Captured, Collector, JSON_BUDGET, KEPT, finish_both};
use super::policy::{MAX_DEADLINE, is_private_variable};
use super::reaper::{self, KnownHelper};

/// After the shell ended, how long output of background children may still come.
const LINGER: Duration = Duration::from_millis(200);

/// After the order to end, how long the tree may take: TERM, 2 s, KILL, and some room.
const END_WITHIN: Duration = Duration::from_millis(2_900);

/// A command to run.
#[derive(Debug, Clone)]
pub(super) struct CommandSpec {
    pub command: String,
    pub env: BTreeMap<String, String>,
    pub cwd: Option<String>,
    pub timeout: Duration,
}

/// How a command ended by itself.
#[derive(Debug)]
pub(super) struct Finished {
    /// Exit code, or -1 for a signal.
    pub exit_code: i32,
    pub signal: Option<i32>,
    pub stdout: Captured,
    pub stderr: Captured,
    pub duration: Duration,
}

/// Why there is no exit code to tell.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExecFailure {
    #[error("command could not be started: {0}")]
    Start(String),
    #[error("command timed out after {} s and was ended", .after.as_secs())]
    TimedOut {
        after: Duration,
        stdout: String,
        stderr: String,
    },
    #[error("command was ended because {0}")]
    Cancelled(&'static str),
    #[error("the process that watched over the command was killed; what the command did is unknown")]
    HelperLost { helper: i32 },
}

/// What stays when the answer is out: the helper, as long as background children live.
#[derive(Debug)]
pub(super) struct Leftover {
    helper: Helper,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
}

#[derive(Debug)]
struct Helper {
    child: Child,
    known: KnownHelper,
    socket: BufReader<UnixStream>,
}

/// The program that [`super::child::run_helper`] is part of.
#[derive(Debug, Clone)]
pub struct HelperProgram(std::path::PathBuf);

impl HelperProgram {
    /// Our own program, also after its file was replaced by an update.
    #[must_use]
    pub fn this() -> Self {
        if cfg!(target_os = "linux") {
            return Self("/proc/self/exe".into());
        }
        Self(std::env::current_exe().unwrap_or_else(|_| "sandd".into()))
    }

    /// A given `sandd` program, for processes that are not one.
    #[must_use]
    pub fn at(path: std::path::PathBuf) -> Self {
        Self(path)
    }
}

/// Runs a command to its end.
pub(super) async fn run(
    program: &HelperProgram,
    spec: CommandSpec,
    cancel: impl Future<Output = &'static str>,
) -> (Result<Finished, ExecFailure>, Option<Leftover>) {
    let timeout = spec.timeout.min(MAX_DEADLINE);
    if timeout.is_zero() {
        let nothing = String::new;
        return (
            Err(ExecFailure::TimedOut {
                after: timeout,
                stdout: nothing(),
                stderr: nothing(),
            }),
            None,
        );
    }
    let begun = Instant::now();
    let (mut helper, stdout, stderr) = match start(program, spec).await {
        Ok(started) => started,
        Err(error) => return (Err(ExecFailure::Start(error.to_string())), None),
    };
    let (mut out, mut err) = (Stream::new(stdout), Stream::new(stderr));
    let deadline = tokio::time::sleep(timeout);
    tokio::pin!(deadline, cancel);
    let mut report = String::new();
    let why = loop {
        tokio::select! {
            biased;
            read = helper.socket.read_line(&mut report) => break Some(read),
            () = out.read() => {}
            () = err.read() => {}
            () = &mut deadline => break None,
            reason = &mut cancel => {
                helper.end(&mut out, &mut err).await;
                return (Err(ExecFailure::Cancelled(reason)), None);
            }
        }
    };
    let duration = begun.elapsed();
    if why.is_none() {
        helper.end(&mut out, &mut err).await;
        let (stdout, stderr) = finish_both(&out.collector, &err.collector, JSON_BUDGET);
        return (
            Err(ExecFailure::TimedOut {
                after: timeout,
                stdout: stdout.text,
                stderr: stderr.text,
            }),
            None,
        );
    }
    let (exit_code, signal) = match serde_json::from_str(&report) {
        Ok(Report::Exited(code)) => (code, None),
        Ok(Report::Signaled(signal)) => (-1, Some(signal)),
        Ok(Report::Failed(reason)) => return (Err(ExecFailure::Start(reason)), None),
        Err(_) => {
            let helper = helper.known.pid();
            return (Err(ExecFailure::HelperLost { helper }), None);
        }
    };
    drain(&mut out, &mut err).await;
    let leftover = (out.pipe.is_some() || err.pipe.is_some() || !helper.has_ended()).then(|| Leftover {
        helper,
        stdout: out.pipe.take(),
        stderr: err.pipe.take(),
    });
    let (stdout, stderr) = finish_both(&out.collector, &err.collector, JSON_BUDGET);
    (
        Ok(Finished {
            exit_code,
            signal,
            stdout,
            stderr,
            duration,
        }),
        leftover,
    )
}

async fn start(program: &HelperProgram, spec: CommandSpec) -> std::io::Result<(Helper, ChildStdout, ChildStderr)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let mut command = tokio::process::Command::new(&program.0);
    command
        .arg0("sandd")
        .arg(HELPER_ARGUMENT)
        .stdin(Stdio::from(OwnedFd::from(theirs)));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_private_variable(name)) {
        command.env_remove(name);
    }
    let (mut child, known) = reaper::spawn_helper(&mut command)?;
    // The parent's copy of the helper's end must go, or the end of the helper would not be seen.
    drop(command);
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(std::io::Error::other("the helper has no pipes"));
    };
    let mut socket = UnixStream::from_std(ours)?;
    let order = Order {
        command: spec.command,
        env: spec.env,
        cwd: spec.cwd,
    };
    socket.write_all(&order.to_bytes()?).await?;
    Ok((
        Helper {
            child,
            known,
            socket: BufReader::new(socket),
        },
        stdout,
        stderr,
    ))
}

/// One pipe and what came from it.
struct Stream<R> {
    pipe: Option<R>,
    collector: Collector,
    buffer: Box<[u8]>,
}

impl<R: AsyncRead + Unpin> Stream<R> {
    fn new(pipe: R) -> Self {
        Self {
            pipe: Some(pipe),
            collector: Collector::new(KEPT),
            buffer: vec![0; 16 * 1024].into_boxed_slice(),
        }
    }

    /// Reads once; never returns when the pipe is at its end.
    async fn read(&mut self) {
        let Some(pipe) = &mut self.pipe else {
            return std::future::pending().await;
        };
        match pipe.read(&mut self.buffer).await {
            Ok(length) if length > 0 => self.collector.push(&self.buffer[..length]),
            Ok(_) | Err(_) => self.pipe = None,
        }
    }
}

/// Takes what is in the pipes until both are at their end, or a background child holds them open for too long.
async fn drain(out: &mut Stream<ChildStdout>, err: &mut Stream<ChildStderr>) {
    let all = async {
        while out.pipe.is_some() || err.pipe.is_some() {
            tokio::select! {
                () = out.read() => {}
                () = err.read() => {}
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, all).await;
}

impl Helper {
    fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Ends the whole tree and reaps the helper; output goes on being read, so that nobody hangs on a full pipe.
    async fn end(mut self, out: &mut Stream<ChildStdout>, err: &mut Stream<ChildStderr>) {
        let _ = self.socket.get_mut().write_all(b"k").await;
        let limit = tokio::time::sleep(END_WITHIN);
        tokio::pin!(limit);
        loop {
            tokio::select! {
                _ = self.child.wait() => return,
                () = out.read() => {}
                () = err.read() => {}
                () = &mut limit => return,
            }
        }
    }
}

impl Leftover {
    /// Keeps the pipes empty until the last background child is gone, or ends them all when told to.
    pub(super) async fn watch(mut self, stop: impl Future<Output = &'static str>) {
        tokio::pin!(stop);
        let mut buffer = vec![0; 4096];
        let mut other = vec![0; 4096];
        loop {
            tokio::select! {
                _ = self.helper.child.wait() => return,
                () = discard(&mut self.stdout, &mut buffer) => {}
                () = discard(&mut self.stderr, &mut other) => {}
                _ = &mut stop => break,
            }
        }
        let _ = self.helper.socket.get_mut().write_all(b"k").await;
        let _ = tokio::time::timeout(KILL_AFTER + Duration::from_millis(900), self.helper.child.wait()).await;
    }
}

async fn discard<R: AsyncRead + Unpin>(pipe: &mut Option<R>, buffer: &mut [u8]) {
    let Some(reader) = pipe else {
        return std::future::pending().await;
    };
    if !matches!(reader.read(buffer).await, Ok(length) if length > 0) {
        *pipe = None;
    }
}
