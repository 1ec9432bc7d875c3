//! One stream at full rate for so long that sessions are renewed many times: what of it was lost. Only when it is asked for.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::start;
use crate::{
    engine::{Engine, Pair},
    load::iperf::{self, Flow},
    run::Bench,
};

/// The cell's name.
const CELL: &str = "endurance";

/// How often the age of the session is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// The one run of ours.
pub(crate) fn endurance(bench: &mut Bench) {
    if !bench.options.only.iter().any(|only| only == CELL) {
        return;
    }
    bench.in_lab(Engine::Sandd, CELL, |bench, lab| {
        let hosts = (lab.public_host("a")?, lab.public_host("b")?);
        let started = start(Engine::Sandd, lab, &hosts)?;
        measure(bench, &started.pair)
    });
}

fn measure(bench: &mut Bench, pair: &Pair<'_>) -> Result<()> {
    let length = Duration::from_secs(60 * bench.options.minutes);
    let _server = iperf::Server::start(pair.b)?;
    let before = records_lost(pair)?;
    let mut stream = iperf::command(pair.a, pair.address, Flow::Tcp(1), length)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("iperf3 did not start")?;
    let (began, mut rekeys, mut age) = (Instant::now(), 0.0, 0);
    while began.elapsed() < length + LOOK && stream.try_wait()?.is_none() {
        std::thread::sleep(LOOK);
        let now = session_age(pair)?;
        if now < age {
            rekeys += 1.0;
        }
        age = now;
    }
    let output = stream.wait_with_output()?;
    let outcome = iperf::read(&String::from_utf8_lossy(&output.stdout))?;
    // What is still on its way arrives.
    std::thread::sleep(Duration::from_secs(1));
    let after = records_lost(pair)?;
    bench.add("endurance_minutes", Engine::Sandd, length.as_secs_f64() / 60.0);
    bench.add("endurance_gbit", Engine::Sandd, outcome.bits_per_second / 1e9);
    bench.add("endurance_retransmits", Engine::Sandd, outcome.retransmits);
    bench.add("endurance_rekeys", Engine::Sandd, rekeys);
    bench.add("endurance_records_lost", Engine::Sandd, after - before);
    Ok(())
}

/// What one end sealed and the other did not let in, both ways together.
fn records_lost(pair: &Pair<'_>) -> Result<f64> {
    let [a, b] = pair.statuses()?;
    let count = |status: &Value, name: &str| {
        let counter = status.pointer(&format!("/counters/{name}")).and_then(Value::as_f64);
        counter.with_context(|| format!("no counter {name}"))
    };
    let sealed = count(&a, "packets_out")? + count(&b, "packets_out")?;
    Ok(sealed - count(&a, "packets_in")? - count(&b, "packets_in")?)
}

fn session_age(pair: &Pair<'_>) -> Result<u64> {
    let [a, _] = pair.statuses()?;
    let age = a.pointer("/peers/0/session_age_secs").and_then(Value::as_u64);
    Ok(age.unwrap_or_default())
}
