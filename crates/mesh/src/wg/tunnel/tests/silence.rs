//! What can be seen from outside: who calls whom, lengths, and when nothing is said.

use std::time::Duration;

use super::super::*;
use super::world::{World, identity};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn nobody_can_read_who_calls() {
    let mut world = World::connected();
    world.pass(200 * SECOND);
    world.say(0, b"again");
    world.settle();
    let keys = world.ends.each_ref().map(|end| *end.identity.public().as_bytes());
    for (_, datagram) in world.ends.iter().flat_map(|end| &end.sent) {
        for key in &keys {
            assert!(!datagram.windows(32).any(|bytes| bytes == key));
        }
    }
    // One for whom it was not made cannot open it either.
    let initiation = world.initiate(0).unwrap();
    let Ok(Packet::HandshakeInit(init)) = Packet::parse(&initiation) else {
        panic!()
    };
    assert!(identity(world.now).read_initiation(&init).is_err());
    let initiator = world.ends[1].identity.read_initiation(&init).unwrap();
    assert_eq!(initiator.static_public(), world.ends[0].identity.public());
}

#[test]
fn two_calls_have_nothing_in_common_but_the_type() {
    let mut world = World::new();
    world.link = Box::new(|_, _| Vec::new());
    let first = world.initiate(0).unwrap();
    world.now += SECOND;
    let second = world.initiate(0).unwrap();
    let equal = first[4..132]
        .chunks(4)
        .zip(second[4..132].chunks(4))
        .filter(|(a, b)| a == b);
    assert_eq!(equal.count(), 0);
}

#[test]
fn an_idle_pair_is_silent() {
    let mut world = World::connected();
    // What is owed to the last data, then nothing, not even at the sessions' end.
    world.pass(11 * SECOND);
    let before = world.ends.each_ref().map(|end| end.sent.len());
    world.pass(3_600 * SECOND);
    assert_eq!(world.ends.each_ref().map(|end| end.sent.len()), before);
    for end in &world.ends {
        assert!(!end.tunnel.has_session());
        assert_eq!(end.tunnel.poll_timeout(), None, "and wants no time");
    }
}

#[test]
fn data_without_answer_gets_one_keepalive_after_ten_seconds() {
    let mut world = World::connected();
    world.pass(30 * SECOND);
    let before = [world.keepalives(0), world.keepalives(1)];
    world.say(0, b"one way");
    world.pass(Duration::from_millis(9_900));
    assert_eq!(world.keepalives(1), before[1]);
    world.pass(Duration::from_millis(200));
    assert_eq!(world.keepalives(1), before[1] + 1);
    world.pass(60 * SECOND);
    assert_eq!(
        [world.keepalives(0), world.keepalives(1)],
        [before[0], before[1] + 1],
        "it is not answered"
    );
    // An answer makes it unnecessary.
    world.say(0, b"question");
    world.pass(5 * SECOND);
    world.say(1, b"answer");
    world.pass(9 * SECOND);
    assert_eq!(world.keepalives(1), before[1] + 1);
    world.pass(2 * SECOND);
    assert_eq!(world.keepalives(0), before[0] + 1);
}

#[test]
fn data_without_any_sign_calls_anew_after_fifteen_seconds() {
    let mut world = World::connected();
    world.link = Box::new(|_, _| Vec::new());
    world.pass(SECOND);
    let before = world.count(0, 1);
    world.say(0, b"anybody?");
    world.pass(Duration::from_millis(14_900));
    assert_eq!(world.count(0, 1), before);
    world.pass(Duration::from_millis(500));
    assert_eq!(world.count(0, 1), before + 1);
}

#[test]
fn deadlines_do_not_move_with_every_packet() {
    let mut world = World::connected();
    let mut moves = 0;
    let mut last = [None; 2];
    for at in 0..10_000u32 {
        world.say(0, &at.to_be_bytes());
        world.settle();
        world.say(1, &at.to_be_bytes());
        world.settle();
        let now = world.ends.each_ref().map(|end| end.tunnel.poll_timeout());
        moves += usize::from(now != last);
        last = now;
        world.pass(Duration::from_millis(1));
    }
    assert!(moves < 40, "{moves} moves in ten seconds");
}
