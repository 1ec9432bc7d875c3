//! Programs that carry the mesh in themselves: ours (`mesh-stream`) and its twin on tsnet, one stream between two of a kind.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use e2e::lab::{Host, Process, built_beside, eventually};
use serde_json::Value;

use super::{Engine, MTU, mesh::Ticket};
use crate::usage::Usage;

const PORT: u16 = 5_201;

/// How long a program may take for each of its steps beyond the stream itself.
const STEP: Duration = Duration::from_secs(40);

/// What one stream came to.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// What the sink took, bit/s.
    pub bits_per_second: f64,
    /// CPU seconds of both processes for each GB.
    pub cpu_per_gb: f64,
    /// The most memory that the sending and the taking process had, MiB.
    pub peaks_mib: [f64; 2],
}

/// One stream from `a` to `b`.
pub fn run(engine: Engine, a: &Host, b: &Host, ticket: &Ticket, length: Duration) -> Result<Outcome> {
    let mut sink = start(engine, b, ticket, &["sink", &PORT.to_string()])?;
    said(&mut sink, "listening", STEP)?;
    let address = said(&mut sink, "addresses", STEP)?
        .pointer("/0")
        .and_then(Value::as_str)
        .context("no address")?
        .to_owned();
    let seconds = length.as_secs_f64().to_string();
    let mut send = start(engine, a, ticket, &["send", &address, &PORT.to_string(), &seconds])?;
    let path = said(&mut send, "path", STEP)?;
    if path != "direct" {
        bail!("the path is {path}");
    }
    said(&mut send, "streaming", STEP)?;
    let usage = |processes: [&Process; 2]| Usage::of_all(processes.map(Process::pid));
    let before = usage([&send, &sink])?;
    let (bytes, took) = eventually("the end of the stream", length * 3 + STEP, || {
        if !send.is_running() || !sink.is_running() {
            bail!("it broke off:\n{}{}", send.log(), sink.log());
        }
        let lines = lines(&sink, "received");
        let [_warm_up, line] = lines.as_slice() else {
            bail!("{} streams have ended", lines.len());
        };
        let figure = |key: &str| line.get(key).and_then(Value::as_f64).context("an odd line");
        Ok((figure("received")?, figure("seconds")?))
    })?;
    let after = usage([&send, &sink])?;
    Ok(Outcome {
        bits_per_second: bytes * 8.0 / took,
        cpu_per_gb: (after.cpu - before.cpu).as_secs_f64() / (bytes / 1e9),
        peaks_mib: [Usage::of(send.pid())?.peak_mib, Usage::of(sink.pid())?.peak_mib],
    })
}

fn start(engine: Engine, host: &Host, ticket: &Ticket, verb: &[&str]) -> Result<Process> {
    let program = if engine == Engine::Sandd {
        built_beside("mesh-stream")
    } else {
        engine.program().context("no program")?
    };
    let mut command = host.command(program);
    command
        .args([&ticket.server, host.name()])
        .args(verb)
        .env("BENCH_AUTH_KEY", &ticket.key)
        .env("TS_NO_LOGS_NO_SUPPORT", "true")
        // Ours has this size by itself.
        .env("TS_DEBUG_MTU", MTU.to_string());
    Process::start(
        &format!("{}-{}", engine.name(), host.name()),
        host.directory(),
        &mut command,
    )
}

/// The lines of JSON so far that have `key`.
fn lines(process: &Process, key: &str) -> Vec<Value> {
    let log = process.log();
    let values = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    values.filter(|value| value.get(key).is_some()).collect()
}

/// Waits until it says `key`, and returns what it says.
fn said(process: &mut Process, key: &str, deadline: Duration) -> Result<Value> {
    eventually(&format!("the word {key:?}"), deadline, || {
        if let Some(value) = lines(process, key).first().and_then(|line| line.get(key)) {
            return Ok(value.clone());
        }
        if !process.is_running() {
            bail!("it ended:\n{}", process.log());
        }
        bail!("not yet")
    })
}
