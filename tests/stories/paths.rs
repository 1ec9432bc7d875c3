//! How a path becomes direct, dies, and comes back, under a steady row of echo requests.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::lab::{NatKind, Obstacle, Role, Sandd, SanddOptions, SanddPath, Site, eventually, probe::Pinger, story};

use crate::stage::{DIRECT, headscale, two_nodes};

/// Between two echo requests.
const INTERVAL: Duration = Duration::from_millis(10);

#[test]
fn no_ping_is_lost_on_the_change_from_relay_to_direct() {
    story(|lab| {
        let headscale = headscale(lab)?;
        let (site_a, a, site_b, b) = lab.pair(NatKind::PortRestricted, NatKind::PortRestricted)?;
        block(&site_a, &site_b)?;
        let (node_a, node_b) = two_nodes(&headscale, &a, &b)?;
        let (address_a, address_b) = (node_a.address()?, node_b.address()?);
        let pinger = Pinger::start(a.namespace(), address_b, INTERVAL)?;
        pinger.first_answer(Duration::from_secs(10))?;
        ensure!(node_a.path(address_b)? == SanddPath::Relayed, "not relayed at first");
        site_a.clear()?;
        site_b.clear()?;
        node_a.wait_for_path(address_b, SanddPath::Direct, Duration::from_secs(30))?;
        node_b.wait_for_path(address_a, SanddPath::Direct, DIRECT)?;
        more_answers(&pinger, 200)?;
        pinger.stop().ensure_nothing_lost()?;
        Ok(())
    });
}

#[test]
fn a_direct_path_that_dies_gives_way_to_the_relay_and_comes_back() {
    story(|lab| {
        let headscale = headscale(lab)?;
        let (site_a, a, site_b, b) = lab.pair(NatKind::PortRestricted, NatKind::PortRestricted)?;
        let (node_a, node_b) = two_nodes(&headscale, &a, &b)?;
        let (address_a, address_b) = (node_a.address()?, node_b.address()?);
        let pinger = Pinger::start(a.namespace(), address_b, INTERVAL)?;
        pinger.first_answer(Duration::from_secs(10))?;
        node_a.wait_for_path(address_b, SanddPath::Direct, DIRECT)?;
        node_b.wait_for_path(address_a, SanddPath::Direct, DIRECT)?;

        block(&site_a, &site_b)?;
        node_a.wait_for_path(address_b, SanddPath::Relayed, Duration::from_secs(15))?;
        more_answers(&pinger, 100).context("over the relay")?;

        site_a.clear()?;
        site_b.clear()?;
        node_a.wait_for_path(address_b, SanddPath::Direct, Duration::from_secs(45))?;
        more_answers(&pinger, 100).context("on the direct path again")?;
        Ok(())
    });
}

#[test]
fn a_hard_router_keeps_us_on_the_relay_and_traffic_flows() {
    story(|lab| {
        let headscale = headscale(lab)?;
        let (_site_a, a, _site_b, b) = lab.pair(NatKind::Hard, NatKind::PortRestricted)?;
        let key = headscale.reusable_key()?;
        let options = SanddOptions::new(headscale.url(), Some(&key)).with_tun();
        let options = options.with_arguments(&["--no-port-guessing"]);
        let node_a = Sandd::join(&a, Role::Node, &options)?;
        let node_b = Sandd::join(&b, Role::Node, &options)?;
        let (address_a, address_b) = (node_a.address()?, node_b.address()?);
        let pinger = Pinger::start(a.namespace(), address_b, INTERVAL)?;
        pinger.first_answer(Duration::from_secs(10))?;
        more_answers(&pinger, 500)?;
        ensure!(node_a.path(address_b)? == SanddPath::Relayed, "a says otherwise");
        ensure!(node_b.path(address_a)? == SanddPath::Relayed, "b says otherwise");
        Ok(())
    });
}

fn block(left: &Site, right: &Site) -> Result<()> {
    left.obstruct(Obstacle::Pair(right.wan()))?;
    right.obstruct(Obstacle::Pair(left.wan()))
}

/// Waits until `count` more requests were answered.
fn more_answers(pinger: &Pinger, count: usize) -> Result<()> {
    let answered = |record: e2e::lab::probe::PingRecord| record.sent - record.lost;
    let before = answered(pinger.record_now());
    eventually(&format!("{count} more answers"), Duration::from_secs(20), || {
        let now = answered(pinger.record_now());
        (now >= before + count)
            .then_some(())
            .with_context(|| format!("{} so far", now - before))
    })
}
