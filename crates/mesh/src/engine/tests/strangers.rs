//! WireGuard at the engine's edge: who gets an answer, and what the lengths tell.

use super::*;

/// Everything that one host has to send, taken off its queue.
fn sent(host: &mut Host) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let queue = host.engine.queue();
    while let Some(batch) = queue.front() {
        all.extend(batch.contents().chunks(batch.stride()).map(<[u8]>::to_vec));
        queue.pop();
    }
    all
}

#[test]
fn a_stranger_hears_nothing_and_leaves_nothing_behind() {
    let mut world = World::new(3);
    world.meet();
    world.tell_map(0, &allow_all(), |other| other != 2);
    world.settle();
    let ip = world.hosts[0].node.addresses[0].addr();
    let now = world.now;
    world.hosts[2].engine.ping(ip, Duration::from_secs(2), now);
    let knocks = sent(&mut world.hosts[2]);
    assert!(knocks.iter().any(|datagram| datagram[0] == 1));
    let from = world.hosts[2].addr;
    for _ in 0..1_000 {
        for knock in &knocks {
            let (mut datagram, host) = (knock.clone(), &mut world.hosts[0]);
            let stride = datagram.len();
            host.engine
                .handle_udp(from, 0, &mut datagram, stride, now, &mut host.delivered);
        }
    }
    // Neither an answer to its initiation nor a tunnel, an index or a path; under load a cookie, which costs it the same.
    let answers = sent(&mut world.hosts[0]);
    assert!(answers.iter().all(|datagram| datagram[0] == 3), "{answers:?}");
    assert!(world.hosts[0].engine.indices.is_empty());
    assert!(world.hosts[0].engine.peers.values().all(|peer| peer.tunnel.is_none()));
    assert!(world.hosts[0].delivered.is_empty());
}

#[test]
fn a_removed_peer_hears_nothing_from_then_on() {
    let mut world = World::new(2);
    world.meet();
    world.ping(0, 1);
    world.ping(1, 0);
    world.tell_map(0, &allow_all(), |_| false);
    world.settle();
    let (ip, now, from) = (world.hosts[0].node.addresses[0].addr(), world.now, world.hosts[1].addr);
    world.hosts[1].engine.ping(ip, Duration::from_secs(2), now);
    for mut datagram in sent(&mut world.hosts[1]) {
        let host = &mut world.hosts[0];
        let stride = datagram.len();
        host.engine
            .handle_udp(from, 0, &mut datagram, stride, now, &mut host.delivered);
    }
    assert!(sent(&mut world.hosts[0]).is_empty());
    assert!(world.hosts[0].engine.indices.is_empty());
}

#[test]
fn lengths_are_multiples_of_sixteen() {
    let mut world = World::new(2);
    world.meet();
    world.ping(0, 1);
    world.settle();
    let (source, destination) = (
        world.hosts[0].node.addresses[0].addr(),
        world.hosts[1].node.addresses[0].addr(),
    );
    let now = world.now;
    for len in 0..1_000usize {
        let payload = vec![7; len];
        let packet = encode_echo_request(source, destination, 1, len as u16, &payload);
        let Some(packet) = packet else { continue };
        world.hosts[0].engine.send_overlay(&packet, now);
        for datagram in sent(&mut world.hosts[0]).iter().filter(|datagram| datagram[0] == 4) {
            assert_eq!(datagram.len() % 16, 0, "{len}");
        }
    }
}

#[test]
fn a_restarted_peer_is_reached_within_six_seconds() {
    let mut world = World::new(2);
    world.meet();
    for _ in 0..5 {
        assert!(world.ping(0, 1).is_some());
        world.pass(Duration::from_millis(500));
    }
    // It comes back with the same keys and nothing else, and does not call by itself.
    let disco = DiscoPrivateKey::generate();
    world.hosts[1].engine = Engine::new(&world.hosts[1].key, disco, 1_280, clock());
    world.tell_map(1, &allow_all(), |_| true);
    let start = world.now;
    while world.ping(0, 1).is_none() {
        world.pass(Duration::from_millis(500));
        assert!(world.now - start < Duration::from_secs(6));
    }
}
