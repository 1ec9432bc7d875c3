//! What a node costs that has joined, has a peer, and does nothing.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde::Serialize;

use super::Contestant;
use crate::lab::{Device, Headscale, HeadscaleOptions, Lab, NatKind, Timings, probe::Pinger};

/// How long a node may settle before it counts as idle.
const SETTLE: Duration = Duration::from_secs(15);

/// The cost of an idle node.
#[derive(Debug, Clone, Serialize)]
pub struct IdleCost {
    /// Whose.
    pub contestant: Contestant,
    /// Without an interface, as a daemon runs by default, or with one.
    pub userspace: bool,
    /// Resident memory, MiB.
    pub rss_mib: f64,
    /// Share of one core, per cent.
    pub cpu_percent: f64,
    /// Threads.
    pub threads: u64,
    /// How long it was watched, seconds.
    pub watched_s: f64,
}

/// Lets two nodes join, talk once, settle, and watches one of them for `watch`.
pub fn idle_cost(contestant: Contestant, device: Device, watch: Duration) -> Result<IdleCost> {
    let lab = Lab::open()?;
    let headscale = Headscale::start(
        &lab,
        &HeadscaleOptions {
            timings: Timings::Tuned,
            ..HeadscaleOptions::default()
        },
    )?;
    let key = headscale.reusable_key()?;
    let (_site_a, a, _site_b, b) = lab.pair(NatKind::PortRestricted, NatKind::PortRestricted)?;
    // The pinging side needs an interface; the watched one is as asked.
    let other = contestant.start(&b, Device::Tun, headscale.url(), Some(&key))?;
    let watched = contestant.start(&a, device, headscale.url(), Some(&key))?;
    other.address()?;
    let pinger = Pinger::start(b.namespace(), watched.address()?, Duration::from_millis(100))?;
    pinger.first_answer(Duration::from_secs(20))?;
    let _ = pinger.stop();
    thread::sleep(SETTLE);
    let (before, started) = (watched.process().usage()?, Instant::now());
    thread::sleep(watch);
    let (after, elapsed) = (watched.process().usage()?, started.elapsed());
    let spent = after.cpu.saturating_sub(before.cpu);
    Ok(IdleCost {
        contestant,
        userspace: device == Device::Userspace,
        rss_mib: f64::from(u32::try_from(after.rss_kib).unwrap_or(u32::MAX)) / 1024.0,
        cpu_percent: 100.0 * spent.as_secs_f64() / elapsed.as_secs_f64(),
        threads: after.threads,
        watched_s: elapsed.as_secs_f64(),
    })
}
