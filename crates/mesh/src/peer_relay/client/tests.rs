//! The client's machine with invented time; what it sends is looked at, and a good server is played by hand.

use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use sandd_control_client::keys::DiscoPrivateKey;

use super::*;

const STEADY: u64 = 300_000_000_000;

fn new_tx() -> TxId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut tx = TxId::default();
    tx[4..].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    tx
}

fn key() -> DiscoPublicKey {
    DiscoPrivateKey::generate().public()
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

struct World {
    client: RelayClient,
    own: DiscoPublicKey,
    remote: DiscoPublicKey,
    server: DiscoPublicKey,
    now: Instant,
    sent: Vec<ClientAction>,
}

impl World {
    fn new() -> Self {
        let (own, remote, now) = (key(), key(), Instant::now());
        Self {
            client: RelayClient::new(own, remote, new_tx, now),
            own,
            remote,
            server: key(),
            now,
            sent: Vec::new(),
        }
    }

    fn endpoint(&self, lamport_id: u64) -> RelayEndpoint {
        RelayEndpoint {
            server: self.server,
            clients: sorted_pair(self.own, self.remote),
            lamport_id,
            vni: 7,
            bind_lifetime_ns: 30_000_000_000,
            steady_lifetime_ns: STEADY,
            addresses: vec![server_addr(1), server_addr(2)],
        }
    }

    fn drain(&mut self) -> Vec<ClientAction> {
        let actions: Vec<_> = std::iter::from_fn(|| self.client.poll_action()).collect();
        self.sent.extend(actions.iter().cloned());
        actions
    }

    /// Time passes, with every deadline kept.
    fn pass(&mut self, duration: Duration) -> Vec<ClientAction> {
        let end = self.now + duration;
        let mut all = self.drain();
        let mut turns = 0;
        while let Some(at) = self.client.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.client.handle_timeout(self.now);
            all.extend(self.drain());
            turns += 1;
            if self.client.is_idle(self.now) {
                break;
            }
            assert!(turns < 500, "the deadline {:?} does not move", at - self.now);
        }
        self.now = end;
        all
    }

    fn generation(&self) -> u32 {
        let asked = self.sent.iter().rev().find_map(|action| {
            let ClientAction::Control { message, .. } = action else {
                return None;
            };
            let Message::Bind(told) = message else { return None };
            Some(told.generation)
        });
        asked.expect("it asked to bind")
    }

    fn challenge(&mut self, from: u16) -> Vec<ClientAction> {
        let told = RelayHandshake {
            vni: 7,
            generation: self.generation(),
            remote: self.remote,
            challenge: [9; 32],
        };
        let (server, now) = (self.server, self.now);
        self.client.handle_challenge(&server, server_addr(from), &told, now);
        self.drain()
    }

    fn last_ping(&self) -> TxId {
        let ping = self.sent.iter().rev().find_map(|action| {
            let ClientAction::Ping { tx, .. } = action else {
                return None;
            };
            Some(*tx)
        });
        ping.expect("it pinged")
    }

    /// Told by the peer, bound, answered: the way is in use.
    fn bound() -> Self {
        let mut world = Self::new();
        let endpoint = world.endpoint(1);
        world.client.handle_sent(world.now);
        world.client.handle_call(&endpoint, world.now);
        world.drain();
        world.challenge(1);
        world.now += ms(20);
        let tx = world.last_ping();
        world.client.handle_pong(&tx, via(1), world.now);
        world.drain();
        assert_eq!(world.client.route(), Some((via(1), false)));
        world
    }
}

fn server_addr(port: u16) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 9], port))
}

fn via(port: u16) -> Via {
    Via {
        addr: server_addr(port),
        vni: 7,
    }
}

fn pings(actions: &[ClientAction]) -> usize {
    let ping = |action: &&ClientAction| matches!(action, ClientAction::Ping { .. });
    actions.iter().filter(ping).count()
}

#[test]
fn servers_are_asked_after_a_moment_twice_and_not_again_for_half_a_minute() {
    let mut world = World::new();
    world.client.handle_sent(world.now);
    assert!(!world.client.wants_discovery(world.now), "a direct path may come");
    assert_eq!(world.client.poll_timeout(), Some(world.now + GRACE));
    world.now += GRACE;
    assert!(world.client.wants_discovery(world.now));
    world.client.discover((0..9).map(NodeId), world.now);
    assert_eq!(world.drain().len(), MAX_SERVERS);
    let repeated = world.pass(ms(9_000));
    assert_eq!(repeated.len(), MAX_SERVERS, "once more");
    for _ in 0..20 {
        world.client.handle_sent(world.now);
        assert!(!world.client.wants_discovery(world.now));
        assert!(world.pass(ms(1_000)).is_empty());
    }
    world.now += ms(1_000);
    world.client.handle_sent(world.now);
    assert!(world.client.wants_discovery(world.now));
    // Nobody sends, nobody asks.
    world.now += BUSY_FOR;
    assert!(!world.client.wants_discovery(world.now));
}

#[test]
fn an_answer_is_taken_from_who_was_asked_and_told_to_the_peer() {
    let mut world = World::new();
    world.client.discover([NodeId(5)], world.now);
    let asked = world.drain();
    let [ClientAction::Allocate { generation, .. }] = asked[..] else {
        panic!("{asked:?}");
    };
    let endpoint = world.endpoint(1);
    world
        .client
        .handle_allocated(NodeId(6), generation, &endpoint, world.now);
    world
        .client
        .handle_allocated(NodeId(5), generation + 1, &endpoint, world.now);
    assert!(world.drain().is_empty());
    world
        .client
        .handle_allocated(NodeId(5), generation, &endpoint, world.now);
    let actions = world.drain();
    assert_eq!(
        actions[..2],
        [
            ClientAction::Tell(endpoint.clone()),
            ClientAction::Expect(endpoint.server, 7),
        ]
    );
    assert_eq!(actions.len(), 4, "both addresses are tried: {actions:?}");
    world
        .client
        .handle_allocated(NodeId(5), generation, &endpoint, world.now);
    assert!(world.drain().is_empty(), "a second answer is nothing");
}

#[test]
fn endpoints_of_others_and_odd_ones_are_ignored() {
    let mut world = World::new();
    let good = world.endpoint(1);
    let (stranger, own, remote) = (key(), world.own, world.remote);
    let with = |change: &dyn Fn(&mut RelayEndpoint)| {
        let mut endpoint = good.clone();
        change(&mut endpoint);
        endpoint
    };
    let bad = [
        with(&|endpoint| endpoint.clients = [own, stranger]),
        with(&|endpoint| endpoint.clients = [remote, remote]),
        with(&|endpoint| endpoint.vni = 0),
        with(&|endpoint| endpoint.vni = 1 << 24),
        with(&|endpoint| endpoint.server = own),
        with(&|endpoint| endpoint.addresses = vec!["224.0.0.1:5".parse().unwrap(), "0.0.0.0:5".parse().unwrap()]),
        with(&|endpoint| endpoint.addresses = vec![server_addr(0), "255.255.255.255:1".parse().unwrap()]),
    ];
    for endpoint in bad {
        world.client.handle_call(&endpoint, world.now);
        assert!(world.drain().is_empty(), "{endpoint:?}");
    }
}

#[test]
fn the_first_challenge_decides_and_the_peer_is_pinged_ten_times_at_most() {
    let mut world = World::new();
    let endpoint = world.endpoint(1);
    world.client.handle_call(&endpoint, world.now);
    world.drain();
    let actions = world.challenge(2);
    assert!(
        matches!(&actions[..], [ClientAction::Control { to, message: Message::BindAnswer(told), .. }, ClientAction::Ping { .. }]
            if *to == via(2) && told.challenge == [9; 32]),
        "{actions:?}"
    );
    assert!(world.challenge(1).is_empty(), "the server takes one address");
    world.client.handle_ping(via(1), world.now);
    assert!(world.drain().is_empty(), "not from there");
    for _ in 0..50 {
        world.client.handle_ping(via(2), world.now);
    }
    assert_eq!(pings(&world.drain()) + 1, 10);
    assert!(pings(&world.pass(ms(60_000))) == 0);
    assert!(world.sent.contains(&ClientAction::Forget(endpoint.server, 7)));
    assert_eq!(world.client.route(), None);
}

#[test]
fn lost_messages_are_sent_again() {
    let mut world = World::new();
    let endpoint = world.endpoint(1);
    world.client.handle_call(&endpoint, world.now);
    let binds = world.pass(ms(2_600)).len() - 1;
    assert_eq!(binds, 2 * 4, "to two addresses, four times");
    world.challenge(1);
    let again = world.pass(ms(2_600));
    assert_eq!(pings(&again), 3, "with the answer before them: {again:?}");
    assert_eq!(again.len(), 6);
}

#[test]
fn a_way_that_falls_silent_is_suspected_and_given_up() {
    let mut world = World::bound();
    // Answers keep it.
    for _ in 0..20 {
        world.client.handle_sent(world.now);
        world.pass(ms(300));
        world.client.handle_opened(Some(via(1)), world.now);
        assert_eq!(world.client.route(), Some((via(1), false)));
    }
    world.client.handle_sent(world.now);
    world.pass(ms(950));
    assert_eq!(world.client.route(), Some((via(1), false)));
    let actions = world.pass(ms(150));
    assert_eq!(world.client.route(), Some((via(1), true)), "DERP carries copies");
    assert!(actions.iter().any(|action| matches!(
        action,
        ClientAction::Control {
            message: Message::Bind(_),
            ..
        }
    )));
    let actions = world.pass(ms(8_000));
    assert!(actions.contains(&ClientAction::Changed));
    assert_eq!(world.client.route(), None);
}

#[test]
fn a_pong_clears_the_suspicion_and_a_wrong_one_does_not() {
    let mut world = World::bound();
    world.now += ms(7_000);
    world.client.handle_sent(world.now);
    assert_eq!(
        world.client.route(),
        Some((via(1), true)),
        "too old to be trusted alone"
    );
    world.drain();
    let tx = world.last_ping();
    world.client.handle_pong(&new_tx(), via(1), world.now);
    world.client.handle_pong(&tx, via(2), world.now);
    assert_eq!(world.client.route(), Some((via(1), true)));
    world.client.handle_pong(&tx, via(1), world.now);
    assert_eq!(world.client.route(), Some((via(1), false)));
}

#[test]
fn heartbeats_go_with_traffic_and_end_with_it() {
    let mut world = World::bound();
    let mut beats = 0;
    for _ in 0..300 {
        world.client.handle_sent(world.now);
        beats += pings(&world.pass(ms(100)));
        let tx = world.last_ping();
        world.client.handle_pong(&tx, via(1), world.now);
        world.client.handle_opened(Some(via(1)), world.now);
    }
    assert!((9..=11).contains(&beats), "{beats} in half a minute");
    world.pass(ms(12_000));
    assert_eq!(pings(&world.pass(ms(60_000))), 0);
    world.pass(Duration::from_secs(300));
    assert_eq!(world.client.route(), None, "the server has forgotten us by now");
    assert!(world.client.is_idle(world.now));
}

#[test]
fn a_packet_over_derp_makes_us_ask_sooner() {
    let mut world = World::bound();
    world.client.handle_opened(None, world.now);
    assert_eq!(pings(&world.drain()), 0, "the peer has not changed over yet");
    world.now += ms(2_500);
    world.client.handle_opened(None, world.now);
    assert_eq!(pings(&world.drain()), 1);
    world.pass(ms(260));
    assert_eq!(world.client.route(), Some((via(1), true)));
}

#[test]
fn a_newer_endpoint_of_a_server_replaces_the_older() {
    let mut world = World::new();
    let (old, new) = (world.endpoint(1), world.endpoint(2));
    world.client.handle_call(&old, world.now);
    world.drain();
    let first = world.generation();
    world.client.handle_call(&old, world.now);
    assert!(world.drain().is_empty());
    world.client.handle_call(&new, world.now);
    assert!(world.drain().len() == 4 && world.generation() != first);
    world.client.handle_call(&old, world.now);
    assert!(world.drain().is_empty());
}

proptest! {
    /// A peer that floods us with endpoints makes us send so many packets and no more.
    #[test]
    fn a_flood_of_calls_is_bounded(calls in prop::collection::vec((0u64..50, 0u8..20, 1usize..64), 1..400)) {
        let mut world = World::new();
        let servers: Vec<_> = (0..20).map(|_| key()).collect();
        let mut sent = 0;
        for (lamport, server, count) in calls {
            let mut endpoint = world.endpoint(lamport);
            endpoint.server = servers[usize::from(server)];
            endpoint.addresses = (1..=count).map(|port| server_addr(port as u16)).collect();
            world.client.handle_call(&endpoint, world.now);
            let control = |action: &&ClientAction| matches!(action, ClientAction::Control { .. });
            sent += world.drain().iter().filter(control).count();
            prop_assert!(world.client.handshakes.len() <= MAX_HANDSHAKES);
        }
        prop_assert!(sent <= MAX_BEGUN as usize * MAX_ADDRESSES);
    }
}
