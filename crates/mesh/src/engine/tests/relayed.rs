//! Two nodes without a direct path, and a third one that carries for them.

use sandd_control_client::netmap::CapGrant;

use super::*;
use crate::disco::GeneveHeader;
use crate::peer_relay::geneve_run;
use crate::peer_relay::grant::{NO_CLIENT, RELAY, RELAY_TARGET};
use crate::peer_relay::server::{Limits, RelayServer};

pub(super) const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 3)), 7_777);

/// The third host's server, and the NATs before it: the port under which it sees each host.
pub(super) struct TestServer {
    machine: RelayServer,
    up: bool,
    mapped: Vec<u16>,
    carried: usize,
}

impl World {
    /// Hosts 0 and 1 reach nobody but the server, which host 2 runs; `granted` says that they may use it.
    fn hard(granted: bool) -> Self {
        let mut world = Self::new(3);
        world.udp = false;
        let mut machine = RelayServer::new(DiscoPrivateKey::generate(), Limits::default(), world.now);
        machine.set_addresses(vec![SERVER]);
        world.relay_server = Some(TestServer {
            machine,
            up: true,
            mapped: vec![40_001, 40_002, 40_003],
            carried: 0,
        });
        world.hosts[2].engine.set_relay_serving(true);
        world.meet();
        if granted {
            let (server, clients) = (
                world.hosts[2].node.clone(),
                [0, 1].map(|at: usize| world.hosts[at].node.clone()),
            );
            for at in 0..2 {
                world.grant(at, RELAY_TARGET, &[&server]);
            }
            world.grant(2, RELAY, &clients.iter().collect::<Vec<_>>());
        }
        world
    }

    fn grant(&mut self, at: usize, capability: &str, to: &[&Node]) {
        let mut rules = allow_all();
        let own = self.hosts[at].node.addresses.clone();
        let ranges = to
            .iter()
            .flat_map(|node| node.ips())
            .map(|ip| IpRange { first: ip, last: ip });
        rules.push(FilterRule {
            src: ranges.map(FilterSrc::Range).collect(),
            dst: Vec::new(),
            protocols: vec![6, 17, 1, 58],
            grants: vec![CapGrant {
                dsts: own,
                caps: BTreeMap::from([(capability.to_owned(), Vec::new())]),
            }],
        });
        self.tell_map(at, &rules, |_| true);
    }

    pub(super) fn allocate_relay(&mut self, at: usize, request: &RelayRequest) {
        let now = self.now;
        let server = self.relay_server.as_mut().expect("only who serves is asked");
        if let Some(endpoint) = server.machine.allocate(request.asking, request.clients, now) {
            self.hosts[at].engine.answer_relay_request(request, endpoint);
        }
    }

    pub(super) fn carry_relayed(&mut self, from: usize, payload: &[u8]) {
        let now = self.now;
        let Some(server) = self.relay_server.as_mut().filter(|server| server.up) else {
            return;
        };
        let source = |at: usize, server: &TestServer| SocketAddr::new([203, 0, 113, 1].into(), server.mapped[at]);
        let seen = source(from, server);
        let Some(run) = geneve_run(seen, payload, payload.len()) else {
            return;
        };
        let (to, mut datagram) = if run.control {
            let reply = server
                .machine
                .handle_control(seen, run.via.vni, &payload[GeneveHeader::LEN..], now);
            let Some(reply) = reply else { return };
            (seen, reply)
        } else {
            let to = server.machine.forward(seen, run.via.vni, 1, payload.len(), now);
            let Some(to) = to else { return };
            server.carried += 1;
            (to, payload.to_vec())
        };
        let Some(at) = (0..self.hosts.len()).find(|at| source(*at, server) == to) else {
            return;
        };
        let host = &mut self.hosts[at];
        let (stride, delivered) = (datagram.len(), &mut host.delivered);
        host.engine.handle_udp(SERVER, 0, &mut datagram, stride, now, delivered);
    }

    fn server(&mut self) -> &mut TestServer {
        self.relay_server.as_mut().unwrap()
    }

    /// Pings every 100 ms until the answers come this way.
    fn ping_until(&mut self, wanted: impl Fn(&PeerPath) -> bool, within: Duration) -> Duration {
        let mut waited = Duration::ZERO;
        while !self.ping(0, 1).is_some_and(|path| wanted(&path)) {
            self.pass(Duration::from_millis(100));
            waited += Duration::from_millis(100);
            assert!(waited <= within, "not within {within:?}");
        }
        waited
    }
}

fn relayed_by_peer(path: &PeerPath) -> bool {
    matches!(path, PeerPath::PeerRelayed { .. })
}

#[test]
fn a_pair_without_a_direct_path_goes_over_the_peer_that_may_carry_it() {
    let mut world = World::hard(true);
    assert_eq!(world.ping(0, 1), Some(PeerPath::Relayed(999)), "DERP is there at once");
    world.ping_until(relayed_by_peer, Duration::from_secs(1));
    let before = world.server().carried;
    for _ in 0..50 {
        let path = world.ping(0, 1).expect("answered");
        let name = world.hosts[2].node.name.clone();
        let PeerPath::PeerRelayed { by, addr, .. } = &path else {
            panic!("{path}");
        };
        assert_eq!((by.as_deref(), *addr), (Some(name.as_str()), SERVER));
        assert!(path.to_string().starts_with("relayed by peer host-3"), "{path}");
        world.pass(Duration::from_millis(100));
    }
    assert!(world.server().carried >= before + 100, "both ways");
    for at in 0..2 {
        let (other, status) = (1 - at, world.hosts[at].engine.peer_status(world.now));
        let name = &world.hosts[other].node.name;
        let of = status.iter().find(|peer| peer.name == *name).unwrap();
        assert!(
            relayed_by_peer(&of.path) && !of.suspect && of.rtt_ms.is_some(),
            "{of:?}"
        );
        let told = world.hosts[at].events.iter();
        assert!(
            told.clone()
                .any(|event| matches!(event, MeshEvent::PathChanged { path, .. } if relayed_by_peer(path)))
        );
    }
}

#[test]
fn nobody_is_carried_without_the_capability() {
    let mut world = World::hard(false);
    for _ in 0..30 {
        assert_eq!(world.ping(0, 1), Some(PeerPath::Relayed(999)));
        world.pass(Duration::from_millis(200));
    }
    // A client that believes it may asks in vain.
    let server = world.hosts[2].node.clone();
    world.grant(0, RELAY_TARGET, &[&server]);
    world.pass(Duration::from_secs(100));
    for _ in 0..30 {
        assert_eq!(world.ping(0, 1), Some(PeerPath::Relayed(999)));
        world.pass(Duration::from_millis(200));
    }
    assert!(world.hosts[2].engine.counters().dropped_filtered > 0, "it asked");
    assert_eq!(world.server().machine.endpoints(), (0, 0));
}

#[test]
fn the_coordinator_may_forbid_it_to_a_client() {
    let mut world = World::hard(false);
    let server = world.hosts[2].node.clone();
    for at in 0..2 {
        world.hosts[at].node.cap_map.insert(NO_CLIENT.to_owned(), Vec::new());
        world.grant(at, RELAY_TARGET, &[&server]);
    }
    for _ in 0..30 {
        assert_eq!(world.ping(0, 1), Some(PeerPath::Relayed(999)));
        world.pass(Duration::from_millis(200));
    }
}

#[test]
fn a_server_that_dies_gives_way_to_derp_and_is_used_again_later() {
    let mut world = World::hard(true);
    world.ping_until(relayed_by_peer, Duration::from_secs(1));
    world.pass(Duration::from_secs(1));
    world.server().up = false;
    let silent = world.ping_until(|_| true, Duration::from_secs(2));
    assert!(
        silent >= Duration::from_millis(300),
        "it takes a moment to notice: {silent:?}"
    );
    for _ in 0..100 {
        assert_eq!(world.ping(0, 1), Some(PeerPath::Relayed(999)));
        world.pass(Duration::from_millis(100));
    }
    world.server().up = true;
    world.ping_until(relayed_by_peer, Duration::from_secs(35));
}

#[test]
fn a_nat_that_gives_another_port_is_noticed_and_bound_anew() {
    let mut world = World::hard(true);
    world.ping_until(relayed_by_peer, Duration::from_secs(1));
    world.server().mapped[0] = 50_001;
    world.ping_until(|_| true, Duration::from_secs(2));
    world.ping_until(relayed_by_peer, Duration::from_secs(2));
    let endpoints = world.server().machine.endpoints();
    assert_eq!(endpoints, (1, 1), "the same endpoint");
}

#[test]
fn a_pause_costs_no_packet() {
    let mut world = World::hard(true);
    world.ping_until(relayed_by_peer, Duration::from_secs(1));
    for pause in [8, 60, 250, 400] {
        world.pass(Duration::from_secs(pause));
        assert!(world.ping(0, 1).is_some(), "after {pause} s");
        world.ping_until(relayed_by_peer, Duration::from_secs(32));
    }
}

#[test]
fn a_direct_path_that_opens_is_preferred() {
    let mut world = World::hard(true);
    world.ping_until(relayed_by_peer, Duration::from_secs(1));
    world.udp = true;
    world.ping_until(|path| matches!(path, PeerPath::Direct(_)), Duration::from_secs(8));
    world.udp = false;
    world.ping_until(|path| !matches!(path, PeerPath::Direct(_)), Duration::from_secs(3));
    world.ping_until(relayed_by_peer, Duration::from_secs(40));
}

#[test]
fn strangers_at_the_same_server_get_nothing_in() {
    let mut world = World::hard(true);
    world.ping_until(relayed_by_peer, Duration::from_secs(1));
    let now = world.now;
    for vni in [0u32, 1, 2, 0xff_ffff] {
        for control in [false, true] {
            for kind in [0x11u8, 0x12] {
                let [_, a, b, c] = vni.to_be_bytes();
                let mut datagram = vec![0, if control { 0x80 } else { 0 }, 0x7a, kind, a, b, c, 0];
                datagram.extend_from_slice(b"TS\xf0\x9f\x92\xac");
                datagram.extend_from_slice(&[7; 200]);
                let host = &mut world.hosts[0];
                let (stride, delivered) = (datagram.len(), &mut host.delivered);
                host.engine.handle_udp(SERVER, 0, &mut datagram, stride, now, delivered);
                assert!(host.delivered.is_empty() && host.engine.queue().is_empty());
            }
        }
    }
    assert!(world.ping(0, 1).is_some());
}
