//! What an attacker on the way keeps, changes and sends again.

use std::time::{Duration, SystemTime};

use super::super::*;
use super::world::{End, World, end, plain};
use crate::wg::{Clock, StaticSecret};

const SECOND: Duration = Duration::from_secs(1);

/// A small generator, so that an order can be repeated from its seed.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end.max(1)
    }

    fn shuffle<T>(&mut self, all: &mut [T]) {
        for at in (1..all.len()).rev() {
            all.swap(at, self.below(at + 1));
        }
    }
}

#[test]
fn ten_thousand_packets_are_delivered_once_in_whatever_order_they_are_replayed() {
    let mut world = World::connected();
    let heard = world.ends[1].opened.len();
    let mut recorded = Vec::new();
    for at in 0..10_000u32 {
        world.say(0, &at.to_be_bytes());
        recorded.push(world.ends[0].sent.last().unwrap().1.clone());
    }
    // The first half arrives; then everything of it again, in three orders, before the window moves on.
    let (first, second) = recorded.split_at(5_000);
    world.flying.clear();
    let mut replays: Vec<Vec<u8>> = first.iter().cloned().chain(first.iter().rev().cloned()).collect();
    Random(7).shuffle(&mut replays);
    for datagram in first {
        assert!(world.deliver(1, datagram));
    }
    for datagram in &replays {
        assert!(!world.deliver(1, datagram));
    }
    for datagram in second {
        assert!(world.deliver(1, datagram));
    }
    // After it has moved on, too, and in the next session.
    for _ in 0..2 {
        for datagram in recorded.iter().rev() {
            assert!(!world.deliver(1, datagram));
        }
        world.now += 121 * SECOND;
        world.say(0, b"renewed");
        world.settle();
    }
    assert_eq!(world.ends[1].opened.len() - heard, 10_000 + 2);
}

#[test]
fn a_run_with_the_same_packet_twice_has_it_once() {
    let mut world = World::connected();
    world.say(0, b"once");
    let slot = world.ends[0].sent.last().unwrap().1.clone();
    let mut run = [&slot[..], &slot, &slot].concat();
    let opened = world.ends[1]
        .tunnel
        .open_slots(&mut run, slot.len(), world.now, &mut Vec::new());
    assert_eq!(opened, 1);
}

#[test]
fn a_run_is_opened_slot_by_slot() {
    let mut world = World::connected();
    let slot = super::world::slot_of(b"equal");
    let mut run = slot.repeat(45);
    let (stride, now) = (slot.len(), world.now);
    world.ends[0].tunnel.seal_slots(&mut run, stride, now, &mut Vec::new());
    // One is changed on its way, one comes as another index's.
    run[3 * stride + HEADER] ^= 1;
    let opened = world.ends[1].tunnel.open_slots(&mut run, stride, now, &mut Vec::new());
    assert_eq!(opened, ((1 << 45) - 1) & !(1 << 3));
    for (at, slot) in run.chunks(stride).enumerate().filter(|(at, _)| *at != 3) {
        assert_eq!(super::world::text_of(slot), b"equal", "{at}");
    }
}

#[test]
fn an_initiation_is_answered_once_and_an_older_one_never() {
    let mut world = World::new();
    world.link = Box::new(|_, _| Vec::new());
    let old = world.initiate(0).unwrap();
    world.now += SECOND;
    let new = world.initiate(0).unwrap();
    assert!(world.deliver(1, &new));
    let response = world.ends[1].sent[0].1.clone();
    assert!(world.deliver(0, &response));
    let keepalive = world.ends[0].sent.last().unwrap().1.clone();
    assert!(world.deliver(1, &keepalive));
    let session = world.ends[1].tunnel.session_since();
    for _ in 0..3 {
        for replay in [&new, &old] {
            assert!(!world.deliver(1, replay));
            world.now += 40 * SECOND;
        }
        assert!(!world.deliver(0, &response));
    }
    assert_eq!(world.count(1, 2), 1, "no second response");
    // Both have gone by now: replays do not bring them back.
    world.pass(SECOND);
    assert!(world.ends.iter().all(|end| !end.tunnel.has_session()) || world.ends[1].tunnel.session_since() == session);
    assert!(!world.deliver(1, &new));
}

#[test]
fn a_replayed_initiation_leaves_a_living_session_alone() {
    let mut world = World::connected();
    let initiation = world.ends[0].sent[0].1.clone();
    let before = world.ends[1].tunnel.sessions.indices().collect::<Vec<_>>();
    for _ in 0..100 {
        assert!(!world.deliver(1, &initiation));
        world.pass(Duration::from_millis(10));
    }
    assert_eq!(world.ends[1].tunnel.sessions.indices().collect::<Vec<_>>(), before);
    assert_eq!(world.count(1, 2), 1);
    world.say(1, b"still here");
    world.settle();
    assert_eq!(world.ends[0].opened.last().unwrap(), b"still here");
}

#[test]
fn a_clock_set_back_makes_no_replays_of_ours() {
    // The wall clock is read once. What it does later does not matter to those who know our last timestamp.
    let mut world = World::connected();
    world.pass(130 * SECOND);
    assert!(world.say(0, b"renew"));
    world.settle();
    assert_eq!(world.count(1, 2), 2);
    // After a restart with a clock an hour behind, peers take us for a replay: silence, and their state stays.
    let now = world.now;
    let behind = Clock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_750_000_000 - 3_600), now);
    let secret = StaticSecret::random();
    let public = PublicKey::from(&secret);
    let (fresh, late) = (
        Arc::new(Identity::new(
            secret.clone(),
            Clock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_750_000_000), now),
        )),
        Arc::new(Identity::new(secret, behind)),
    );
    let peer = *world.ends[1].identity.public();
    world.ends[1] = end(&Arc::clone(&world.ends[1].identity), plain(&public), now);
    world.ends[0] = end(&fresh, plain(&peer), now);
    world.say(0, b"hello");
    world.settle();
    assert!(world.ends[1].tunnel.has_session());
    world.ends[0] = end(&late, plain(&peer), now);
    let answers = world.count(1, 2);
    world.say(0, b"an hour ago");
    world.pass(3 * SECOND);
    assert_eq!(world.count(1, 2), answers);
    assert!(world.ends[1].tunnel.has_session());
}

#[test]
fn forged_responses_do_not_end_a_handshake() {
    let mut random = Random(3);
    let mut world = World::new();
    world.link = Box::new(|_, _| Vec::new());
    let initiation = world.initiate(0).unwrap();
    assert!(world.deliver(1, &initiation));
    let response = world.ends[1].sent[0].1.clone();
    for round in 0..1_000 {
        let mut forged = response.clone();
        // Type and length stay, and mostly the index that the attacker has seen.
        let at = if round % 10 == 0 {
            8 + random.below(4)
        } else {
            12 + random.below(48)
        };
        forged[at] ^= 1 << random.below(8);
        assert!(!world.deliver(0, &forged), "round {round}, byte {at}");
    }
    // One from somebody else who answers in the peer's place.
    let mut stranger = World::new();
    let own = Arc::clone(&world.ends[0].identity);
    stranger.ends[1].tunnel = Tunnel::new(&Arc::clone(&stranger.ends[1].identity), plain(own.public()), world.now);
    assert!(world.ends[0].tunnel.handshaking());
    assert!(world.deliver(0, &response), "the true one completes it");
    assert!(world.ends[0].tunnel.has_session());
}

#[test]
fn whatever_is_changed_on_the_way_is_refused() {
    let mut world = World::new();
    world.link = Box::new(|_, _| Vec::new());
    let initiation = world.initiate(0).unwrap();
    for at in 4..116 {
        let mut changed = initiation.clone();
        changed[at] ^= 0x40;
        // The sender's index is not covered by the handshake, but by mac1, which the guard checks.
        if at >= 8 {
            assert!(!world.deliver(1, &changed), "byte {at}");
        }
    }
    assert!(world.deliver(1, &initiation));
    let response = world.ends[1].sent.last().unwrap().1.clone();
    assert!(world.deliver(0, &response));
    world.say(0, b"text");
    let data = world.ends[0].sent.last().unwrap().1.clone();
    for at in 4..data.len() {
        let mut changed = data.clone();
        changed[at] ^= 0x40;
        assert!(!world.deliver(1, &changed), "byte {at}");
    }
    assert!(
        !world.ends[1].tunnel.has_session(),
        "nothing of it confirmed the session"
    );
    assert!(world.deliver(1, &data));
    assert!(world.ends[1].tunnel.has_session());
}

#[test]
fn an_initiation_repeated_over_a_long_way_loses_no_session() {
    for way in [60, 110, 180, 320, 450, 800] {
        let mut world = World::new();
        world.link = Box::new(move |_, _| vec![Duration::from_millis(way)]);
        for at in 0..20u32 {
            world.say(0, &at.to_be_bytes());
        }
        for at in 20..100u32 {
            world.pass(Duration::from_millis(50));
            world.say(0, &at.to_be_bytes());
            world.say(1, &at.to_be_bytes());
        }
        world.pass(5 * SECOND);
        assert_eq!(world.ends[1].opened.len(), 100, "{way} ms");
        assert_eq!(world.ends[0].opened.len(), 80, "{way} ms");
    }
}

#[test]
fn a_stranger_gets_nothing() {
    let mut world = World::connected();
    let now = world.now;
    let mut stranger: End = end(
        &super::world::identity(now),
        plain(world.ends[1].identity.public()),
        now,
    );
    let initiation = stranger.tunnel.initiate(now).unwrap();
    let before = world.ends[1].sent.len();
    assert!(!world.deliver(1, &initiation), "another key than this tunnel's peer");
    assert_eq!(world.ends[1].sent.len(), before);
}
