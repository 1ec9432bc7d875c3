//! Our own coordinator serves real tailscaled clients, too.

use std::time::Duration;

use anyhow::Result;
use e2e::lab::{
    Coordinator, NatKind, Role, Sandd, SanddOptions, Tailscaled, TailscaledOptions, eventually, probe::Pinger, story,
};

use crate::stage::stream_arrives;

#[test]
fn tailscaled_and_ours_meet_at_our_coordinator() {
    story(|lab| {
        let coordinator = Coordinator::start(lab)?;
        let key = coordinator.create_key(&["--reusable"])?;
        let (_site_a, a, _site_b, b) = lab.pair(NatKind::PortRestricted, NatKind::PortRestricted)?;
        let theirs = Tailscaled::join(&b, &TailscaledOptions::default(), &coordinator.url(), &key)?;
        let ours = Sandd::join(
            &a,
            Role::Node,
            &SanddOptions::new(&coordinator.url(), Some(&key)).with_tun(),
        )?;
        both_ways(&ours, &theirs)?;
        stream_arrives(&a, &b, theirs.address()?, 10_000_000)
    });
}

#[test]
fn two_tailscaled_meet_at_our_coordinator() {
    story(|lab| {
        let coordinator = Coordinator::start(lab)?;
        let key = coordinator.create_key(&["--reusable"])?;
        let (_site_a, a, _site_b, b) = lab.pair(NatKind::PortRestricted, NatKind::PortRestricted)?;
        let node_a = Tailscaled::join(&a, &TailscaledOptions::default(), &coordinator.url(), &key)?;
        let node_b = Tailscaled::join(&b, &TailscaledOptions::default(), &coordinator.url(), &key)?;
        let pinger = Pinger::start(a.namespace(), node_b.address()?, Duration::from_millis(20))?;
        pinger.first_answer(Duration::from_secs(15))?;
        stream_arrives(&b, &a, node_a.address()?, 10_000_000)
    });
}

fn both_ways(ours: &Sandd<'_>, theirs: &Tailscaled<'_>) -> Result<()> {
    let pinger = Pinger::start(ours.host().namespace(), theirs.address()?, Duration::from_millis(20))?;
    pinger.first_answer(Duration::from_secs(15))?;
    let address = ours.address()?.to_string();
    eventually("tailscaled's ping of ours", Duration::from_secs(15), || {
        theirs.ping(&address)
    })
    .map(drop)
}
