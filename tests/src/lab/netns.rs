//! One network namespace: interfaces, rules, sysctls, and work done inside it.
//!
//! A named namespace costs a few milliseconds, needs no daemon, and `ip netns exec` gives a process its own
//! `/etc/hosts` and `/etc/resolv.conf`, so that a program which rewrites them cannot reach the machine's.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::Write as _,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::process::run;

/// What all namespaces and directories of labs are called: prefix, process id, `x`, the rest.
pub(crate) const PREFIX: &str = "sdl";

/// A namespace of this lab; deleted on drop together with the processes in it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Creates the namespace `<lab>-<role>` with its loopback up and `hosts` as its `/etc/hosts`.
    pub(crate) fn create(lab: &str, role: &str, hosts: &str) -> Result<Self> {
        let name = format!("{lab}-{role}");
        let etc = PathBuf::from("/etc/netns").join(&name);
        fs::create_dir_all(&etc).with_context(|| format!("{} could not be created", etc.display()))?;
        fs::write(
            etc.join("hosts"),
            format!("127.0.0.1 localhost\n::1 localhost\n{hosts}"),
        )?;
        fs::write(etc.join("resolv.conf"), "# no resolver in the lab\n")?;
        let namespace = Self { name };
        run(Command::new("ip").args(["netns", "add", &namespace.name]))?;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Its name, as `ip netns` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs the lines of `script`, each one command of `ip`, in the namespace.
    pub fn ip(&self, script: &str) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name, "-batch", "-"]);
        feed(&mut command, script).with_context(|| format!("in {}", self.name))
    }

    /// Loads `rules` with nft in the namespace.
    pub fn nft(&self, rules: &str) -> Result<()> {
        let mut command = self.command("nft");
        command.args(["-f", "-"]);
        feed(&mut command, rules).with_context(|| format!("in {}", self.name))
    }

    /// Sets `net.<key>` to `value` in the namespace.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys/net").join(key.replace('.', "/"));
        self.inside(|| fs::write(&path, value))?
            .with_context(|| format!("net.{key} could not be set to {value} in {}", self.name))
    }

    /// A command that will run in the namespace.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program.as_ref());
        command
    }

    /// Runs `work` in a thread that lives in the namespace. A socket it opens stays there and may be handed out.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                self.enter()?;
                Ok(work())
            });
            worker
                .join()
                .map_err(|_| anyhow!("the work in {} panicked", self.name))?
        })
    }

    fn enter(&self) -> Result<()> {
        let path = Path::new("/run/netns").join(&self.name);
        let file = File::open(&path).with_context(|| format!("{} could not be opened", path.display()))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("{} could not be entered", self.name))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

fn feed(command: &mut Command, input: &str) -> Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{command:?} did not start"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "{command:?} failed: {}\n{input}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// Ends what still runs in the namespace `name` and deletes it.
fn remove(name: &str) {
    if let Ok(output) = Command::new("ip").args(["netns", "pids", name]).output() {
        for pid in String::from_utf8_lossy(&output.stdout).lines() {
            // Named by its id, and only what lives in a namespace of a lab.
            let _ = Command::new("kill").args(["-KILL", pid]).stderr(Stdio::null()).status();
        }
    }
    let _ = Command::new("ip")
        .args(["netns", "del", name])
        .stderr(Stdio::null())
        .status();
    let _ = fs::remove_dir_all(Path::new("/etc/netns").join(name));
}

/// Removes namespaces and directories of labs whose process is gone.
pub(crate) fn remove_leftovers() {
    let mut names = HashSet::new();
    for directory in ["/run/netns", "/etc/netns"] {
        names.extend(entries(Path::new(directory)));
    }
    for name in names.iter().filter(|name| is_leftover(name)) {
        remove(name);
    }
    let temporary = std::env::temp_dir();
    for name in entries(&temporary).iter().filter(|name| is_leftover(name)) {
        let _ = fs::remove_dir_all(temporary.join(name));
    }
}

fn entries(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}

fn is_leftover(name: &str) -> bool {
    let Some((pid, _)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('x')) else {
        return false;
    };
    pid.parse::<u32>()
        .is_ok_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}
