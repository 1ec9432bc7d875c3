//! Processes: short ones run to their end, long ones with their log in a file and ended on drop.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::eventually;

/// What a finished command left behind.
#[derive(Debug)]
pub struct Run {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

impl Run {
    /// Runs `command` to its end, whatever its status.
    pub fn of(command: &mut Command) -> Result<Self> {
        let started = Instant::now();
        let Output { status, stdout, stderr } = command
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("{command:?} did not start"))?;
        Ok(Self {
            status,
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            took: started.elapsed(),
        })
    }
}

/// Runs `command` to its end and returns its standard output; any status but success is an error with the whole text.
pub fn run(command: &mut Command) -> Result<String> {
    let run = Run::of(command)?;
    if !run.status.success() {
        bail!("{command:?}: {}\n{}{}", run.status, run.stdout, run.stderr);
    }
    Ok(run.stdout)
}

/// A process that runs while the test does.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Where this run's lines begin.
    log_start: usize,
    started: Instant,
}

/// What a process has cost so far.
#[derive(Debug, Clone, Copy)]
pub struct ProcessUsage {
    /// Memory that is resident now, in KiB.
    pub rss_kib: u64,
    /// The part of it that is not a file's: heap and stacks.
    pub anonymous_kib: u64,
    /// Processor time spent since its start, user and system.
    pub cpu: Duration,
    /// Threads that it has now.
    pub threads: u64,
}

impl Process {
    /// Starts `command`; both its outputs are appended to `<directory>/<name>.log`.
    pub fn start(name: &str, directory: &Path, command: &mut Command) -> Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("{} could not be opened", log.display()))?;
        let log_start = usize::try_from(file.metadata()?.len())?;
        let started = Instant::now();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("{command:?} did not start"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
            log_start,
            started,
        })
    }

    /// The moment at which it was started.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Its process id; `ip netns exec` replaces itself by the program, so this is the program's.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that it has written so far; what an earlier run under the same name wrote is left out.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(self.log_start..).unwrap_or_default()).into_owned()
    }

    /// Waits until its log has a line that contains `text`, and returns that line.
    pub fn wait_for_log(&self, text: &str, deadline: Duration) -> Result<String> {
        eventually(&format!("{text:?} in the log of {}", self.name), deadline, || {
            let log = self.log();
            log.lines()
                .find(|line| line.contains(text))
                .map(str::to_owned)
                .context("no such line")
        })
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        eventually(&format!("end of {}", self.name), deadline, || {
            self.child.try_wait()?.context("it still runs")
        })
    }

    /// Asks it to end (SIGTERM) and waits for that.
    pub fn terminate(&mut self, deadline: Duration) -> Result<ExitStatus> {
        self.signal("TERM")?;
        self.wait(deadline)
    }

    /// Ends it at once (SIGKILL).
    pub fn kill(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            self.child.kill()?;
            self.child.wait()?;
        }
        Ok(())
    }

    /// Sends it the signal of that name.
    pub fn signal(&self, signal: &str) -> Result<()> {
        run(Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(self.pid().to_string()))
        .map(drop)
    }

    /// Its memory and processor time, from `/proc`.
    pub fn usage(&self) -> Result<ProcessUsage> {
        let directory = PathBuf::from(format!("/proc/{}", self.pid()));
        let status = fs::read_to_string(directory.join("status"))?;
        let field = |name: &str| -> Result<u64> {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .with_context(|| name.to_owned())?;
            Ok(line.split_whitespace().next().context("empty")?.parse()?)
        };
        let stat = fs::read_to_string(directory.join("stat"))?;
        // The second field, the name in brackets, may hold blanks; the counting starts behind it.
        let (_, rest) = stat.rsplit_once(") ").context("odd stat line")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        let ticks: u64 =
            fields.get(11).context("utime")?.parse::<u64>()? + fields.get(12).context("stime")?.parse::<u64>()?;
        Ok(ProcessUsage {
            rss_kib: field("VmRSS:")?,
            anonymous_kib: field("RssAnon:")?,
            // USER_HZ is 100 on every Linux that we meet.
            cpu: Duration::from_millis(ticks * 10),
            threads: field("Threads:")?,
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
