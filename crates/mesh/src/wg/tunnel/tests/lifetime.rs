//! How sessions begin, are renewed and end.

use std::time::Duration;

use super::super::*;
use super::world::{World, plain};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn the_responder_sends_on_new_keys_only_after_the_initiator() {
    let mut world = World::new();
    world.link = Box::new(|_, _| Vec::new());
    let initiation = world.initiate(0).unwrap();
    assert!(world.deliver(1, &initiation));
    let response = world.ends[1].sent[0].1.clone();
    assert!(!world.ends[1].tunnel.has_session());
    assert!(!world.say(1, b"too early"), "what is said now waits");
    assert!(world.deliver(0, &response));
    assert!(world.ends[0].tunnel.has_session());
    let keepalive = world.ends[0].sent.last().unwrap().1.clone();
    assert_eq!(
        (keepalive[0], keepalive.len()),
        (4, 32),
        "the initiator shows that it has the keys"
    );
    assert!(world.deliver(1, &keepalive));
    assert!(world.ends[1].tunnel.has_session());
    assert!(world.ends[1].sent.last().unwrap().1.len() > 32, "what waited goes out");
}

/// A deadline that stays in the past after it was handled would keep the engine in its loop for ever.
#[test]
fn a_handshake_for_its_own_sake_leaves_no_deadline_behind() {
    let mut world = World::new();
    world.link = Box::new(|_, _| Vec::new());
    assert!(world.initiate(0).is_some());
    world.pass(300 * SECOND);
    assert_eq!(world.ends[0].tunnel.poll_timeout(), None);
    // 5 s apart for 90 s.
    assert!((15..=18).contains(&world.count(0, 1)), "{}", world.count(0, 1));
    assert!(!world.ends[0].tunnel.handshaking());
}

#[test]
fn a_waiting_packet_repeats_the_initiation_early() {
    let mut world = World::new();
    world.link = Box::new(|_, _| Vec::new());
    world.say(0, b"wait");
    world.pass(Duration::from_millis(2_500));
    let start = world.ends[0].sent[0].0;
    let ages: Vec<_> = world.ends[0]
        .sent
        .iter()
        .map(|(at, _)| (*at - start).as_millis())
        .collect();
    assert_eq!(ages, [0, 100, 250, 500, 1_000, 2_000]);
    let messages: Vec<_> = world.ends[0].sent.iter().map(|(_, message)| message).collect();
    assert_eq!(messages[0], messages[2]);
    assert_ne!(messages[0], messages[3]);
    world.link = Box::new(|_, _| vec![Duration::ZERO]);
    world.pass(6 * SECOND);
    assert_eq!(world.ends[1].opened, [b"wait"]);
}

#[test]
fn after_ninety_seconds_waiting_packets_are_dropped() {
    let mut world = World::new();
    world.link = Box::new(|_, _| Vec::new());
    for at in 0..300u16 {
        world.say(0, &at.to_be_bytes());
    }
    assert_eq!(world.ends[0].tunnel.staged.len(), MAX_STAGED);
    world.pass(100 * SECOND);
    assert!(world.ends[0].tunnel.staged.is_empty());
    world.link = Box::new(|_, _| vec![Duration::ZERO]);
    world.say(0, b"anew");
    world.settle();
    assert_eq!(world.ends[1].opened, [b"anew"]);
}

#[test]
fn thirty_minutes_at_one_packet_a_second_lose_nothing_and_renew_on_time() {
    for way in [&[0usize][..], &[1], &[0, 1]] {
        let mut world = World::connected();
        let (before, heard) = (
            world.count(0, 1) + world.count(1, 1),
            [0, 1].map(|at| world.ends[at].opened.len()),
        );
        for at in 0..1_800u32 {
            for from in way {
                world.say(*from, &at.to_be_bytes());
            }
            world.pass(SECOND);
            let live: Vec<_> = world
                .ends
                .iter()
                .map(|end| end.tunnel.sessions.indices().count())
                .collect();
            assert!(live.iter().all(|live| *live <= 2), "{at} s: {live:?}");
        }
        for from in way {
            assert_eq!(world.ends[1 - from].opened.len() - heard[1 - from], 1_800, "{way:?}");
        }
        let initiations = world.count(0, 1) + world.count(1, 1) - before;
        // A session of ours is renewed when we send at 120 s, or hear at 165 s.
        let expected = if way == [1] { 10..=11 } else { 14..=15 };
        assert!(expected.contains(&initiations), "{way:?}: {initiations}");
        assert_eq!(world.count(1, 1), 0, "only the initiator renews");
    }
}

#[test]
fn full_rate_over_fifteen_renewals_loses_nothing() {
    let mut world = World::connected();
    // Four milliseconds each way, so that handshakes overlap with data in flight.
    world.link = Box::new(|_, _| vec![Duration::from_millis(4)]);
    let mut said = [0u32; 2];
    let before = world.count(0, 1);
    let heard = [0, 1].map(|at| world.ends[at].opened.len());
    // 32 minutes at 100 packets a second each way stand for full rate; nothing in here depends on the rate.
    for _ in 0..32 * 60 * 50 {
        for (at, said) in said.iter_mut().enumerate() {
            for _ in 0..2 {
                assert!(world.say(at, &said.to_be_bytes()), "no packet waits at a renewal");
                *said += 1;
            }
        }
        world.pass(Duration::from_millis(20));
    }
    world.pass(SECOND);
    for at in 0..2 {
        assert_eq!((world.ends[at].opened.len() - heard[at]) as u32, said[1 - at]);
        let in_order = world.ends[at].opened[heard[at]..]
            .windows(2)
            .all(|pair| pair[0] < pair[1]);
        assert!(in_order);
    }
    let renewals = world.count(0, 1) - before;
    assert!((15..=16).contains(&renewals), "{renewals}");
    assert_eq!(world.count(1, 1), 0);
}

#[test]
fn both_call_at_once_and_agree() {
    let mut world = World::new();
    world.link = Box::new(|_, _| vec![Duration::from_millis(10)]);
    world.say(0, b"left");
    world.say(1, b"right");
    world.pass(SECOND);
    for at in 0..2 {
        assert_eq!(world.ends[at].opened.len(), 1);
    }
    // After the first renewal there is one session and one initiator.
    let mut sent = 0u32;
    for _ in 0..400 {
        for at in 0..2 {
            assert!(world.say(at, &sent.to_be_bytes()));
        }
        sent += 1;
        world.pass(SECOND);
    }
    for end in &world.ends {
        assert_eq!(end.opened.len() as u32, 1 + sent);
    }
    let roles = [0, 1].map(|at: usize| world.ends[at].tunnel.sessions.current().unwrap().role);
    assert_ne!(roles[0], roles[1]);
}

#[test]
fn a_session_is_not_used_past_its_age() {
    let mut world = World::connected();
    world.link = Box::new(|_, _| Vec::new());
    let now = world.now;
    world.say(0, b"kept by the attacker");
    let late = world.ends[0].sent.last().unwrap().1.clone();
    world.now = now + 180 * SECOND;
    assert!(!world.ends[0].tunnel.ready(world.now));
    assert!(!world.deliver(1, &late), "authentic, but its keys are too old");
    let mut slot = super::world::slot_of(b"secret");
    let stride = slot.len();
    world.ends[0]
        .tunnel
        .seal_slots(&mut slot, stride, world.now, &mut Vec::new());
    assert!(slot.iter().all(|byte| *byte == 0), "nothing leaves in the clear");
}

#[test]
fn counters_end_before_the_limit_and_new_keys_come_first() {
    const REJECT: u64 = u64::MAX - (1 << 13) - 1;
    let mut world = World::connected();
    world.pass(10 * SECOND);
    let before = world.count(0, 1);
    world.ends[0]
        .tunnel
        .current_session()
        .unwrap()
        .set_counter((1 << 60) - 2);
    world.say(0, b"one");
    assert_eq!(world.count(0, 1), before);
    world.say(0, b"two");
    assert_eq!(world.count(0, 1), before + 1, "worn keys are renewed");
    world.settle();
    world.say(0, b"three");
    world.settle();
    assert_eq!(world.ends[1].opened.len(), 4);
    assert_eq!(
        u64::from_le_bytes(world.ends[0].sent.last().unwrap().1[8..16].try_into().unwrap()),
        1
    );

    // Near the end nothing is sealed, and a new session is asked for.
    let mut world = World::connected();
    world.pass(10 * SECOND);
    world.ends[0].tunnel.current_session().unwrap().set_counter(REJECT - 10);
    assert!(!world.say(0, b"waits"));
    assert_eq!(world.ends[0].sent.last().unwrap().1[0], 1);
    world.settle();
    assert_eq!(world.ends[1].opened.last().unwrap(), b"waits");

    // Even a caller who does not ask gets nothing sealed past it.
    let mut world = World::connected();
    let session = world.ends[0].tunnel.current_session().unwrap();
    session.set_counter(REJECT - 1);
    let mut slots = [vec![1; 48], vec![1; 48]].concat();
    assert!(!session.seal(&mut slots, 48));
    assert!(session.seal(&mut slots[..48], 48));
    assert!(!session.seal(&mut slots[..48], 48));
    // A receiver refuses such counters, whoever made them.
    slots[8..16].copy_from_slice(&REJECT.to_le_bytes());
    assert_eq!(session.open(&mut slots[..48], 48), 0);
}

#[test]
fn indices_are_given_back() {
    let mut world = World::connected();
    for _ in 0..2_000 {
        world.say(0, b"x");
        world.say(1, b"x");
        world.pass(SECOND);
    }
    for end in &mut world.ends {
        assert!(end.tunnel.spares.len() == SPARES && end.tunnel.gone.is_empty());
        end.tunnel.release(&mut end.table);
        assert!(end.table.is_empty());
    }
}

#[test]
fn a_restarted_peer_is_found_again_in_two_seconds() {
    let mut world = World::connected();
    world.link = Box::new(|_, _| vec![Duration::from_millis(20)]);
    let ping = |world: &mut World, at: u32| {
        world.say(0, &at.to_be_bytes());
        world.pass(Duration::from_millis(100));
        // The other end answers what it hears.
        let heard = world.ends[1].opened.last() == Some(&at.to_be_bytes().to_vec());
        if heard {
            world.say(1, &at.to_be_bytes());
        }
        world.pass(Duration::from_millis(400));
        world.ends[0].opened.last() == Some(&at.to_be_bytes().to_vec())
    };
    for at in 0..50 {
        assert!(ping(&mut world, at));
    }
    world.restart(1);
    let lost_at = world.now;
    let mut at = 1_000;
    while !ping(&mut world, at) {
        at += 1;
        assert!(world.now - lost_at < 3 * SECOND);
    }
    assert!(
        world.now - lost_at <= Duration::from_millis(2_500),
        "{:?}",
        world.now - lost_at
    );
    // A second time within a minute it is WireGuard's own fifteen seconds.
    for at in 0..10 {
        assert!(ping(&mut world, at));
    }
    world.restart(1);
    let lost_at = world.now;
    while !ping(&mut world, at) {
        at += 1;
        assert!(world.now - lost_at < 17 * SECOND);
    }
    assert!(world.now - lost_at > 10 * SECOND);
}

#[test]
fn a_restarted_peer_that_calls_is_heard_at_once() {
    let mut world = World::connected();
    world.restart(1);
    world.say(1, b"I am back");
    world.settle();
    assert_eq!(world.ends[0].opened.last().unwrap(), b"I am back");
    world.say(0, b"welcome");
    world.settle();
    assert_eq!(world.ends[1].opened.last().unwrap(), b"welcome");
}

#[test]
fn traffic_in_one_direction_asks_for_no_new_keys() {
    // Conversation first, so that the peer counts as one that answers at once; then only one side speaks.
    for speaker in 0..2 {
        let mut world = World::connected();
        for at in 0..20u32 {
            world.say(0, &at.to_be_bytes());
            world.settle();
            world.say(1, &at.to_be_bytes());
            world.pass(Duration::from_millis(300));
        }
        let before = world.count(0, 1) + world.count(1, 1);
        for at in 0..3_000u32 {
            world.say(speaker, &at.to_be_bytes());
            world.pass(Duration::from_millis(20));
        }
        let asked = world.count(0, 1) + world.count(1, 1) - before;
        // One doubt at the turn, then the peer is known to be silent.
        assert!(asked <= 1, "{asked}");
    }
}

#[test]
fn the_end_of_a_conversation_asks_for_no_new_keys() {
    let mut world = World::connected();
    let before = world.count(0, 1) + world.count(1, 1);
    for _ in 0..40 {
        for at in 0..20u32 {
            world.say(0, &at.to_be_bytes());
            world.pass(Duration::from_millis(5));
            world.say(1, &at.to_be_bytes());
            world.pass(Duration::from_millis(5));
        }
        // The last word, which nobody answers.
        world.say(0, b"ack");
        world.pass(Duration::from_millis(2_200));
    }
    assert_eq!(world.count(0, 1) + world.count(1, 1), before);
}

#[test]
fn a_persistent_keepalive_fills_silence_only() {
    let every = |public: &PublicKey| PeerConfig {
        keepalive: Some(25 * SECOND),
        ..plain(public)
    };
    let mut world = World::with(every, plain);
    world.pass(SECOND);
    assert!(world.ends[0].tunnel.has_session(), "it connects by itself");
    let before = world.keepalives(0);
    world.pass(100 * SECOND);
    assert_eq!(world.keepalives(0) - before, 4);
    let before = world.keepalives(0);
    for _ in 0..100 {
        world.say(0, b"x");
        world.pass(SECOND);
    }
    // One more, that of the renewal on the way.
    assert_eq!(world.keepalives(0), before + 1);
}
