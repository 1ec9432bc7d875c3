//! Plain WireGuard peers: two engines that take each other for one.

use super::*;

/// Two hosts that know of each other as plain peers, and everything that has left them.
struct Plain {
    world: World,
    sent: Vec<(usize, Underlay, u8)>,
}

impl Plain {
    fn meet(change: impl Fn(&mut Node)) -> Self {
        let mut world = World::new(2);
        for host in &mut world.hosts {
            host.node.wireguard_only = true;
            change(&mut host.node);
        }
        world.meet();
        Self {
            world,
            sent: Vec::new(),
        }
    }

    fn settle(&mut self) {
        for _ in 0..50 {
            for at in 0..2 {
                let queue = self.world.hosts[at].engine.queue();
                while let Some(batch) = queue.front() {
                    for datagram in batch.contents().chunks(batch.stride()) {
                        self.sent.push((at, batch.to(), datagram[0]));
                        self.world.wire.push((at, batch.to(), datagram.to_vec()));
                    }
                    queue.pop();
                }
            }
            for (from, to, mut payload) in std::mem::take(&mut self.world.wire) {
                self.world.carry(from, to, &mut payload);
            }
        }
    }

    fn ping(&mut self, from: usize, to: usize) -> Option<PeerPath> {
        let ip = self.world.hosts[to].node.addresses[0].addr();
        let now = self.world.now;
        self.world.hosts[from].engine.ping(ip, Duration::from_secs(2), now)?;
        self.settle();
        self.world.answer_echo(to);
        self.settle();
        self.world.settle();
        let outcome = self.world.hosts[from].outcomes.pop()?;
        outcome.reply.map(|(_, path)| path)
    }
}

#[test]
fn nothing_but_wireguard_goes_to_a_plain_peer_and_nothing_by_relay() {
    let mut plain = Plain::meet(|_| {});
    for (from, to) in [(0, 1), (1, 0), (0, 1)] {
        let path = plain.ping(from, to);
        assert_eq!(path, Some(PeerPath::Direct(plain.world.hosts[to].addr)));
    }
    for _ in 0..100 {
        plain.world.pass(Duration::from_secs(1));
        plain.settle();
    }
    assert!(
        plain.sent.iter().all(|(_, to, _)| matches!(to, Underlay::Udp(_))),
        "a relay"
    );
    assert!(plain.sent.iter().all(|(_, _, kind)| (1..=4).contains(kind)), "no disco");
    // Initiation, response, and data: three echoes and their replies, perhaps a confirmation; no advertisement.
    let packets: u64 = plain
        .world
        .hosts
        .iter()
        .map(|host| host.engine.counters().packets_in)
        .sum();
    assert_eq!(packets, 6);
    let status = &plain.world.hosts[0].engine.peer_status(plain.world.now)[0];
    assert!(status.wireguard_only && status.session);
    assert_eq!(status.path, PeerPath::Direct(plain.world.hosts[1].addr));
}

#[test]
fn a_disco_key_and_a_home_in_the_map_change_nothing() {
    let mut plain = Plain::meet(|node| {
        node.disco_key = Some(DiscoPrivateKey::generate().public());
        node.home_derp = Some(REGION);
        node.endpoints.clear();
    });
    assert_eq!(plain.ping(0, 1), None, "nobody knows where it is");
    assert!(plain.sent.is_empty());
    let engine = &plain.world.hosts[0].engine;
    assert!(engine.by_disco.is_empty());
    assert_eq!(engine.peer_status(plain.world.now)[0].path, PeerPath::Unknown);
}

#[test]
fn a_peer_without_endpoint_is_answered_where_it_calls_from() {
    let mut plain = Plain::meet(|_| {});
    // The second host is behind a NAT: the first one's map has no endpoint of it.
    plain.world.hosts[1].node.endpoints.clear();
    plain.world.tell_map(0, &allow_all(), |_| true);
    assert_eq!(plain.ping(0, 1), None);
    assert!(plain.ping(1, 0).is_some());
    assert_eq!(plain.ping(0, 1), Some(PeerPath::Direct(plain.world.hosts[1].addr)));
}

#[test]
fn an_authenticated_packet_moves_the_path_and_a_new_list_moves_it_back() {
    let mut plain = Plain::meet(|_| {});
    plain.ping(0, 1);
    let old = plain.world.hosts[1].addr;
    plain.world.hosts[1].addr = SocketAddr::from(([198, 51, 100, 9], 51_820));
    let roamed = plain.world.hosts[1].addr;
    assert!(plain.ping(1, 0).is_some());
    assert_eq!(plain.ping(0, 1), Some(PeerPath::Direct(roamed)));
    let path = |plain: &Plain| plain.world.hosts[0].engine.peer_status(plain.world.now)[0].path.clone();
    // The same list again is no news; another one is.
    plain.world.hosts[1].node.hostname = "renamed".to_owned();
    plain.world.tell_map(0, &allow_all(), |_| true);
    assert_eq!(path(&plain), PeerPath::Direct(roamed));
    plain.world.hosts[1]
        .node
        .endpoints
        .push(SocketAddr::from(([192, 0, 2, 77], 1)));
    plain.world.tell_map(0, &allow_all(), |_| true);
    assert_eq!(path(&plain), PeerPath::Direct(old));
}

#[test]
fn a_handshake_tries_every_endpoint_and_data_goes_to_the_one_that_answers() {
    let mut plain = Plain::meet(|_| {});
    let dead = SocketAddr::from(([192, 0, 2, 99], 1));
    let alive = plain.world.hosts[1].addr;
    plain.world.hosts[1].node.endpoints = vec![dead, alive];
    plain.world.tell_map(0, &allow_all(), |_| true);
    assert_eq!(plain.ping(0, 1), Some(PeerPath::Direct(alive)));
    let to_dead = plain.sent.iter().filter(|(_, to, _)| *to == Underlay::Udp(dead));
    assert!(
        to_dead.map(|(_, _, kind)| *kind).eq([1]),
        "one initiation and nothing else"
    );
}

#[test]
fn what_a_relay_delivers_in_its_name_is_dropped() {
    let mut plain = Plain::meet(|_| {});
    plain.ping(0, 1);
    let (key, now) = (plain.world.hosts[1].node.key, plain.world.now);
    let host = &mut plain.world.hosts[0];
    let before = host.engine.counters().dropped_unknown_peer;
    let mut datagram = vec![4u8; 64];
    host.engine
        .handle_derp(REGION, key, &mut datagram, 64, now, &mut host.delivered);
    assert_eq!(host.engine.counters().dropped_unknown_peer, before + 1);
}
