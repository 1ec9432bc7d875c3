//! Judgements from invented facts, and the text that people read.

use sandd_mesh::{ControlStatus, MeshStatus, NetReport, PeerCandidate, PeerPath, PeerStatus, RegionLatency};

use super::gather::{ControlAnswer, Facts, http_time};
use super::*;

const NOW: u64 = 1_800_000_000;

fn candidate(address: &str, answered_ms: Option<u64>) -> PeerCandidate {
    PeerCandidate {
        address: address.parse().unwrap(),
        origin: "peer".to_owned(),
        pinged_ms: Some(300),
        answered_ms,
        rtt_ms: None,
    }
}

fn peer() -> PeerStatus {
    PeerStatus {
        name: "b.mesh.test".to_owned(),
        hostname: "b".to_owned(),
        addresses: vec!["100.64.0.2".parse().unwrap()],
        node_key: String::new(),
        tags: Vec::new(),
        online: Some(true),
        expired: false,
        wireguard_only: false,
        path: PeerPath::Relayed(999),
        path_for_ms: None,
        suspect: false,
        rtt_ms: None,
        session: true,
        session_age_secs: None,
        tx_bytes: 1,
        rx_bytes: 1,
        last_received_ms: None,
        last_seen: None,
        home_region: Some(999),
        mapping_varies: None,
        mtu: 1_280,
        candidates: vec![
            candidate("192.168.2.2:41641", None),
            candidate("203.0.113.12:41641", None),
        ],
    }
}

fn report() -> NetReport {
    NetReport {
        udp: true,
        ipv4: true,
        public_addresses: vec!["203.0.113.11:41641".parse().unwrap()],
        mapping_varies: Some(false),
        home_region: Some(999),
        relay_connected: true,
        regions: vec![RegionLatency {
            region: 999,
            name: "lab".to_owned(),
            latency_ms: Some(1.25),
            over_tls: false,
        }],
        ..NetReport::default()
    }
}

fn healthy() -> Facts {
    let status = MeshStatus {
        name: Some("a.mesh.test".to_owned()),
        addresses: vec!["100.64.0.1".parse().unwrap()],
        device: "userspace".to_owned(),
        control: ControlStatus {
            state: "connected".to_owned(),
            ..ControlStatus::default()
        },
        coordinator: "https://control.test".to_owned(),
        port: 41_641,
        udp: Some(true),
        mapping_varies: Some(false),
        peers: vec![PeerStatus {
            path: PeerPath::Direct("203.0.113.12:41641".parse().unwrap()),
            rtt_ms: Some(3.21),
            mtu: 1_420,
            ..peer()
        }],
        ..MeshStatus::default()
    };
    Facts {
        now: NOW,
        status: Some(status),
        report: Some(report()),
        control: Some(ControlAnswer::Answered { ahead: Some(1) }),
        state_dir: Some(("/var/lib/sandd/node".into(), None)),
        underlay_mtu: Some(1_500),
        ..Facts::default()
    }
}

/// Judges the facts after a change of them.
fn after(change: impl FnOnce(&mut Facts, &mut MeshStatus, &mut NetReport)) -> Vec<Finding> {
    let mut facts = healthy();
    let (mut status, mut report) = (facts.status.take().unwrap(), facts.report.take().unwrap());
    change(&mut facts, &mut status, &mut report);
    (facts.status, facts.report) = (Some(status), Some(report));
    let mut findings = judge::judge(&facts);
    findings.extend(path::judge(&facts, None).unwrap());
    findings
}

/// The one finding that is not in order.
fn only_trouble(findings: &[Finding]) -> (Level, &str, &str) {
    let troubles: Vec<_> = findings.iter().filter(|finding| finding.level > Level::Ok).collect();
    let [trouble] = troubles[..] else {
        panic!("{troubles:#?}")
    };
    assert!(
        trouble.cure.as_ref().is_some_and(|cure| !cure.is_empty()),
        "{trouble:?}"
    );
    (trouble.level, &trouble.topic, &trouble.text)
}

#[test]
fn a_healthy_node_has_nothing_to_cure() {
    let findings = after(|_, _, _| {});
    assert_eq!(
        text(&findings, false),
        "\
ok       node         a.mesh.test 100.64.0.1
ok       coordinator  https://control.test is connected
ok       clock        agrees with the coordinator's
ok       key          does not end
ok       UDP          works, seen as 203.0.113.11:41641
ok       relay        region 999 is connected, 1.2 ms away
ok       NAT          easy: the same port for all destinations
ok       MTU          1500 below the mesh; direct paths carry 1420 bytes inside the tunnel
ok       state        /var/lib/sandd/node is private
ok       device       userspace; --tunnel-tun would need CAP_NET_ADMIN and /dev/net/tun
ok       peer b       direct 203.0.113.12:41641, 3.2 ms
"
    );
}

type NodeChange = fn(&mut Facts, &mut MeshStatus, &mut NetReport);
/// A change, and the level, the topic and words of what is said then.
const NODE_TROUBLES: &[(NodeChange, Level, &str, &str)] = &[
    (
        |facts, _, _| facts.control = Some(ControlAnswer::Unreachable("refused".to_owned())),
        Level::Problem,
        "coordinator",
        "cannot be reached: refused",
    ),
    (
        |facts, _, _| facts.control = Some(ControlAnswer::BadCertificate("unknown issuer".to_owned())),
        Level::Problem,
        "coordinator",
        "unknown issuer",
    ),
    (
        |_, status, _| {
            status.control.state = "disconnected".to_owned();
            status.control.error = Some("the key was revoked".to_owned());
        },
        Level::Problem,
        "coordinator",
        "the key was revoked",
    ),
    (
        |_, status, _| status.control.login_url = Some("https://control.test/login/1".to_owned()),
        Level::Problem,
        "coordinator",
        "log this node in",
    ),
    (
        |_, status, _| status.warnings = vec!["two versions behind".to_owned()],
        Level::Warning,
        "coordinator",
        "two versions behind",
    ),
    (
        |facts, _, _| facts.control = Some(ControlAnswer::Answered { ahead: Some(-45) }),
        Level::Warning,
        "clock",
        "45 s ahead of",
    ),
    (
        |facts, _, _| facts.control = Some(ControlAnswer::Answered { ahead: Some(4_000) }),
        Level::Problem,
        "clock",
        "4000 s behind",
    ),
    (
        |_, status, _| status.key_expiry = Some(NOW),
        Level::Problem,
        "key",
        "has ended",
    ),
    (
        |_, status, _| status.key_expiry = Some(NOW + 3 * 86_400),
        Level::Warning,
        "key",
        "ends in 3 days",
    ),
    (
        |_, _, report| report.obstacle = Some("a login page answers".to_owned()),
        Level::Problem,
        "network",
        "login page",
    ),
    (
        |_, _, report| report.udp = false,
        Level::Warning,
        "UDP",
        "UDP is blocked here",
    ),
    (
        |_, _, report| report.home_region = None,
        Level::Problem,
        "relay",
        "there is none",
    ),
    (
        |_, _, report| {
            report.relay_connected = false;
            report.relay_trouble = Some("no answer".to_owned());
        },
        Level::Problem,
        "relay",
        "not connected: no answer",
    ),
    (
        |_, _, report| report.relay_trouble = Some("the relay says: overloaded".to_owned()),
        Level::Warning,
        "relay",
        "overloaded",
    ),
    (
        |_, _, report| report.mapping_varies = Some(true),
        Level::Warning,
        "NAT",
        "hard",
    ),
    (
        |facts, _, _| facts.underlay_mtu = Some(1_300),
        Level::Problem,
        "MTU",
        "1300",
    ),
    (
        |facts, _, _| facts.state_dir = Some(("/s".into(), Some("/s is open to other users".to_owned()))),
        Level::Problem,
        "state",
        "open to other users",
    ),
];

#[test]
fn what_can_be_wrong_with_a_node_is_said_once_and_with_a_cure() {
    for (change, level, topic, words) in NODE_TROUBLES {
        let findings = after(change);
        let found = only_trouble(&findings);
        assert_eq!((found.0, found.1), (*level, *topic), "{findings:#?}");
        assert!(found.2.contains(words), "{} has no {words:?}", found.2);
    }
}

#[test]
fn a_mapped_port_makes_a_hard_nat_harmless() {
    let findings = after(|_, _, report| {
        report.mapping_varies = Some(true);
        report.port_mapped = Some("203.0.113.11:41641".parse().unwrap());
    });
    assert!(
        findings.iter().all(|finding| finding.level == Level::Ok),
        "{findings:#?}"
    );
}

type PeerChange = fn(&mut MeshStatus, &mut NetReport, &mut PeerStatus);
/// A change of a relayed peer or of what is around it, and the level, words of the reason and of the cure then.
const PEERS: &[(PeerChange, Level, &str, &str)] = &[
    (
        |status, _, peer| {
            status.mapping_varies = Some(true);
            peer.mapping_varies = Some(true);
        },
        Level::Warning,
        "both sides sit behind hard NATs",
        "--peer-relay-port",
    ),
    (
        |_, _, peer| peer.path = over_a_peer(),
        Level::Ok,
        "relayed by peer relay-1.mesh.test at 203.0.113.13:7777",
        "",
    ),
    (
        |_, _, peer| {
            peer.path = over_a_peer();
            peer.suspect = true;
        },
        Level::Warning,
        "owes an answer",
        "look at that peer",
    ),
    (
        |status, _, _| status.mapping_varies = Some(true),
        Level::Warning,
        "this side sits behind a hard NAT",
        "UDP port 41641 here",
    ),
    (
        |_, _, peer| peer.mapping_varies = Some(true),
        Level::Warning,
        "the peer sits behind a hard NAT",
        "map ports",
    ),
    (
        |_, _, _| {},
        Level::Warning,
        "no answer to pings on 2 addresses: 192.168.2.2:41641 203.0.113.12:41641",
        "firewall",
    ),
    (
        |_, _, peer| {
            peer.candidates
                .iter_mut()
                .for_each(|known| known.answered_ms = Some(9_000))
        },
        Level::Warning,
        "have answered before",
        "firewall",
    ),
    (
        |_, report, _| report.udp = false,
        Level::Warning,
        "UDP is blocked here",
        "let UDP out",
    ),
    (
        |_, _, peer| peer.candidates.clear(),
        Level::Warning,
        "told no address",
        "over there",
    ),
    (
        |_, _, peer| peer.candidates.iter_mut().for_each(|known| known.pinged_ms = None),
        Level::Ok,
        "looked for once something is sent",
        "",
    ),
    (
        |_, _, peer| {
            peer.online = Some(false);
            peer.last_seen = Some(NOW - 7_300);
        },
        Level::Warning,
        "the peer is offline since 2h",
        "start it",
    ),
    (
        |_, _, peer| peer.expired = true,
        Level::Problem,
        "key has ended",
        "log it in",
    ),
    (
        |_, _, peer| peer.path = PeerPath::Unknown,
        Level::Problem,
        "no way to it is known",
        "over there",
    ),
    (
        |_, _, peer| {
            peer.path = PeerPath::Direct("203.0.113.12:41641".parse().unwrap());
            peer.suspect = true;
        },
        Level::Warning,
        "owes an answer",
        "loses packets",
    ),
];

fn over_a_peer() -> PeerPath {
    PeerPath::PeerRelayed {
        by: Some("relay-1.mesh.test".to_owned()),
        addr: "203.0.113.13:7777".parse().unwrap(),
        vni: 1,
    }
}

#[test]
fn why_a_peer_is_as_it_is() {
    for (change, level, why, cure) in PEERS {
        let mut facts = healthy();
        let mut known = peer();
        let (status, report) = (facts.status.as_mut().unwrap(), facts.report.as_mut().unwrap());
        change(status, report, &mut known);
        status.peers = vec![known];
        for named in ["b", "B.mesh.test", "b.mesh.test.", "100.64.0.2"] {
            let findings = path::judge(&facts, Some(named)).unwrap();
            let [finding] = &findings[..] else {
                panic!("{findings:#?}")
            };
            assert_eq!(finding.level, *level, "{finding:?}");
            assert!(finding.text.contains(why), "{finding:?} has no {why:?}");
            assert!(
                finding.cure.as_deref().unwrap_or_default().contains(cure),
                "{finding:?}"
            );
        }
    }
}

#[test]
fn peers_that_nobody_talks_with_are_not_judged_unless_named() {
    let mut facts = healthy();
    let quiet = PeerStatus {
        session: false,
        tx_bytes: 0,
        ..peer()
    };
    facts.status.as_mut().unwrap().peers = vec![quiet];
    assert!(path::judge(&facts, None).unwrap().is_empty());
    assert_eq!(path::judge(&facts, Some("b")).unwrap().len(), 1);
    let error = path::judge(&facts, Some("c")).unwrap_err();
    assert!(error.message().contains("no peer c"), "{error:?}");
    facts.ping = Some(Err("no answer within 2 s".to_owned()));
    let findings = path::judge(&facts, Some("b")).unwrap();
    assert_eq!(
        (findings[1].level, findings[1].topic.as_str()),
        (Level::Problem, "ping b")
    );
}

#[test]
fn without_a_node_that_is_said_and_nothing_is_invented() {
    let facts = Facts {
        not_running: Some("no mesh node of this user runs here".to_owned()),
        ..Facts::default()
    };
    let findings = judge::judge(&facts);
    assert_eq!(findings.len(), 1);
    assert_eq!(only_trouble(&findings).1, "node");
    assert!(path::judge(&facts, Some("b")).unwrap().is_empty());
}

#[test]
fn colours_and_foreign_text() {
    let finding = Finding::warning("peer \u{1b}[2J", "why\nnot", "do\tthis");
    assert_eq!(
        text(std::slice::from_ref(&finding), false),
        "warning  peer \\u{1b}[2J  why\\nnot\n                         -> do\\tthis\n"
    );
    assert!(text(&[finding], true).starts_with("\u{1b}[33mwarning\u{1b}[0m  "));
}

#[test]
fn the_time_of_a_web_server() {
    assert_eq!(http_time("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
    for text in ["", "Sunday", "Sun, 06 Xxx 1994 08:49:37 GMT", "Sun, 06 Nov", "Sun, 6"] {
        assert_eq!(http_time(text), None, "{text}");
    }
}
