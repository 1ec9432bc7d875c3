//! What a node costs that has joined, has a peer, and does nothing.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{Contestant, NodeOptions};
use crate::lab::{
    Device, Headscale, HeadscaleOptions, Lab, NatKind, Process, Relays, Role, Sandd, SanddOptions, Timings, eventually,
    probe::Pinger, run,
};

/// How long a node may settle before it counts as idle.
const SETTLE: Duration = Duration::from_secs(15);

/// What an idle node costs does not depend on how long its joining took.
const TUNED: HeadscaleOptions = HeadscaleOptions {
    timings: Timings::Tuned,
    plain_http: false,
    policy: None,
    relays: Relays::Embedded,
};

/// The cost of an idle node.
#[derive(Debug, Clone, Serialize)]
pub struct IdleCost {
    /// What was watched.
    pub what: String,
    /// Resident memory, MiB.
    pub rss_mib: f64,
    /// The part of it that is heap and stacks, MiB.
    pub anonymous_mib: f64,
    /// Share of one core, per cent.
    pub cpu_percent: f64,
    /// Threads.
    pub threads: u64,
    /// How long it was watched, seconds.
    pub watched_s: f64,
}

/// Lets two nodes join, talk once, settle, and watches the one without interface for `watch`.
pub fn idle_node(contestant: Contestant, watch: Duration) -> Result<IdleCost> {
    let lab = Lab::open()?;
    let headscale = Headscale::start(&lab, &TUNED)?;
    let key = headscale.reusable_key()?;
    let (_site_a, a, _site_b, b) = lab.pair(NatKind::PortRestricted, NatKind::PortRestricted)?;
    // The pinging side needs an interface.
    let options = NodeOptions::new(headscale.url(), Some(&key));
    let userspace = NodeOptions {
        device: Device::Userspace,
        ..options
    };
    let mut other = contestant.start(&b, &options)?;
    let mut watched = contestant.start(&a, &userspace)?;
    other.address()?;
    let pinger = Pinger::start(b.namespace(), watched.address()?, Duration::from_millis(100))?;
    pinger.first_answer(Duration::from_secs(20))?;
    let _ = pinger.stop();
    cost(format!("{contestant:?} node"), watched.process(), watch)
}

/// Watches a daemon in tunnel mode that is registered at its controller and has nothing to do but heartbeats.
pub fn idle_daemon(watch: Duration) -> Result<IdleCost> {
    let lab = Lab::open()?;
    let headscale = Headscale::start(&lab, &TUNED)?;
    let key = headscale.reusable_key()?;
    let (_site_a, a, _site_b, b) = lab.pair(NatKind::PortRestricted, NatKind::PortRestricted)?;
    let options = SanddOptions::new(headscale.url(), Some(&key));
    let controller = Sandd::join(&b, Role::Controller, &options)?;
    let options = options.with_arguments(&["--server-url", "ws://b:8765/ws", "--daemon-id", "idle"]);
    let daemon = Sandd::join(&a, Role::Daemon, &options)?;
    eventually("the daemon's registration", Duration::from_secs(20), || {
        let listed = run(&mut controller.controller_cli("daemons", &["--json"]))?;
        listed.contains("idle").then_some(()).context(listed)
    })?;
    cost("Sandd daemon".to_owned(), daemon.process(), watch)
}

fn cost(what: String, process: &Process, watch: Duration) -> Result<IdleCost> {
    thread::sleep(SETTLE);
    let (before, started) = (process.usage()?, Instant::now());
    thread::sleep(watch);
    let (after, elapsed) = (process.usage()?, started.elapsed());
    let spent = after.cpu.saturating_sub(before.cpu);
    Ok(IdleCost {
        what,
        rss_mib: mib(after.rss_kib),
        anonymous_mib: mib(after.anonymous_kib),
        cpu_percent: 100.0 * spent.as_secs_f64() / elapsed.as_secs_f64(),
        threads: after.threads,
        watched_s: elapsed.as_secs_f64(),
    })
}

fn mib(kib: u64) -> f64 {
    f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / 1024.0
}
