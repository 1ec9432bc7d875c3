//! Each branch of the verdict as a story, and the rule match against a slow reference.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use sandd_control_client::netmap::{FilterDst, FilterRule, FilterSrc, IpRange};

use super::flows::{Flow, Flows};
use super::*;
use crate::packet::ip::{ICMP, IpPacket, SCTP, TCP, UDP, encode_echo_request, encode_ip};

const PEER: &str = "100.64.0.2";
const OWN: &str = "100.64.0.1";
const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
const ACK: u8 = 0x10;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn tcp(src: (&str, u16), dst: (&str, u16), flags: u8) -> Vec<u8> {
    let mut header = vec![0u8; 20];
    header[0..2].copy_from_slice(&src.1.to_be_bytes());
    header[2..4].copy_from_slice(&dst.1.to_be_bytes());
    header[12] = 0x50;
    header[13] = flags;
    encode_ip(ip(src.0), ip(dst.0), TCP, &header).unwrap()
}

fn udp(src: (&str, u16), dst: (&str, u16)) -> Vec<u8> {
    let mut header = vec![0u8; 8];
    header[0..2].copy_from_slice(&src.1.to_be_bytes());
    header[2..4].copy_from_slice(&dst.1.to_be_bytes());
    encode_ip(ip(src.0), ip(dst.0), UDP, &header).unwrap()
}

fn echo_reply(src: &str, dst: &str, id: u16) -> Vec<u8> {
    let mut packet = encode_echo_request(ip(src), ip(dst), id, 1, b"").unwrap();
    packet[20] = 0;
    packet
}

fn unreachable(src: &str, dst: &str, about: &[u8]) -> Vec<u8> {
    let mut message = vec![3, 3, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&about[..28]);
    encode_ip(ip(src), ip(dst), ICMP, &message).unwrap()
}

fn rule(src: &str, dst: &str, ports: (u16, u16), protocols: &[u8]) -> FilterRule {
    let one = |text: &str| IpRange {
        first: ip(text),
        last: ip(text),
    };
    FilterRule {
        src: vec![FilterSrc::Range(one(src))],
        dst: vec![FilterDst {
            range: one(dst),
            first_port: ports.0,
            last_port: ports.1,
        }],
        protocols: protocols.to_vec(),
        grants: Vec::new(),
    }
}

struct Judge {
    filter: PacketFilter,
    now: Instant,
    caps: BTreeMap<String, Vec<serde_json::Value>>,
    jailed: bool,
}

impl Judge {
    fn new(rules: Vec<FilterRule>) -> Self {
        let mut filter = PacketFilter::new();
        filter.set_local(&["100.64.0.1/32".parse().unwrap()]);
        filter.set_rules(Arc::new(rules));
        Self {
            filter,
            now: Instant::now(),
            caps: BTreeMap::new(),
            jailed: false,
        }
    }

    fn admits(&mut self, packet: &[u8]) -> bool {
        let context = PeerContext {
            jailed: self.jailed,
            capabilities: &self.caps,
        };
        self.filter
            .inbound(&IpPacket::parse(packet).unwrap(), &context, self.now)
            == Verdict::Accept
    }

    fn send(&mut self, packet: &[u8]) -> bool {
        self.filter.outbound(&IpPacket::parse(packet).unwrap(), self.now) == Verdict::Accept
    }
}

#[test]
fn without_rules_nothing_begins() {
    let mut judge = Judge::new(Vec::new());
    assert!(!judge.admits(&tcp((PEER, 5), (OWN, 22), SYN)));
    assert!(!judge.admits(&tcp((PEER, 5), (OWN, 22), ACK)));
    assert!(!judge.admits(&udp((PEER, 5), (OWN, 53))));
    assert!(!judge.admits(&encode_echo_request(ip(PEER), ip(OWN), 1, 1, b"").unwrap()));
    assert!(!judge.admits(&echo_reply(PEER, OWN, 1)));
}

#[test]
fn answers_to_our_own_flows_pass_and_no_others() {
    let mut judge = Judge::new(Vec::new());
    judge.send(&tcp((OWN, 4_000), (PEER, 22), SYN));
    assert!(judge.admits(&tcp((PEER, 22), (OWN, 4_000), SYN_ACK)));
    assert!(!judge.admits(&tcp((PEER, 23), (OWN, 4_000), SYN_ACK)));
    judge.send(&udp((OWN, 4_001), (PEER, 53)));
    assert!(judge.admits(&udp((PEER, 53), (OWN, 4_001))));
    assert!(!judge.admits(&udp((PEER, 53), (OWN, 4_002))));
    judge.send(&encode_echo_request(ip(OWN), ip(PEER), 9, 1, b"").unwrap());
    assert!(judge.admits(&echo_reply(PEER, OWN, 9)));
    assert!(!judge.admits(&echo_reply(PEER, OWN, 8)));
}

#[test]
fn a_udp_flow_ends_after_five_quiet_minutes() {
    let mut judge = Judge::new(Vec::new());
    judge.send(&udp((OWN, 4_001), (PEER, 53)));
    judge.now += Duration::from_secs(299);
    assert!(judge.admits(&udp((PEER, 53), (OWN, 4_001))));
    judge.now += Duration::from_secs(2);
    assert!(!judge.admits(&udp((PEER, 53), (OWN, 4_001))));
}

#[test]
fn protocol_port_source_and_destination_all_count() {
    let mut judge = Judge::new(vec![rule(PEER, OWN, (22, 23), &[TCP])]);
    assert!(judge.admits(&tcp((PEER, 5), (OWN, 22), SYN)));
    assert!(judge.admits(&tcp((PEER, 5), (OWN, 23), SYN)));
    assert!(!judge.admits(&tcp((PEER, 5), (OWN, 24), SYN)));
    assert!(!judge.admits(&tcp(("100.64.0.3", 5), (OWN, 22), SYN)));
    assert!(!judge.admits(&udp((PEER, 5), (OWN, 22))));
}

#[test]
fn a_rule_of_one_protocol_lets_an_echo_request_of_its_pair_in() {
    let mut judge = Judge::new(vec![rule(PEER, OWN, (22, 22), &[TCP])]);
    assert!(judge.admits(&encode_echo_request(ip(PEER), ip(OWN), 1, 1, b"").unwrap()));
    assert!(!judge.admits(&encode_echo_request(ip("100.64.0.3"), ip(OWN), 1, 1, b"").unwrap()));
}

#[test]
fn other_destinations_than_ours_are_refused() {
    let any = rule(PEER, "100.64.0.9", (0, 65_535), &[TCP, UDP, ICMP]);
    let mut judge = Judge::new(vec![any]);
    assert!(!judge.admits(&tcp((PEER, 5), ("100.64.0.9", 22), SYN)));
    assert!(!judge.admits(&udp((PEER, 5), ("224.0.0.1", 22))));
}

#[test]
fn an_icmp_error_needs_a_flow_of_ours() {
    let mut judge = Judge::new(vec![rule(PEER, OWN, (0, 65_535), &[TCP, UDP, ICMP])]);
    let ours = udp((OWN, 4_001), (PEER, 53));
    assert!(!judge.admits(&unreachable(PEER, OWN, &ours)));
    judge.send(&ours);
    assert!(judge.admits(&unreachable(PEER, OWN, &ours)));
    let foreign = udp(("100.64.0.7", 4_001), (PEER, 53));
    assert!(!judge.admits(&unreachable(PEER, OWN, &foreign)));
}

#[test]
fn a_jailed_peer_only_answers() {
    let mut judge = Judge::new(vec![rule(PEER, OWN, (0, 65_535), &[TCP, UDP, ICMP])]);
    judge.jailed = true;
    assert!(!judge.admits(&tcp((PEER, 5), (OWN, 22), SYN)));
    judge.send(&tcp((OWN, 4_000), (PEER, 22), SYN));
    assert!(judge.admits(&tcp((PEER, 22), (OWN, 4_000), SYN_ACK)));
}

#[test]
fn a_capability_can_be_the_source() {
    let mut named = rule(PEER, OWN, (80, 80), &[TCP]);
    named.src = vec![FilterSrc::Capability("example.com/cap/x".to_owned())];
    let mut judge = Judge::new(vec![named]);
    assert!(!judge.admits(&tcp((PEER, 5), (OWN, 80), SYN)));
    judge.caps.insert("example.com/cap/x".to_owned(), Vec::new());
    assert!(judge.admits(&tcp((PEER, 5), (OWN, 80), SYN)));
}

#[test]
fn unknown_protocols_need_a_rule_that_names_them_with_all_ports() {
    let gre = encode_ip(ip(PEER), ip(OWN), 47, &[0; 20]).unwrap();
    assert!(!Judge::new(vec![rule(PEER, OWN, (0, 65_535), &[TCP, UDP])]).admits(&gre));
    assert!(!Judge::new(vec![rule(PEER, OWN, (1, 65_535), &[47])]).admits(&gre));
    assert!(Judge::new(vec![rule(PEER, OWN, (0, 65_535), &[47])]).admits(&gre));
}

#[test]
fn flows_are_bounded_and_the_oldest_goes_first() {
    let now = Instant::now();
    let mut flows = Flows::new(3, Duration::from_secs(60));
    let flow = |port| Flow {
        protocol: UDP,
        local: (ip(OWN), port),
        remote: (ip(PEER), 53),
    };
    for port in 0..3 {
        flows.note(flow(port), now);
    }
    flows.note(flow(0), now + Duration::from_secs(2));
    flows.note(flow(9), now + Duration::from_secs(2));
    assert_eq!(flows.len(), 3);
    assert!(flows.knows(&flow(0), now), "renewed by its own packet");
    assert!(!flows.knows(&flow(1), now), "the oldest went");
}

proptest! {
    #[test]
    fn the_verdict_equals_a_slow_reference(
        rules in proptest::collection::vec((0u8..4, 0u8..4, 0u16..6, 0u16..6, 0usize..4), 0..6),
        packet in (0u8..4, 0u8..4, 0u16..6, 0usize..3),
    ) {
        const SETS: [&[u8]; 4] = [&[TCP], &[UDP], &[TCP, UDP, ICMP], &[SCTP]];
        let addr = |n: u8| format!("100.64.0.{n}");
        let all: Vec<_> = rules
            .iter()
            .map(|(src, dst, a, b, set)| rule(&addr(*src), &addr(*dst), (*a.min(b), *a.max(b)), SETS[*set]))
            .collect();
        let (src, dst, port, kind) = packet;
        let (protocol, bytes) = match kind {
            0 => (TCP, tcp((&addr(src), 9), (&addr(dst), port), SYN)),
            1 => (UDP, udp((&addr(src), 9), (&addr(dst), port))),
            _ => (TCP, tcp((&addr(src), 9), (&addr(dst), port), ACK)),
        };
        let slow = dst == 1 && rules.iter().any(|(rule_src, rule_dst, a, b, set)| {
            *rule_src == src && *rule_dst == dst && SETS[*set].contains(&protocol)
                && (*a.min(b)..=*a.max(b)).contains(&port)
        });
        prop_assert_eq!(Judge::new(all).admits(&bytes), slow);
    }
}
