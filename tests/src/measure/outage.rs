//! What the loss of the coordinator costs, and how soon a node knows that it was removed.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::lab::{
    Device, Headscale, HeadscaleOptions, Lab, NatKind, Relays, Role, Sandd, SanddOptions, SanddPath, Timings,
    eventually, probe::Pinger,
};

const TUNED: HeadscaleOptions = HeadscaleOptions {
    timings: Timings::Tuned,
    plain_http: false,
    policy: None,
    relays: Relays::Embedded,
};

/// Between two echo requests.
const INTERVAL: Duration = Duration::from_millis(10);

/// The figures of one outage.
#[derive(Debug, Clone, Serialize)]
pub struct OutageFigures {
    /// How long Headscale, and with it the relay, was away, seconds.
    pub away_s: f64,
    /// Echo requests on the direct path, from before the outage to after the return.
    pub sent: usize,
    /// How many of them went unanswered.
    pub lost: usize,
    /// The longest time between two answers, milliseconds.
    pub longest_silence_ms: f64,
    /// From Headscale's first answer until both nodes hold their map stream again, milliseconds.
    pub resync_ms: f64,
    /// From the first contact after a removal until the node says that it was removed, milliseconds.
    pub removal_said_ms: f64,
}

/// Kills Headscale for `away` under traffic, brings it back; then removes a node.
pub fn outage(away: Duration) -> Result<OutageFigures> {
    let lab = Lab::open()?;
    let mut headscale = Headscale::start(&lab, &TUNED)?;
    let key = headscale.reusable_key()?;
    let (_site_a, a, _site_b, b) = lab.pair(NatKind::PortRestricted, NatKind::PortRestricted)?;
    let mut options = SanddOptions::new(headscale.url(), Some(&key));
    options.device = Device::Tun;
    let node_a = Sandd::join(&a, Role::Node, &options)?;
    let node_b = Sandd::join(&b, Role::Node, &options)?;
    let (address_a, address_b) = (node_a.address()?, node_b.address()?);
    let pinger = Pinger::start(a.namespace(), address_b, INTERVAL)?;
    pinger.first_answer(Duration::from_secs(10))?;
    node_a.wait_for_path(address_b, SanddPath::Direct, Duration::from_secs(10))?;
    node_b.wait_for_path(address_a, SanddPath::Direct, Duration::from_secs(10))?;

    headscale.kill()?;
    let gone = Instant::now();
    eventually("the outage's end", away * 2, || {
        (gone.elapsed() >= away).then_some(()).context("not yet")
    })?;
    let away_s = gone.elapsed().as_secs_f64();
    let resync_ms = milliseconds(back_in_step(&mut headscale, &[&node_a, &node_b])?);
    let record = pinger.stop();

    let id = headscale.node("a")?.id;
    headscale.delete_node(id)?;
    // Headscale tells a removed node nothing; its next contact does.
    headscale.kill()?;
    headscale.restart()?;
    let contact = Instant::now();
    eventually("the word that it was removed", Duration::from_secs(90), || {
        node_a
            .process()
            .log()
            .to_lowercase()
            .contains("removed")
            .then_some(())
            .context("its log does not say so")
    })?;
    Ok(OutageFigures {
        away_s,
        sent: record.sent,
        lost: record.lost,
        longest_silence_ms: milliseconds(record.longest_silence),
        resync_ms,
        removal_said_ms: milliseconds(contact.elapsed()),
    })
}

/// Starts Headscale again and measures until all `nodes` are in step with it.
fn back_in_step(headscale: &mut Headscale<'_>, nodes: &[&Sandd<'_>]) -> Result<Duration> {
    headscale.restart()?;
    let back = Instant::now();
    for node in nodes {
        eventually("the resync", Duration::from_secs(60), || {
            let state = node.control_state()?;
            (state == "\"connected\"").then_some(()).context(state)
        })?;
    }
    Ok(back.elapsed())
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}
