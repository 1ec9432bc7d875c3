//! One step of a longer task: said, timed, bounded, and counted.

use std::{
    io::{BufRead as _, BufReader, Write as _, stderr, stdout},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// The steps of a task so far, and the tests that ran in them.
#[derive(Debug)]
pub(crate) struct Steps {
    started: Instant,
    done: Vec<(String, Duration)>,
    passed: u64,
    ignored: u64,
}

impl Steps {
    pub(crate) fn begin() -> Self {
        Self {
            started: Instant::now(),
            done: Vec::new(),
            passed: 0,
            ignored: 0,
        }
    }

    /// Does `work` under the name `name` and says how long it took.
    pub(crate) fn run(&mut self, name: &str, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        say(&format!("==> {name}"));
        let started = Instant::now();
        let outcome = work(self);
        let took = started.elapsed();
        match &outcome {
            Ok(()) => say(&format!("==> {name}: ok, {}", clock(took))),
            Err(_) => say(&format!("==> {name}: FAILED after {}", clock(took))),
        }
        self.done.push((name.to_owned(), took));
        outcome.with_context(|| format!("step `{name}` failed"))
    }

    /// Runs one command as a step.
    pub(crate) fn command(&mut self, name: &str, limit: Duration, mut command: Command) -> Result<()> {
        self.run(name, |_| execute(&mut command, limit, &mut |_| {}))
    }

    /// Runs a command that prints what `cargo test` prints, and counts its tests.
    pub(crate) fn tests(&mut self, name: &str, limit: Duration, mut command: Command) -> Result<()> {
        self.run(name, |steps| {
            let (mut passed, mut ignored, mut skipped) = (0, 0, 0);
            let outcome = execute(&mut command, limit, &mut |line| {
                if let Some(counts) = line.strip_prefix("test result: ") {
                    passed += count(counts, " passed");
                    ignored += count(counts, " ignored");
                }
                skipped += u64::from(line.starts_with("SKIPPED "));
            });
            steps.passed += passed;
            steps.ignored += ignored;
            if skipped > 0 {
                say(&format!("{skipped} stories were skipped, see the lines above"));
            }
            outcome
        })
    }

    /// Says what it all came to, last in the form in which `cargo test` says it.
    pub(crate) fn finish(self) {
        for (name, took) in &self.done {
            say(&format!("    {:>8}  {name}", clock(*took)));
        }
        say(&format!(
            "test result: ok. {} passed; 0 failed; {} ignored; 0 measured; 0 filtered out; finished in {:.2}s",
            self.passed,
            self.ignored,
            self.started.elapsed().as_secs_f64()
        ));
    }
}

/// The number before `word` in `12 passed; 0 failed`.
fn count(counts: &str, word: &str) -> u64 {
    counts
        .split(';')
        .find_map(|part| {
            part.trim()
                .strip_suffix(word.trim_start())?
                .split_whitespace()
                .last()?
                .parse()
                .ok()
        })
        .unwrap_or_default()
}

/// Runs `command` with no input, passes its output on line by line, and ends it after `limit`.
fn execute(command: &mut Command, limit: Duration, line_seen: &mut dyn FnMut(&str)) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{command:?} did not start"))?;
    let output = child.stdout.take().context("no output")?;
    let pid = child.id().to_string();
    let (ended, waiting) = std::sync::mpsc::sync_channel::<()>(1);
    let guard = thread::spawn(move || {
        let late = waiting.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
        if late {
            let _ = Command::new("kill").arg(&pid).status();
        }
        late
    });
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        say(&line);
        line_seen(&line);
    }
    let status = child.wait()?;
    drop(ended);
    if guard.join().unwrap_or_default() {
        bail!("{command:?} was ended after {}", clock(limit));
    }
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

/// A line on standard output, where a log keeps it in order with the commands' own lines.
pub(crate) fn say(line: &str) {
    let _ = stderr().flush();
    let mut out = stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

fn clock(time: Duration) -> String {
    if time < Duration::from_secs(60) {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{}:{:02} min", time.as_secs() / 60, time.as_secs() % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_the_line_that_cargo_test_prints() {
        let line = "ok. 12 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out; finished in 0.10s";
        assert_eq!((count(line, " passed"), count(line, " ignored")), (12, 3));
    }
}
