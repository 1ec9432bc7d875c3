//! Two or three engines on an invented network: relay always there, UDP as the story wants it.

mod guess;
mod plain;
mod relayed;
mod steady;
mod strangers;
mod too_big;

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;
use sandd_control_client::netmap::{
    FilterDst, FilterRule, FilterSrc, IpRange, NetmapDelta, NetmapUpdate, Node, PeerMap, UserId,
};

use super::*;
use crate::packet::PacketBuf;
use crate::packet::ip::{IpPacket, encode_echo_request};
use crate::packet::vnet::VnetHeader;

const REGION: RegionId = RegionId(999);

struct Host {
    key: NodePrivateKey,
    engine: Engine,
    node: Node,
    addr: SocketAddr,
    delivered: Vec<PacketBuf>,
    outcomes: Vec<PingOutcome>,
    events: Vec<MeshEvent>,
    guesses: Vec<OpenGuess>,
}

impl Overlay for Vec<PacketBuf> {
    fn deliver(&mut self, packet: &mut [u8]) {
        self.push(PacketBuf::copied_from(packet));
    }
}

struct World {
    hosts: Vec<Host>,
    now: Instant,
    udp: bool,
    relay: bool,
    /// A relay server of the third host.
    relay_server: Option<relayed::TestServer>,
    wire: Vec<(usize, Underlay, Vec<u8>)>,
    direct_packets: usize,
    /// The first host is behind this one.
    hard_nat: Option<guess::HardNat>,
}

fn allow_all() -> Vec<FilterRule> {
    let any = |text: &str, last: &str| IpRange {
        first: text.parse().unwrap(),
        last: last.parse().unwrap(),
    };
    let ranges = [
        any("0.0.0.0", "255.255.255.255"),
        any("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ];
    vec![FilterRule {
        src: ranges.iter().map(|range| FilterSrc::Range(*range)).collect(),
        dst: ranges
            .iter()
            .map(|range| FilterDst {
                range: *range,
                first_port: 0,
                last_port: 65_535,
            })
            .collect(),
        protocols: vec![6, 17, 1, 58],
        grants: Vec::new(),
    }]
}

/// A clock of day that goes with the invented time.
fn clock() -> Clock {
    Clock::new(
        std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_750_000_000),
        Instant::now(),
    )
}

fn host(number: u8) -> Host {
    let key = NodePrivateKey::generate();
    let disco = DiscoPrivateKey::generate();
    let addr = SocketAddr::from(([192, 0, 2, number], 41_641));
    let address: IpNet = format!("100.64.0.{number}/32").parse().unwrap();
    let node = Node {
        id: NodeId(number.into()),
        stable_id: number.to_string(),
        name: format!("host-{number}.sandd.local"),
        user: UserId(1),
        key: key.public(),
        key_expiry: None,
        expired: false,
        machine: None,
        disco_key: Some(disco.public()),
        addresses: vec![address],
        allowed_ips: vec![address],
        endpoints: vec![addr],
        home_derp: Some(REGION),
        os: "linux".to_owned(),
        hostname: format!("host-{number}"),
        tags: Vec::new(),
        online: Some(true),
        last_seen: None,
        wireguard_only: false,
        jailed: false,
        cap_map: BTreeMap::new(),
        machine_authorized: true,
    };
    let engine = Engine::new(&key, disco, 1_280, clock());
    Host {
        key,
        engine,
        node,
        addr,
        delivered: Vec::new(),
        outcomes: Vec::new(),
        events: Vec::new(),
        guesses: Vec::new(),
    }
}

impl World {
    fn new(count: u8) -> Self {
        let hosts = (1..=count).map(host).collect();
        Self {
            hosts,
            now: Instant::now(),
            udp: true,
            relay: true,
            relay_server: None,
            wire: Vec::new(),
            direct_packets: 0,
            hard_nat: None,
        }
    }

    /// Everybody knows everybody.
    fn meet(&mut self) {
        for at in 0..self.hosts.len() {
            self.tell_map(at, &allow_all(), |_| true);
            let (endpoints, now) = (vec![self.hosts[at].addr], self.now);
            let engine = &mut self.hosts[at].engine;
            engine.set_endpoints(endpoints, now);
            engine.handle_relay(REGION, true, now);
        }
    }

    fn tell_map(&mut self, at: usize, rules: &[FilterRule], knows: impl Fn(usize) -> bool) {
        let others = self
            .hosts
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != at && knows(*other));
        let peers: PeerMap = others.map(|(_, host)| Arc::new(host.node.clone())).collect();
        let before = self.hosts[at].engine.map();
        let differs = |(id, node): (NodeId, &Arc<Node>)| (before.peers.get(&id) != Some(node)).then_some(id);
        let delta = NetmapDelta {
            full: true,
            upserted: peers.iter().filter_map(differs).collect(),
            removed: before.peers.keys().filter(|id| !peers.contains_key(id)).collect(),
            self_node: true,
            filter: true,
            ..NetmapDelta::default()
        };
        let map = NetworkMap {
            self_node: Some(Arc::new(self.hosts[at].node.clone())),
            peers,
            filter: Arc::new(rules.to_vec()),
            ..NetworkMap::default()
        };
        let now = self.now;
        self.hosts[at].engine.handle_netmap(
            &NetmapUpdate {
                map: Arc::new(map),
                delta,
                cached: false,
            },
            now,
        );
    }

    /// Carries packets until nothing moves.
    fn settle(&mut self) {
        for _ in 0..200 {
            for at in 0..self.hosts.len() {
                let queue = self.hosts[at].engine.queue();
                while let Some(batch) = queue.front() {
                    if let Underlay::PeerRelay(via) = batch.to() {
                        batch.wrap(Underlay::Udp(via.addr), &via.wireguard_header());
                    }
                    let datagrams = batch.contents().chunks(batch.stride());
                    self.wire
                        .extend(datagrams.map(|datagram| (at, batch.to(), datagram.to_vec())));
                    queue.pop();
                }
                while let Some(output) = self.hosts[at].engine.poll_output() {
                    let host = &mut self.hosts[at];
                    match output {
                        Output::Deliver(packet) => host.delivered.push(packet),
                        Output::Event(event) => host.events.push(event),
                        Output::Ponged(outcome) => host.outcomes.push(outcome),
                        Output::Observed { .. }
                        | Output::PeerMtu { .. }
                        | Output::Suspected
                        | Output::MapOutdated
                        | Output::CloseGuess => {}
                        Output::OpenGuess(order) => host.guesses.push(order),
                        Output::AllocateRelay(request) => self.allocate_relay(at, &request),
                    }
                }
            }
            if self.wire.is_empty() {
                return;
            }
            for (from, to, mut payload) in std::mem::take(&mut self.wire) {
                self.carry(from, to, &mut payload);
            }
        }
        panic!("the network never came to rest");
    }

    fn carry(&mut self, from: usize, to: Underlay, payload: &mut [u8]) {
        let (source_addr, source_key, now) = (self.hosts[from].addr, self.hosts[from].node.key, self.now);
        match to {
            Underlay::Udp(addr) if addr == relayed::SERVER => self.carry_relayed(from, payload),
            Underlay::Udp(addr) if self.hard_nat.is_some() => self.carry_hard(from, addr, payload),
            Underlay::Udp(addr) if self.udp => {
                if let Some(host) = self.hosts.iter_mut().find(|host| host.addr == addr) {
                    self.direct_packets += 1;
                    let (stride, delivered) = (payload.len(), &mut host.delivered);
                    host.engine.handle_udp(source_addr, 0, payload, stride, now, delivered);
                }
            }
            Underlay::Derp { region, key } if self.relay => {
                if let Some(host) = self.hosts.iter_mut().find(|host| host.node.key == key) {
                    let (stride, delivered) = (payload.len(), &mut host.delivered);
                    host.engine
                        .handle_derp(region, source_key, payload, stride, now, delivered);
                }
            }
            Underlay::Udp(_) | Underlay::PeerRelay(_) | Underlay::Derp { .. } => {}
        }
    }

    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let next = self.hosts.iter().filter_map(|host| host.engine.poll_timeout()).min();
            let Some(at) = next.filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            for host in &mut self.hosts {
                host.engine.handle_timeout(self.now);
            }
            self.settle();
        }
        self.now = end;
    }

    fn ping(&mut self, from: usize, to: usize) -> Option<PeerPath> {
        let ip = self.hosts[to].node.addresses[0].addr();
        let now = self.now;
        let seq = self.hosts[from].engine.ping(ip, Duration::from_secs(2), now)?;
        self.settle();
        self.answer_echo(to);
        self.settle();
        let outcome = self.hosts[from].outcomes.iter().find(|outcome| outcome.seq == seq)?;
        outcome.reply.clone().map(|(_, path)| path)
    }

    /// Plays the device of a host: echo requests are answered.
    fn answer_echo(&mut self, at: usize) {
        let now = self.now;
        let host = &mut self.hosts[at];
        for packet in host.delivered.drain(..) {
            host.engine
                .handle_overlay(&VnetHeader::default(), &echo_reply(&packet), now);
        }
    }
}

fn echo_reply(request: &[u8]) -> PacketBuf {
    let mut reply = PacketBuf::copied_from(request);
    let (source, destination) = (request[12..16].to_vec(), request[16..20].to_vec());
    reply[12..16].copy_from_slice(&destination);
    reply[16..20].copy_from_slice(&source);
    reply[20] = 0;
    let checksum = u16::from_be_bytes([request[22], request[23]]);
    let (sum, carry) = checksum.overflowing_add(0x0800);
    reply[22..24].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
    reply
}

use crate::status::PeerPath;

#[test]
fn the_first_packet_goes_by_relay_and_the_path_becomes_direct() {
    let mut world = World::new(2);
    world.meet();
    let first = world.ping(0, 1).expect("answered");
    assert!(matches!(first, PeerPath::Relayed(999) | PeerPath::Direct(_)), "{first}");
    assert!(matches!(world.ping(0, 1), Some(PeerPath::Direct(_))));
    assert!(matches!(world.ping(1, 0), Some(PeerPath::Direct(_))));
    let status = world.hosts[0].engine.peer_status(world.now);
    assert_eq!(status[0].path, PeerPath::Direct(world.hosts[1].addr));
    assert!(status[0].session);
}

#[test]
fn without_udp_everything_goes_by_relay() {
    let mut world = World::new(2);
    world.udp = false;
    world.meet();
    for _ in 0..20 {
        assert_eq!(world.ping(0, 1), Some(PeerPath::Relayed(999)));
        world.pass(Duration::from_millis(300));
    }
    assert_eq!(world.direct_packets, 0);
}

#[test]
fn a_dead_direct_path_falls_back_to_the_relay_and_returns() {
    let mut world = World::new(2);
    world.meet();
    world.ping(0, 1);
    assert!(matches!(world.ping(0, 1), Some(PeerPath::Direct(_))));
    world.udp = false;
    let mut silent = Duration::ZERO;
    while world.ping(0, 1).is_none() {
        world.pass(Duration::from_millis(50));
        silent += Duration::from_millis(50);
        assert!(silent < Duration::from_millis(1_600), "no way back to the relay");
    }
    for _ in 0..20 {
        world.pass(Duration::from_millis(100));
        assert_eq!(world.ping(0, 1), Some(PeerPath::Relayed(999)), "the relay carries on");
    }
    world.udp = true;
    let mut waited = Duration::ZERO;
    while !matches!(world.ping(0, 1), Some(PeerPath::Direct(_))) {
        world.pass(Duration::from_millis(250));
        waited += Duration::from_millis(250);
        assert!(waited <= Duration::from_secs(6), "direct again");
    }
}

#[test]
fn a_restarted_peers_new_disco_key_arrives_inside_the_tunnel() {
    let mut world = World::new(2);
    world.meet();
    // The second host restarted: the first one's map still has the old disco key.
    let fresh = DiscoPrivateKey::generate();
    let key = world.hosts[1].key.clone();
    world.hosts[1].engine = Engine::new(&key, fresh, 1_280, clock());
    world.tell_map(1, &allow_all(), |_| true);
    let (endpoints, now) = (vec![world.hosts[1].addr], world.now);
    world.hosts[1].engine.set_endpoints(endpoints, now);
    world.hosts[1].engine.handle_relay(REGION, true, now);
    world.ping(1, 0);
    world.pass(Duration::from_millis(300));
    assert!(
        matches!(world.ping(1, 0), Some(PeerPath::Direct(_))),
        "without another word of the coordinator"
    );
    // The coordinator repeats the stale key: the one from the tunnel stays.
    world.tell_map(0, &allow_all(), |_| true);
    let public = world.hosts[1].engine.disco_public;
    assert!(world.hosts[0].engine.by_disco.contains_key(&public));
}

#[test]
fn a_peer_that_knocked_before_its_map_entry_is_called_at_once() {
    let mut world = World::new(2);
    world.meet();
    world.tell_map(1, &allow_all(), |_| false);
    assert_eq!(world.ping(0, 1), None, "unknown keys get silence");
    world.tell_map(1, &allow_all(), |_| true);
    world.settle();
    assert!(
        world.hosts[1]
            .events
            .iter()
            .any(|event| matches!(event, MeshEvent::PeerConnected { .. }))
    );
}

#[test]
fn a_removed_peer_is_cut_off() {
    let mut world = World::new(2);
    world.meet();
    world.ping(0, 1);
    world.tell_map(1, &allow_all(), |_| false);
    assert_eq!(world.ping(0, 1), None);
    assert!(world.hosts[1].engine.indices.is_empty());
    assert!(world.hosts[1].engine.deadlines.is_empty());
}

#[test]
fn no_rule_means_no_entry_but_replies_pass() {
    let mut world = World::new(2);
    world.meet();
    world.tell_map(1, &[], |_| true);
    assert_eq!(world.ping(0, 1), None, "nothing is let in");
    assert!(world.ping(1, 0).is_some(), "answers to our own flow are");
}

#[test]
fn a_peer_cannot_speak_for_another() {
    let mut world = World::new(3);
    world.meet();
    world.ping(0, 1);
    world.hosts[1].delivered.clear();
    // Host 1 sends with host 3's address.
    let forged = encode_echo_request(
        world.hosts[2].node.addresses[0].addr(),
        world.hosts[1].node.addresses[0].addr(),
        1,
        1,
        b"forged",
    )
    .unwrap();
    let now = world.now;
    world.hosts[0].engine.send_packet_to(NodeId(2), &forged, now);
    world.settle();
    assert!(world.hosts[1].delivered.is_empty());
    assert_eq!(world.hosts[1].engine.counters().dropped_foreign_source, 1);
}

#[test]
fn strangers_get_silence() {
    let mut world = World::new(1);
    world.meet();
    world.settle();
    let now = world.now;
    let engine = &mut world.hosts[0].engine;
    let from = SocketAddr::from(([198, 51, 100, 1], 1));
    for kind in 0..=255u8 {
        for len in [0usize, 1, 20, 32, 64, 92, 148, 1_280] {
            let mut bytes = vec![0u8; len];
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            engine.handle_udp(from, 0, &mut bytes, len, now, &mut Vec::<PacketBuf>::new());
        }
    }
    assert!(engine.queue().is_empty(), "not a byte back");
    assert!(engine.poll_output().is_none());
}

#[test]
fn two_hundred_peers_load_fast_and_small() {
    let mut world = World::new(201);
    let started = Instant::now();
    world.tell_map(0, &allow_all(), |_| true);
    let took = started.elapsed();
    // The figure belongs to the benches; here only that nothing is quadratic.
    assert!(took < Duration::from_secs(2), "{took:?}");
    let engine = &world.hosts[0].engine;
    assert_eq!(engine.peers.len(), 200);
    assert!(
        engine.peers.values().all(|peer| peer.tunnel.is_none()),
        "tunnels are made on first use"
    );
    assert!(engine.deadlines.is_empty(), "and nothing ticks");
    // The peer, its addresses, and its places in the tables of keys and routes, of which more than half are in use.
    let tables = 7 * (size_of::<(NodePublicKey, NodeId)>() * 2 + size_of::<(IpAddr, NodeId)>() * 2) / 4;
    let state = size_of::<Peer>() + 2 * crate::path::candidate::Candidates::ENTRY + tables + 32;
    assert!(state <= 1_024, "{state} bytes for a peer without session");
}

#[test]
fn packets_keep_their_content() {
    let mut world = World::new(2);
    world.meet();
    world.ping(0, 1);
    for size in [0usize, 1, 15, 16, 17, 500, 1_232] {
        let payload: Vec<u8> = (0..size).map(|byte| u8::try_from(byte % 251).unwrap()).collect();
        let ips = [0, 1].map(|at: usize| world.hosts[at].node.addresses[0].addr());
        let packet = encode_echo_request(ips[0], ips[1], 77, 1, &payload).unwrap();
        let now = world.now;
        world.hosts[0]
            .engine
            .handle_overlay(&VnetHeader::default(), &packet, now);
        world.settle();
        let got = world.hosts[1].delivered.pop().expect("delivered");
        assert_eq!(&got[..], &packet[..]);
        assert!(IpPacket::parse(&got).is_ok());
        world.hosts[1].delivered.clear();
    }
}

#[test]
fn an_expired_peer_gets_silence() {
    let mut world = World::new(2);
    world.meet();
    world.ping(0, 1);
    let expired = world.hosts[0].node.expired;
    world.hosts[0].node.expired = true;
    world.tell_map(1, &allow_all(), |_| true);
    world.hosts[0].node.expired = expired;
    world.settle();
    world.wire.clear();
    assert_eq!(world.ping(0, 1), None);
    assert!(
        world.hosts[1].engine.by_disco.is_empty(),
        "its pings are not answered either"
    );
}

#[test]
fn a_key_that_moves_between_nodes_is_followed() {
    let mut world = World::new(3);
    world.meet();
    // The third host takes over the second one's key and address, as a node that was registered anew would.
    let (key, disco) = (world.hosts[1].node.key, world.hosts[1].node.disco_key);
    let fresh = NodePrivateKey::generate().public();
    let (second, third) = (world.hosts[1].node.clone(), world.hosts[2].node.clone());
    world.hosts[1].node.key = fresh;
    world.hosts[1].node.disco_key = None;
    world.hosts[2].node.key = key;
    world.hosts[2].node.disco_key = disco;
    world.tell_map(0, &allow_all(), |_| true);
    let engine = &world.hosts[0].engine;
    assert_eq!(engine.by_key.get(&key), Some(&NodeId(3)));
    assert_eq!(engine.by_key.get(&fresh), Some(&NodeId(2)));
    assert_eq!(engine.by_disco.get(&disco.unwrap()), Some(&NodeId(3)));
    world.hosts[1].node = second;
    world.hosts[2].node = third;
}
