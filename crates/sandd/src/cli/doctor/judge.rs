//! What the facts mean for this node as a whole. Pure.

use sandd_mesh::{MeshStatus, NetReport, PeerPath};

use super::Finding;
use super::gather::{ControlAnswer, Facts};

const DAY: u64 = 86_400;
/// A key that ends so soon is worth a word.
const KEY_SOON: u64 = 7 * DAY;
/// Clocks that differ by more are told of; certificates and handshakes depend on them.
const SKEW: u64 = 30;
const SKEW_BAD: u64 = 300;
/// The smallest packet of the mesh with everything around it, over IPv6.
const LEAST_MTU: u32 = 1_280 + 80;

/// One finding or more for each topic, in the order in which a person would look.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(why) = &facts.not_running {
        findings.push(Finding::problem(
            "node",
            why.clone(),
            "start it, for instance with `sandd up --tunnel-server URL --tunnel-authkey file:PATH`",
        ));
    }
    if let Some(status) = &facts.status {
        findings.push(Finding::ok("node", name_of(status)));
        findings.push(control(status, facts.control.as_ref()));
        findings.extend(
            status
                .warnings
                .iter()
                .map(|warning| Finding::warning("coordinator", format!("it says: {warning}"), "ask whoever runs it")),
        );
        findings.extend(clock(facts.control.as_ref()));
        findings.push(key(status, facts.now));
    }
    if let Some(report) = &facts.report {
        let port = facts.status.as_ref().map(|status| status.port);
        findings.push(udp(report));
        findings.push(relay(report));
        findings.push(nat(report, port));
    }
    findings.extend(facts.status.as_ref().map(|status| mtu(status, facts.underlay_mtu)));
    findings.extend(rights(facts));
    findings
}

fn name_of(status: &MeshStatus) -> String {
    let addresses: Vec<String> = status.addresses.iter().map(ToString::to_string).collect();
    let name = status.name.as_deref().unwrap_or("without a name yet");
    format!("{name} {}", addresses.join(" ")).trim_end().to_owned()
}

fn control(status: &MeshStatus, answer: Option<&ControlAnswer>) -> Finding {
    let topic = "coordinator";
    let url = &status.coordinator;
    if let Some(login) = &status.control.login_url {
        return Finding::problem(topic, "a person must log this node in", format!("open {login}"));
    }
    match answer {
        Some(ControlAnswer::BadCertificate(error)) => Finding::problem(
            topic,
            format!("{url} shows a certificate that is not trusted: {error}"),
            "give its CA with --ca-file, mend its certificate, or look for a proxy that intercepts TLS",
        ),
        Some(ControlAnswer::Unreachable(error)) => Finding::problem(
            topic,
            format!("{url} cannot be reached: {error}"),
            "is it running, and does a firewall let its port through? The mesh goes on with what it knows meanwhile",
        ),
        Some(ControlAnswer::Answered { .. }) | None if status.control.state == "connected" => {
            Finding::ok(topic, format!("{url} is connected"))
        }
        Some(ControlAnswer::Answered { .. }) | None => {
            let error = status.control.error.as_deref().unwrap_or("no error is known");
            Finding::problem(
                topic,
                format!("{url} is {}: {error}", status.control.state),
                "it answers plain requests, so look at this node's key and at the coordinator's log",
            )
        }
    }
}

fn clock(answer: Option<&ControlAnswer>) -> Option<Finding> {
    let Some(ControlAnswer::Answered { ahead: Some(ahead) }) = answer else {
        return None;
    };
    let off = ahead.unsigned_abs();
    let side = if *ahead > 0 { "behind" } else { "ahead of" };
    let text = format!("this clock is {off} s {side} the coordinator's");
    let cure = "set the clock of whichever is wrong, best by NTP: certificates and handshakes depend on it";
    Some(match off {
        0..SKEW => Finding::ok("clock", "agrees with the coordinator's"),
        SKEW..SKEW_BAD => Finding::warning("clock", text, cure),
        SKEW_BAD.. => Finding::problem("clock", text, cure),
    })
}

fn key(status: &MeshStatus, now: u64) -> Finding {
    let renew = "log in again, or have its expiry turned off at the coordinator";
    match status.key_expiry {
        None => Finding::ok("key", "does not end"),
        Some(end) if end <= now => Finding::problem("key", "has ended", renew),
        Some(end) if end - now <= KEY_SOON => Finding::warning("key", format!("ends in {}", days(end - now)), renew),
        Some(end) => Finding::ok("key", format!("ends in {}", days(end - now))),
    }
}

fn days(seconds: u64) -> String {
    match seconds / DAY {
        0 => format!("{} hours", seconds / 3_600),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

fn udp(report: &NetReport) -> Finding {
    if let Some(obstacle) = &report.obstacle {
        return Finding::problem(
            "network",
            obstacle.clone(),
            "then start again; until then nothing gets through",
        );
    }
    if !report.udp {
        return Finding::warning(
            "UDP",
            "UDP is blocked here: no STUN server answers, and everything goes by relay",
            "let UDP out, at least to port 3478 and the peers' ports (41641 by default)",
        );
    }
    let seen: Vec<String> = report.public_addresses.iter().map(ToString::to_string).collect();
    Finding::ok("UDP", format!("works, seen as {}", seen.join(" ")))
}

fn relay(report: &NetReport) -> Finding {
    let Some(home) = report.home_region else {
        return Finding::problem(
            "relay",
            "there is none: peers can reach this node directly or not at all",
            "give the coordinator a relay (DERP) map, or turn its own relay on",
        );
    };
    let latency = report.regions.iter().find(|region| region.region == home);
    let latency = latency.and_then(|region| region.latency_ms);
    let latency = latency.map(|ms| format!(", {ms:.1} ms away")).unwrap_or_default();
    match (&report.relay_trouble, report.relay_connected) {
        (None, true) => Finding::ok("relay", format!("region {home} is connected{latency}")),
        (Some(trouble), true) => Finding::warning("relay", trouble.clone(), "ask whoever runs the relay"),
        (trouble, false) => Finding::problem(
            "relay",
            format!(
                "region {home} is not connected: {}",
                trouble.as_deref().unwrap_or("it is being tried")
            ),
            "is it running, does a firewall let its TCP port through, and is its certificate right?",
        ),
    }
}

fn nat(report: &NetReport, port: Option<u16>) -> Finding {
    if let Some(mapped) = report.port_mapped {
        return Finding::ok("NAT", format!("the router maps {mapped} to this node"));
    }
    match (report.udp, report.mapping_varies) {
        (true, Some(true)) => Finding::warning(
            "NAT",
            "hard: it gives each destination another port, so peers behind hard NATs are reached by relay alone",
            format!(
                "forward UDP port {} to this host, or turn UPnP, NAT-PMP or PCP on in the router",
                port.map_or("of this node".to_owned(), |port| port.to_string())
            ),
        ),
        (true, Some(false)) => Finding::ok("NAT", "easy: the same port for all destinations"),
        (false, _) | (true, None) => Finding::ok("NAT", "of unknown kind: it takes two STUN servers or a peer to tell"),
    }
}

fn mtu(status: &MeshStatus, underlay: Option<u32>) -> Finding {
    if let Some(mtu) = underlay.filter(|mtu| *mtu < LEAST_MTU) {
        return Finding::problem(
            "MTU",
            format!("the network takes {mtu} bytes a packet, and the smallest of the mesh need {LEAST_MTU}"),
            format!("raise the interface's MTU to {LEAST_MTU} or more; until then the relay carries what it can"),
        );
    }
    let direct = status
        .peers
        .iter()
        .filter(|peer| matches!(peer.path, PeerPath::Direct(_)));
    let proven = direct.map(|peer| peer.mtu).filter(|mtu| *mtu > 0).min();
    let proven = proven.map(|mtu| format!("; direct paths carry {mtu} bytes inside the tunnel"));
    let underlay = underlay.map_or("unknown below the mesh".to_owned(), |mtu| {
        format!("{mtu} below the mesh")
    });
    Finding::ok("MTU", format!("{underlay}{}", proven.unwrap_or_default()))
}

fn rights(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some((directory, wrong)) = &facts.state_dir {
        findings.push(match wrong {
            None => Finding::ok("state", format!("{} is private", directory.display())),
            Some(wrong) => Finding::problem(
                "state",
                wrong.clone(),
                format!("make it this user's alone: chmod 700 {}", directory.display()),
            ),
        });
    }
    if let Some(status) = &facts.status {
        findings.push(Finding::ok(
            "device",
            match (status.device.as_str(), facts.may_tun) {
                ("userspace", true) => "userspace; --tunnel-tun would be permitted".to_owned(),
                ("userspace", false) => "userspace; --tunnel-tun would need CAP_NET_ADMIN and /dev/net/tun".to_owned(),
                (device, _) => format!("kernel device {device}"),
            },
        ));
    }
    findings
}
