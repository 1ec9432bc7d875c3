//! What `sandd doctor` says of a pair that no direct path can join, and of one that has it.

use std::time::Duration;

use anyhow::ensure;
use e2e::lab::{
    Derper, Headscale, HeadscaleOptions, NatKind, Relays, Run, SanddPath, eventually, probe::Pinger, story,
};
use serde_json::Value;

use crate::stage::{DIRECT, TUNED, headscale, two_nodes};

#[test]
fn two_hard_routers_are_named_with_what_would_help() {
    story(|lab| {
        // Two STUN servers: one alone cannot tell what kind of NAT there is.
        let _derper = Derper::start(lab)?;
        let relays = Relays::EmbeddedAndDerper;
        let headscale = Headscale::start(lab, &HeadscaleOptions { relays, ..TUNED })?;
        let (_site_a, a, _site_b, b) = lab.pair(NatKind::Hard, NatKind::Hard)?;
        let (node_a, node_b) = two_nodes(&headscale, &a, &b)?;
        let pinger = Pinger::start(a.namespace(), node_b.address()?, Duration::from_millis(100))?;
        pinger.first_answer(Duration::from_secs(10))?;
        eventually("the judgement", Duration::from_secs(20), || {
            let run = Run::of(&mut node_a.cli(&["doctor", "--json", b.name()]))?;
            let result: Value = serde_json::from_str(&run.stdout)?;
            let find = |topic: &str| {
                let all = result["findings"].as_array().into_iter().flatten();
                all.into_iter()
                    .find(|finding| finding["topic"] == topic)
                    .cloned()
                    .unwrap_or_default()
            };
            let (nat, peer) = (find("NAT"), find(&format!("peer {}", b.name())));
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            ensure!(
                nat["level"] == "warning" && text(&nat["text"]).starts_with("hard"),
                "{result:#}"
            );
            ensure!(peer["level"] == "warning", "{result:#}");
            ensure!(
                text(&peer["text"]).starts_with("relayed") && text(&peer["text"]).contains("hard NAT"),
                "{result:#}"
            );
            ensure!(text(&peer["cure"]).contains("UDP port 41641"), "{result:#}");
            ensure!(
                find("coordinator")["level"] == "ok" && find("relay")["level"] == "ok",
                "{result:#}"
            );
            ensure!(
                run.status.code() == Some(0),
                "it works, though by relay: {}",
                run.status
            );
            Ok(())
        })
    });
}

#[test]
fn a_direct_pair_is_well_and_a_missing_peer_is_no_answer() {
    story(|lab| {
        let headscale = headscale(lab)?;
        let (_site_a, a, _site_b, b) = lab.pair(NatKind::PortRestricted, NatKind::PortRestricted)?;
        let (node_a, node_b) = two_nodes(&headscale, &a, &b)?;
        let address_b = node_b.address()?;
        node_a.ping(b.name())?;
        node_a.wait_for_path(address_b, SanddPath::Direct, DIRECT)?;
        let run = Run::of(&mut node_a.cli(&["doctor", b.name()]))?;
        ensure!(
            run.status.success() && run.stdout.contains("direct 203.0.113."),
            "{}{}",
            run.stdout,
            run.stderr
        );
        ensure!(!run.stdout.contains('\x1b'), "colours without a terminal");
        let run = Run::of(&mut node_a.cli(&["doctor", "nobody"]))?;
        ensure!(
            run.status.code() == Some(1) && run.stderr.contains("no peer nobody"),
            "{}",
            run.stderr
        );
        let run = Run::of(&mut node_a.cli(&["netcheck", "--json"]))?;
        let report: Value = serde_json::from_str(&run.stdout)?;
        ensure!(
            report["udp"] == true && report["ipv4"] == true && report["relay_connected"] == true,
            "{report:#}"
        );
        Ok(())
    });
}
