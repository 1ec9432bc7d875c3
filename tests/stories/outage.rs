//! The coordinator goes away and comes back.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::lab::{Lab, NatKind, Role, Sandd, SanddOptions, SanddPath, eventually, probe::Pinger, story};

use crate::stage::{DIRECT, headscale, two_nodes};

/// How long Headscale is away: `SANDD_E2E_OUTAGE_SECS`, 10 by default, 60 for the figures.
fn outage() -> Duration {
    let seconds = std::env::var("SANDD_E2E_OUTAGE_SECS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(10);
    Duration::from_secs(seconds)
}

#[test]
fn a_direct_path_does_not_notice_that_headscale_is_gone() {
    story(headscale_goes_away);
}

fn headscale_goes_away(lab: &Lab) -> Result<()> {
    let mut headscale = headscale(lab)?;
    let (_site_a, a, _site_b, b) = lab.pair(NatKind::PortRestricted, NatKind::PortRestricted)?;
    let (node_a, node_b) = two_nodes(&headscale, &a, &b)?;
    let (address_a, address_b) = (node_a.address()?, node_b.address()?);
    let pinger = Pinger::start(a.namespace(), address_b, Duration::from_millis(10))?;
    pinger.first_answer(Duration::from_secs(10))?;
    node_a.wait_for_path(address_b, SanddPath::Direct, DIRECT)?;
    node_b.wait_for_path(address_a, SanddPath::Direct, DIRECT)?;

    headscale.kill()?;
    let sent = pinger.record_now().sent;
    let rounds = usize::try_from(outage().as_millis() / 10)?;
    eventually("the outage's end", outage() * 3, || {
        (pinger.record_now().sent >= sent + rounds)
            .then_some(())
            .context("not yet")
    })?;
    headscale.restart()?;
    for node in [&node_a, &node_b] {
        eventually("the resync", Duration::from_secs(5), || {
            let state = node.control_state()?;
            (state == "\"connected\"")
                .then_some(())
                .with_context(|| format!("{} is {state}", node.host().name()))
        })?;
    }
    // The relay died with Headscale and is back as well.
    eventually("the relay", Duration::from_secs(10), || {
        let status = node_a.status()?.to_string();
        status
            .contains("\"relay_connected\":true")
            .then_some(())
            .context("no relay")
    })?;
    pinger.stop().ensure_nothing_lost()?;
    Ok(())
}

#[test]
fn a_node_starts_and_reaches_its_peer_while_headscale_is_gone() {
    story(|lab| {
        let mut headscale = headscale(lab)?;
        let (_site_a, a, _site_b, b) = lab.pair(NatKind::PortRestricted, NatKind::FullCone)?;
        let (node_a, node_b) = two_nodes(&headscale, &a, &b)?;
        let (address_a, address_b) = (node_a.address()?, node_b.address()?);
        let pinger = Pinger::start(a.namespace(), address_b, Duration::from_millis(20))?;
        pinger.first_answer(Duration::from_secs(10))?;
        node_a.wait_for_path(address_b, SanddPath::Direct, DIRECT)?;
        drop(pinger);
        node_a.stop()?;
        headscale.kill()?;

        let node_a = Sandd::join(&a, Role::Node, &SanddOptions::new(headscale.url(), None).with_tun())?;
        ensure!(node_a.address()? == address_a, "another address from the stored map");
        let pinger = Pinger::start(a.namespace(), address_b, Duration::from_millis(20))?;
        pinger
            .first_answer(Duration::from_secs(15))
            .context("with stored endpoints alone")?;
        Ok(())
    });
}
