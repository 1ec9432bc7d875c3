//! Why a peer is not reached directly, and what would change that. Pure.

use sandd_mesh::{MeshStatus, NetReport, PeerCandidate, PeerPath, PeerStatus};

use super::gather::Facts;
use super::{Finding, Level};
use crate::cli::daemons::age;
use crate::cli::error::CliError;

/// Addresses that are named; more would not help anybody.
const MAX_NAMED: usize = 6;

/// A finding for the peer that was named, or for each that is talked with.
///
/// # Errors
/// [`CliError`] when there is no such peer.
pub(super) fn judge(facts: &Facts, named: Option<&str>) -> Result<Vec<Finding>, CliError> {
    let Some(status) = &facts.status else {
        return Ok(Vec::new());
    };
    let Some(name) = named else {
        let talked = status.peers.iter().filter(|peer| peer.session || peer.tx_bytes > 0);
        return Ok(talked.map(|peer| of_peer(facts, status, peer)).collect());
    };
    let peer = status.peers.iter().find(|peer| is_named(peer, name));
    let peer = peer.ok_or_else(|| CliError::failed(format!("there is no peer {name}, see sandd status")))?;
    let mut findings = vec![of_peer(facts, status, peer)];
    if let Some(Err(why)) = &facts.ping {
        findings.push(Finding::problem(
            &format!("ping {}", short(peer)),
            why.clone(),
            "is it running, and does the policy let this node reach it?",
        ));
    }
    Ok(findings)
}

fn is_named(peer: &PeerStatus, name: &str) -> bool {
    let name = name.trim_end_matches('.');
    let is_address = name.parse().is_ok_and(|ip| peer.addresses.contains(&ip));
    is_address || peer.name.eq_ignore_ascii_case(name) || short(peer).eq_ignore_ascii_case(name)
}

fn short(peer: &PeerStatus) -> &str {
    peer.name.split('.').next().unwrap_or(&peer.name)
}

fn of_peer(facts: &Facts, status: &MeshStatus, peer: &PeerStatus) -> Finding {
    let topic = format!("peer {}", short(peer));
    if peer.expired {
        let cure = "log it in again, or have its key's expiry turned off at the coordinator";
        return Finding::problem(&topic, "its key has ended: nothing is sent to it", cure);
    }
    match peer.path {
        PeerPath::Local => Finding::ok(&topic, "is this node itself"),
        PeerPath::Direct(addr) if peer.suspect => Finding::warning(
            &topic,
            format!("the direct path {addr} owes an answer, the relay is used beside it"),
            "look again in a moment; when it stays so, the way in between loses packets",
        ),
        PeerPath::Direct(addr) => {
            let rtt = peer.rtt_ms.map(|ms| format!(", {ms:.1} ms")).unwrap_or_default();
            Finding::ok(&topic, format!("direct {addr}{rtt}"))
        }
        PeerPath::PeerRelayed { .. } if peer.suspect => Finding::warning(
            &topic,
            format!("{} owes an answer, the relay of a region is used beside it", peer.path),
            "look again in a moment; when it stays so, look at that peer",
        ),
        PeerPath::PeerRelayed { .. } => {
            let rtt = peer.rtt_ms.map(|ms| format!(", {ms:.1} ms")).unwrap_or_default();
            Finding::ok(&topic, format!("{}{rtt}", peer.path))
        }
        PeerPath::Relayed(_) | PeerPath::Unknown if peer.wireguard_only => Finding::warning(
            &topic,
            "it speaks plain WireGuard and has not called yet: it has no relay",
            "let it send something first, or give it an address that can be dialled",
        ),
        PeerPath::Relayed(_) | PeerPath::Unknown if peer.online == Some(false) => offline(facts, &topic, peer),
        PeerPath::Relayed(region) => {
            let (why, cure) = why_relayed(facts.report.as_ref(), status, peer);
            let level = if cure.is_some() { Level::Warning } else { Level::Ok };
            Finding::new(level, &topic, format!("relayed by region {region}: {why}"), cure)
        }
        PeerPath::Unknown => Finding::problem(
            &topic,
            "no way to it is known: it has told no relay, and no address of it answers",
            "look at it with `sandd doctor` over there: is it running, and is its relay connected?",
        ),
    }
}

fn offline(facts: &Facts, topic: &str, peer: &PeerStatus) -> Finding {
    let since = peer.last_seen.map(|seen| facts.now.saturating_sub(seen));
    let since = since.map(|seconds| format!(" since {}", age(seconds)));
    Finding::warning(
        topic,
        format!("the peer is offline{}", since.unwrap_or_default()),
        "start it, or look why it does not reach the coordinator",
    )
}

/// Why, and what would make it direct; without a cure it is just how things begin.
fn why_relayed(report: Option<&NetReport>, status: &MeshStatus, peer: &PeerStatus) -> (String, Option<String>) {
    let udp = report.map(|report| report.udp).or(status.udp);
    if udp == Some(false) {
        let cure = "let UDP out of this network; the relay carries everything until then";
        return ("UDP is blocked here".to_owned(), Some(cure.to_owned()));
    }
    if peer.candidates.is_empty() {
        let cure = "run `sandd doctor` over there: most likely UDP is blocked at that side";
        return ("the peer has told no address".to_owned(), Some(cure.to_owned()));
    }
    let pinged: Vec<&PeerCandidate> = peer
        .candidates
        .iter()
        .filter(|known| known.pinged_ms.is_some())
        .collect();
    if pinged.is_empty() {
        let why = "a direct path is looked for once something is sent: try `sandd ping`";
        return (why.to_owned(), None);
    }
    let open = |port: u16| format!("open (forward) UDP port {port}");
    let mapping = "let the router map ports (UPnP, NAT-PMP or PCP)";
    let ours = status.mapping_varies == Some(true) && status.port_mapped.is_none();
    match (ours, peer.mapping_varies) {
        (true, Some(true)) => (
            "both sides sit behind hard NATs, which give each destination another port".to_owned(),
            Some(format!(
                "{} here or the peer's port over there, {mapping} on one side, or let a node that both reach run with --peer-relay-port",
                open(status.port)
            )),
        ),
        (true, _) => (
            format!("this side sits behind a hard NAT, and {}", unanswered(&pinged)),
            Some(format!("{} here, or {mapping} on either side", open(status.port))),
        ),
        (false, Some(true)) => (
            format!("the peer sits behind a hard NAT, and {}", unanswered(&pinged)),
            Some(format!("{} here, or {mapping} on either side", open(status.port))),
        ),
        (false, _) => (
            unanswered(&pinged),
            Some(format!(
                "a firewall on the way drops UDP, or both NATs are strict: {} here or the peer's over there, or {mapping}",
                open(status.port)
            )),
        ),
    }
}

fn unanswered(pinged: &[&PeerCandidate]) -> String {
    let silent: Vec<_> = pinged.iter().filter(|known| known.answered_ms.is_none()).collect();
    if silent.is_empty() {
        return "its addresses have answered before, and do not now".to_owned();
    }
    let mut named: Vec<String> = silent
        .iter()
        .take(MAX_NAMED)
        .map(|known| known.address.to_string())
        .collect();
    if silent.len() > MAX_NAMED {
        named.push("...".to_owned());
    }
    let count = silent.len();
    let plural = if count == 1 { "" } else { "es" };
    format!(
        "there is no answer to pings on {count} address{plural}: {}",
        named.join(" ")
    )
}
