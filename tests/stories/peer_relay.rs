//! Two hosts behind routers that no direct path gets through, and a third one that carries for them by UDP.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use e2e::lab::{
    Headscale, Host, Lab, NatKind, Role, Run, Sandd, SanddOptions, Site, Tailscaled, TailscaledOptions, eventually,
    probe::Pinger, story,
};
use serde_json::Value;

use crate::stage::TUNED;

const PORT: &str = "7777";
/// From a relay's first answer until packets take the peer's.
const RELAYED: Duration = Duration::from_secs(20);
const INTERVAL: Duration = Duration::from_millis(20);

/// Everybody may use the relay of the node whose address is `relay`.
fn policy(relay: Ipv4Addr) -> String {
    format!(
        r#"{{"grants": [
            {{"src": ["*"], "dst": ["*"], "ip": ["*"]}},
            {{"src": ["*"], "dst": ["{relay}"], "app": {{"tailscale.com/cap/relay": [{{}}]}}}}
        ]}}"#
    )
}

/// Headscale, the relay's host, `a` and `b`, and the hard routers before these two.
fn ground(lab: &Lab) -> Result<(Headscale<'_>, Host, Host, Host, [Site; 2])> {
    let headscale = Headscale::start(lab, &TUNED)?;
    let (site_a, a, site_b, b) = lab.pair(NatKind::Hard, NatKind::Hard)?;
    Ok((headscale, lab.public_host("relay")?, a, b, [site_a, site_b]))
}

/// The path from `node` to `peer` as `status` has it, when it leads over another peer.
fn peer_relay_of(node: &Sandd<'_>, peer: Ipv4Addr) -> Result<Value> {
    let status = node.status()?;
    let peers = status.get("peers").and_then(Value::as_array).context("no peers")?;
    let of = peers
        .iter()
        .find(|one| one["addresses"].to_string().contains(&format!("\"{peer}\"")))
        .context("not a peer")?;
    let path = of["path"].get("peer_relayed").cloned();
    path.with_context(|| format!("its path is {}", of["path"]))
}

fn wait_for_relay(node: &Sandd<'_>, peer: Ipv4Addr) -> Result<Value> {
    eventually("a path over the peer", RELAYED, || peer_relay_of(node, peer))
}

/// Waits until `count` more requests were answered.
fn more_answers(pinger: &Pinger, count: usize) -> Result<Duration> {
    let answered = || {
        let record = pinger.record_now();
        record.sent - record.lost
    };
    let (before, since) = (answered(), Instant::now());
    eventually(&format!("{count} more answers"), Duration::from_secs(20), || {
        let more = answered() - before;
        (more >= count)
            .then(|| since.elapsed())
            .with_context(|| format!("{more} so far"))
    })
}

#[test]
fn a_peer_carries_what_two_hard_routers_keep_apart() {
    story(|lab| {
        let (headscale, relay, a, b, _sites) = ground(lab)?;
        let key = headscale.reusable_key()?;
        let options = SanddOptions::new(headscale.url(), Some(&key));
        let mut server = Sandd::join(
            &relay,
            Role::Node,
            &options.clone().with_arguments(&["--peer-relay-port", PORT]),
        )?;
        headscale.set_policy(&policy(server.address()?))?;
        let with_tun = options.with_tun();
        let node_a = Sandd::join(&a, Role::Node, &with_tun)?;
        let node_b = Sandd::join(&b, Role::Node, &with_tun)?;
        let (address_a, address_b) = (node_a.address()?, node_b.address()?);
        let pinger = Pinger::start(a.namespace(), address_b, INTERVAL)?;
        pinger.first_answer(Duration::from_secs(10))?;
        let path = wait_for_relay(&node_a, address_b)?;
        ensure!(path["by"].to_string().contains("relay"), "no name in {path}");
        ensure!(path["addr"] == format!("{}:{PORT}", relay.address()), "{path}");
        wait_for_relay(&node_b, address_a)?;
        let text = Run::of(&mut node_a.cli(&["status"]))?.stdout;
        ensure!(text.contains("relayed by peer relay"), "{text}");
        more_answers(&pinger, 100)?;
        let carried = server.status()?["peer_relay"]["packets"].as_u64();
        ensure!(carried.is_some_and(|packets| packets >= 200), "carried {carried:?}");
        let lost = pinger.record_now().lost;
        ensure!(lost == 0, "{lost} lost on the way from DERP to the peer");

        server.process_mut().kill()?;
        let killed = Instant::now();
        more_answers(&pinger, 25)?;
        let silent = killed.elapsed().saturating_sub(INTERVAL * 25);
        println!("relay killed: {} ms until DERP carried on", silent.as_millis());
        ensure!(silent < Duration::from_secs(2), "silent for {silent:?}");
        eventually("DERP", RELAYED, || {
            ensure!(peer_relay_of(&node_a, address_b).is_err(), "still over the peer");
            Ok(())
        })?;
        more_answers(&pinger, 50)?;
        Ok(())
    });
}

#[test]
fn without_a_grant_nobody_is_carried() {
    story(|lab| {
        let (headscale, relay, a, b, _sites) = ground(lab)?;
        let key = headscale.reusable_key()?;
        let options = SanddOptions::new(headscale.url(), Some(&key));
        let serving = options.clone().with_arguments(&["--peer-relay-port", PORT]);
        let server = Sandd::join(&relay, Role::Node, &serving)?;
        let node_a = Sandd::join(&a, Role::Node, &options.clone().with_tun())?;
        let node_b = Sandd::join(&b, Role::Node, &options.with_tun())?;
        let address_b = node_b.address()?;
        let pinger = Pinger::start(a.namespace(), address_b, INTERVAL)?;
        pinger.first_answer(Duration::from_secs(10))?;
        more_answers(&pinger, 250)?;
        ensure!(peer_relay_of(&node_a, address_b).is_err(), "over the peer");
        ensure!(
            server.status()?["peer_relay"]["endpoints"] == 0,
            "an endpoint was given"
        );
        Ok(())
    });
}

#[test]
fn tailscaled_is_carried_by_our_relay() {
    story(|lab| {
        let (headscale, relay, a, b, _sites) = ground(lab)?;
        let key = headscale.reusable_key()?;
        let options = SanddOptions::new(headscale.url(), Some(&key));
        let serving = options.clone().with_arguments(&["--peer-relay-port", PORT]);
        let server = Sandd::join(&relay, Role::Node, &serving)?;
        headscale.set_policy(&policy(server.address()?))?;
        let ours = Sandd::join(&a, Role::Node, &options.with_tun())?;
        let theirs = Tailscaled::join(&b, &TailscaledOptions::default(), headscale.url(), &key)?;
        both_over(&ours, &theirs, &a, &format!("{}:{PORT}", relay.address()))?;
        let carried = server.status()?["peer_relay"]["packets"].as_u64();
        ensure!(carried.is_some_and(|packets| packets > 0), "carried {carried:?}");
        Ok(())
    });
}

#[test]
fn two_tailscaled_are_carried_by_our_relay() {
    story(|lab| {
        let (headscale, relay, a, b, _sites) = ground(lab)?;
        let key = headscale.reusable_key()?;
        let options = SanddOptions::new(headscale.url(), Some(&key)).with_arguments(&["--peer-relay-port", PORT]);
        let server = Sandd::join(&relay, Role::Node, &options)?;
        headscale.set_policy(&policy(server.address()?))?;
        let options = TailscaledOptions::default();
        let left = Tailscaled::join(&a, &options, headscale.url(), &key)?;
        let right = Tailscaled::join(&b, &options, headscale.url(), &key)?;
        let addr = format!("{}:{PORT}", relay.address());
        let pinger = Pinger::start(a.namespace(), right.address()?, INTERVAL)?;
        pinger.first_answer(Duration::from_secs(20))?;
        eventually("the relay in tailscaled's status", RELAYED * 2, || {
            relay_in_status(&left, right.address()?, &addr)
        })?;
        more_answers(&pinger, 100)?;
        let carried = server.status()?["peer_relay"]["packets"].as_u64();
        ensure!(carried.is_some_and(|packets| packets >= 100), "carried {carried:?}");
        Ok(())
    });
}

#[test]
fn we_are_carried_by_tailscaleds_relay() {
    story(|lab| {
        let (headscale, relay, a, b, _sites) = ground(lab)?;
        let key = headscale.reusable_key()?;
        let server = Tailscaled::join(&relay, &TailscaledOptions::default(), headscale.url(), &key)?;
        let set = Run::of(&mut server.cli(&["set", &format!("--relay-server-port={PORT}")]))?;
        ensure!(set.status.success(), "tailscale set: {}", set.stderr);
        headscale.set_policy(&policy(server.address()?))?;
        let options = SanddOptions::new(headscale.url(), Some(&key)).with_tun();
        let node_a = Sandd::join(&a, Role::Node, &options)?;
        let node_b = Sandd::join(&b, Role::Node, &options)?;
        let (address_a, address_b) = (node_a.address()?, node_b.address()?);
        let pinger = Pinger::start(a.namespace(), address_b, INTERVAL)?;
        pinger.first_answer(Duration::from_secs(10))?;
        eventually("a path over tailscaled", RELAYED * 2, || {
            peer_relay_of(&node_a, address_b)
        })?;
        wait_for_relay(&node_b, address_a)?;
        more_answers(&pinger, 100)?;
        Ok(())
    });
}

/// Our node on `a` and a tailscaled both say that they reach each other over the relay at `addr`, and packets pass.
fn both_over(ours: &Sandd<'_>, theirs: &Tailscaled<'_>, a: &Host, addr: &str) -> Result<()> {
    let (own, other) = (ours.address()?, theirs.address()?);
    let pinger = Pinger::start(a.namespace(), other, INTERVAL)?;
    pinger.first_answer(Duration::from_secs(20))?;
    let path = eventually("a path over the peer", RELAYED * 2, || peer_relay_of(ours, other))?;
    ensure!(path["addr"] == addr, "{path}");
    eventually("the relay in tailscaled's status", RELAYED, || {
        relay_in_status(theirs, own, addr)
    })?;
    more_answers(&pinger, 100)?;
    Ok(())
}

fn relay_in_status(node: &Tailscaled<'_>, peer: Ipv4Addr, addr: &str) -> Result<()> {
    let status = node.status()?;
    let peers = status.get("Peer").and_then(Value::as_object).context("no peers")?;
    let of = peers
        .values()
        .find(|one| one["TailscaleIPs"].to_string().contains(&format!("\"{peer}\"")))
        .context("not a peer")?;
    let relay = of["PeerRelay"].as_str().unwrap_or_default();
    ensure!(relay.starts_with(addr), "PeerRelay is {relay:?}");
    Ok(())
}
