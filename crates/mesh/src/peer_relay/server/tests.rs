//! The server against good clients, bad ones, and arbitrary packets, with invented time.

use proptest::prelude::*;

use super::*;

const SERVER: &str = "203.0.113.9:7777";

struct Client {
    key: DiscoPrivateKey,
    addr: SocketAddr,
}

impl Client {
    fn new(port: u16) -> Self {
        Self {
            key: DiscoPrivateKey::generate(),
            addr: SocketAddr::from(([198, 51, 100, 7], port)),
        }
    }

    fn public(&self) -> DiscoPublicKey {
        self.key.public()
    }

    fn seal(&self, server: &RelayServer, message: &Message) -> Vec<u8> {
        DiscoBox::new(&self.key, &server.public).seal(&self.public(), message)
    }

    /// Asks to bind and returns what the challenge says.
    fn ask(&self, server: &mut RelayServer, told: RelayHandshake, now: Instant) -> Option<RelayHandshake> {
        let packet = self.seal(server, &Message::Bind(told));
        let reply = server.handle_control(self.addr, told.vni, &packet, now)?;
        assert!(reply.len() <= packet.len() + GeneveHeader::LEN, "nothing is amplified");
        let (header, rest) = GeneveHeader::parse(&reply).unwrap();
        assert!(header.control && header.vni == told.vni);
        assert_eq!(sender(rest), Some(server.public));
        let Ok(Message::BindChallenge(challenge)) = DiscoBox::new(&self.key, &server.public).open(rest) else {
            panic!("no challenge");
        };
        Some(challenge)
    }

    fn answer(&self, server: &mut RelayServer, told: RelayHandshake, now: Instant) {
        let packet = self.seal(server, &Message::BindAnswer(told));
        assert_eq!(server.handle_control(self.addr, told.vni, &packet, now), None);
    }

    fn bind(&self, server: &mut RelayServer, remote: &Self, vni: u32, generation: u32, now: Instant) {
        let challenge = self.ask(server, handshake(vni, generation, remote), now).unwrap();
        self.answer(server, challenge, now);
    }
}

fn handshake(vni: u32, generation: u32, remote: &Client) -> RelayHandshake {
    RelayHandshake {
        vni,
        generation,
        remote: remote.public(),
        challenge: [0; 32],
    }
}

fn server(limits: Limits) -> (RelayServer, Instant) {
    let now = Instant::now();
    let mut server = RelayServer::new(DiscoPrivateKey::generate(), limits, now);
    server.set_addresses(vec![SERVER.parse().unwrap()]);
    (server, now)
}

/// A server with two clients that are bound.
fn bound() -> (RelayServer, [Client; 2], u32, Instant) {
    let (mut server, now) = server(Limits::default());
    let [a, b] = [Client::new(1_001), Client::new(1_002)];
    let vni = allocate(&mut server, &a, &b, now).unwrap().vni;
    a.bind(&mut server, &b, vni, 1, now);
    assert_eq!(
        server.forward(a.addr, vni, 1, 100, now),
        None,
        "the other one is not there yet"
    );
    b.bind(&mut server, &a, vni, 77, now);
    (server, [a, b], vni, now)
}

fn allocate(server: &mut RelayServer, a: &Client, b: &Client, now: Instant) -> Option<RelayEndpoint> {
    server.allocate(a.public(), [a.public(), b.public()], now)
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn packets_pass_between_the_two_bound_addresses_and_no_others() {
    let (mut server, [a, b], vni, now) = bound();
    assert_eq!(server.endpoints(), (1, 1));
    assert_eq!(server.forward(a.addr, vni, 3, 300, now), Some(b.addr));
    assert_eq!(server.forward(b.addr, vni, 1, 50, now), Some(a.addr));
    assert_eq!(
        server.counts(),
        Counts {
            packets: 4,
            bytes: 350,
            dropped: 1
        }
    );
    let stranger = SocketAddr::from(([198, 51, 100, 8], 1_001));
    assert_eq!(server.forward(stranger, vni, 1, 50, now), None);
    assert_eq!(server.forward(a.addr, vni + 1, 1, 50, now), None);
    assert_eq!(server.forward(a.addr, 0, 1, 50, now), None);
}

#[test]
fn one_pair_has_one_endpoint_whoever_asks() {
    let (mut server, now) = server(Limits::default());
    let [a, b, c] = [1, 2, 3].map(Client::new);
    let first = allocate(&mut server, &a, &b, now).unwrap();
    assert_eq!(allocate(&mut server, &b, &a, now + seconds(29)), Some(first.clone()));
    assert_eq!(first.clients, sorted_pair(a.public(), b.public()));
    assert_eq!(
        (first.bind_lifetime_ns, first.steady_lifetime_ns),
        (30_000_000_000, 300_000_000_000)
    );
    let other = allocate(&mut server, &a, &c, now).unwrap();
    assert!(other.vni != first.vni && other.lamport_id > first.lamport_id);
    let later = allocate(&mut server, &a, &b, now + seconds(31)).unwrap();
    assert!(later.lamport_id > other.lamport_id, "it had expired");
    // Nobody asks for others, or for oneself, or for the server.
    assert_eq!(server.allocate(c.public(), [a.public(), b.public()], now), None);
    assert_eq!(server.allocate(a.public(), [a.public(), a.public()], now), None);
    let own = server.public;
    assert_eq!(server.allocate(a.public(), [a.public(), own], now), None);
    server.set_addresses(Vec::new());
    assert_eq!(allocate(&mut server, &b, &c, now), None, "nowhere to send them");
}

#[test]
fn unbound_endpoints_live_half_a_minute_and_bound_ones_five_without_packets() {
    let (mut server, [a, b], vni, now) = bound();
    assert_eq!(server.forward(a.addr, vni, 1, 1, now + seconds(299)), Some(b.addr));
    assert_eq!(server.forward(b.addr, vni, 1, 1, now + seconds(299)), Some(a.addr));
    assert_eq!(server.forward(a.addr, vni, 1, 1, now + seconds(590)), Some(b.addr));
    // One side alone keeps nothing alive.
    assert_eq!(server.forward(a.addr, vni, 1, 1, now + seconds(600)), None);
    server.sweep(now + seconds(600));
    assert_eq!(server.endpoints(), (0, 0));

    let (mut server, now) = self::server(Limits::default());
    let vni = allocate(&mut server, &a, &b, now).unwrap().vni;
    assert!(a.ask(&mut server, handshake(vni, 1, &b), now + seconds(30)).is_some());
    assert!(a.ask(&mut server, handshake(vni, 1, &b), now + seconds(31)).is_none());
}

#[test]
fn a_client_binds_again_from_another_address() {
    let (mut server, [mut a, b], vni, now) = bound();
    let old = std::mem::replace(&mut a.addr, SocketAddr::from(([198, 51, 100, 99], 5)));
    let challenge = a.ask(&mut server, handshake(vni, 2, &b), now).unwrap();
    assert_eq!(
        server.forward(old, vni, 1, 1, now),
        Some(b.addr),
        "until the new one is proven"
    );
    a.answer(&mut server, challenge, now);
    assert_eq!(server.forward(old, vni, 1, 1, now), None);
    assert_eq!(server.forward(b.addr, vni, 1, 1, now), Some(a.addr));
}

#[test]
fn a_challenge_counts_for_its_address_its_handshake_and_four_minutes_at_most() {
    let (mut server, now) = server(Limits::default());
    let [mut a, b] = [Client::new(1), Client::new(2)];
    let vni = allocate(&mut server, &a, &b, now).unwrap().vni;
    let good = a.ask(&mut server, handshake(vni, 5, &b), now).unwrap();
    let bound = |server: &RelayServer| server.by_vni[&vni].legs.iter().any(|leg| leg.bound.is_some());
    for bad in [
        RelayHandshake {
            challenge: [0; 32],
            ..good
        },
        RelayHandshake { generation: 6, ..good },
        RelayHandshake { generation: 0, ..good },
        RelayHandshake { vni: vni + 1, ..good },
        RelayHandshake {
            remote: a.public(),
            ..good
        },
    ] {
        a.answer(&mut server, bad, now);
        assert!(!bound(&server), "{bad:?}");
    }
    let addr = std::mem::replace(&mut a.addr, SocketAddr::from(([198, 51, 100, 7], 999)));
    a.answer(&mut server, good, now);
    assert!(!bound(&server), "from elsewhere");
    a.addr = addr;
    a.answer(&mut server, good, now);
    assert!(bound(&server));
    // The same answer a second time opens nothing: its handshake is over.
    a.addr = SocketAddr::from(([198, 51, 100, 7], 999));
    a.answer(&mut server, good, now);
    assert_eq!(server.by_vni[&vni].legs.iter().find_map(|leg| leg.bound), Some(addr));

    // Bound endpoints outlive secrets: a challenge of one that is two rotations old no longer counts.
    let (mut server, [a, b], vni, now) = self::bound();
    for (after, counts) in [(seconds(130), true), (seconds(241), false)] {
        let challenge = a.ask(&mut server, handshake(vni, 9, &b), now).unwrap();
        let before = server.by_vni[&vni].legs.each_ref().map(|leg| leg.seen);
        a.answer(&mut server, challenge, now + after);
        let seen = server.by_vni[&vni].legs.each_ref().map(|leg| leg.seen);
        assert_eq!(seen != before, counts, "{after:?}");
        server.secrets = Secrets::new(now);
    }
}

#[test]
fn a_number_of_its_own_for_everybody_and_a_bound_on_all() {
    let limits = Limits {
        endpoints: 8,
        endpoints_per_client: 5,
        bytes_per_second: None,
    };
    let (mut server, now) = server(limits);
    server.last_vni = MAX_VNI - 2;
    let asking = Client::new(1);
    let others: Vec<_> = (0..9).map(Client::new).collect();
    let given: Vec<_> = others
        .iter()
        .filter_map(|other| allocate(&mut server, &asking, other, now))
        .collect();
    let vnis: Vec<_> = given.iter().map(|endpoint| endpoint.vni).collect();
    assert_eq!(vnis, [MAX_VNI - 1, MAX_VNI, 1, 2, 3], "a client has its share");
    let more = others
        .iter()
        .filter_map(|other| allocate(&mut server, other, &asking, now))
        .count();
    assert_eq!(more, 9 - 1, "five known ones, three new ones");
    assert_eq!(server.endpoints().0, 8);
    assert!(
        allocate(&mut server, &others[0], &others[1], now + seconds(31)).is_some(),
        "room again"
    );
}

#[test]
fn a_pair_has_so_many_bytes_a_second() {
    let limits = Limits {
        bytes_per_second: Some(10_000),
        ..Limits::default()
    };
    let (mut server, now) = server(limits);
    let [a, b] = [Client::new(1), Client::new(2)];
    let vni = allocate(&mut server, &a, &b, now).unwrap().vni;
    a.bind(&mut server, &b, vni, 1, now);
    b.bind(&mut server, &a, vni, 1, now);
    let carried = (0..3_000u64)
        .filter(|ms| {
            server
                .forward(a.addr, vni, 1, 1_000, now + Duration::from_millis(*ms))
                .is_some()
        })
        .count();
    assert!(
        (38..=40).contains(&carried),
        "{carried} kB in three seconds and a second's worth"
    );
}

#[test]
fn a_flood_of_requests_to_bind_is_answered_in_part() {
    let (mut server, now) = server(Limits::default());
    let [a, b] = [Client::new(1), Client::new(2)];
    let vni = allocate(&mut server, &a, &b, now).unwrap().vni;
    let answered = (1..500).filter(|generation| a.ask(&mut server, handshake(vni, *generation, &b), now).is_some());
    assert_eq!(answered.count(), MAX_CONTROL_PER_SECOND as usize);
    assert!(a.ask(&mut server, handshake(vni, 501, &b), now + seconds(1)).is_some());
}

proptest! {
    /// Nothing that does not come from a client's key is answered, and nothing goes to an address that is not bound.
    #[test]
    fn arbitrary_packets_get_silence(
        packets in prop::collection::vec((0u16..4, 0u32..4, prop::collection::vec(any::<u8>(), 0..200), any::<bool>()), 1..60),
    ) {
        let (mut server, [a, b], vni, now) = bound();
        let known = [a.addr, b.addr];
        for (port, number, mut bytes, disco) in packets {
            let from = SocketAddr::from(([198, 51, 100, 7], 1_000 + port));
            if disco {
                let mut packet = b"TS\xf0\x9f\x92\xac".to_vec();
                packet.extend_from_slice(a.public().as_bytes());
                packet.append(&mut bytes);
                bytes = packet;
            }
            prop_assert_eq!(server.handle_control(from, number, &bytes, now), None);
            let to = server.forward(from, number, 1, bytes.len(), now);
            prop_assert_eq!(to.is_some(), number == vni && known.contains(&from));
            prop_assert!(to.is_none_or(|to| known.contains(&to) && to != from));
        }
    }
}
