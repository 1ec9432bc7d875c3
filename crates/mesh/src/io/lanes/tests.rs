//! One flow through two nodes with lanes: whatever the threads do, every packet arrives once and in order.

use std::cell::Cell;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::engine::Opening;
use crate::io::pair::{HEADERS, Pair, SEGMENT, SEGMENTS, Seen, sequence};

/// Super-packets of one turn.
const TURN: usize = 40;

/// Does a job after a while that nobody can foresee.
fn dawdle(job: &mut Job) {
    thread_local!(static SEED: Cell<u64> = Cell::new(std::process::id().into()));
    let next = SEED
        .get()
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    SEED.set(next);
    for _ in 0..(next >> 33) % 32 {
        std::thread::yield_now();
    }
    job.run();
}

/// Carries a flow of so many bytes with five seconds between two turns, so that the session is renewed now and then.
fn carry(lanes: usize, bytes: usize) {
    let mut pair = Pair::with(lanes, dawdle);
    let mut expected = None;
    let (mut packets, mut renewed, mut age) = (0, 0, 0);
    let turns = bytes.div_ceil(TURN * SEGMENT * SEGMENTS);
    for _ in 0..turns {
        pair.send(TURN);
        pair.carry(|packet| {
            assert_eq!(packet.len(), HEADERS + SEGMENT);
            let at = sequence(packet);
            assert_eq!(at, *expected.get_or_insert(at), "packet {packets} of the flow");
            expected = Some(at.wrapping_add(SEGMENT as u32));
            packets += 1;
        });
        pair.pass(Duration::from_secs(5));
        let now = pair.session_age().unwrap();
        renewed += usize::from(now < age);
        age = now;
    }
    assert_eq!(packets, turns * TURN * SEGMENTS, "every packet has come");
    assert!(renewed >= turns * 5 / 140, "{renewed} renewals in {turns} turns");
    assert!(renewed > 0, "the flow is long enough for a renewal");
}

/// Plays lanes that open what the receiver of a pair has got: `order` says what happens next, and which job of those that
/// are away comes back. The sequence numbers that were delivered.
fn open_in_order(pair: &mut Pair, order: &[(bool, prop::sample::Index)]) -> Vec<u32> {
    let (end, from, now) = pair.receiver();
    let queue = &mut end.opens;
    while let Some((mut buffer, len, stride)) = end.arrived.pop_front() {
        queue.push((from, 0), &mut buffer, 0..len, stride);
    }
    let mut opening = Opening {
        queue,
        engine: &mut end.engine,
        now,
    };
    let (mut away, mut seen) = (Vec::new(), Vec::new());
    let mut overlay = Seen(|packet: &[u8]| seen.push(sequence(packet)));
    for (give, any) in order {
        if *give {
            away.extend(opening.hand_over(0));
        } else if !away.is_empty() {
            let mut job: Job = away.swap_remove(any.index(away.len()));
            job.run();
            opening.put_back(job);
        }
        opening.deliver(&mut overlay);
    }
    for mut job in away {
        job.run();
        opening.put_back(job);
    }
    opening.deliver(&mut overlay);
    assert_eq!(opening.held(), 0);
    seen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// In whatever order others open: the device gets every packet once and in order.
    #[test]
    fn runs_that_come_back_in_any_order_are_delivered_in_theirs(
        order in prop::collection::vec(any::<(bool, prop::sample::Index)>(), 0..60),
        twice in any::<bool>(),
    ) {
        let mut pair = Pair::with(0, Job::run);
        pair.send(12);
        if twice {
            // The network repeats a run.
            let (end, ..) = pair.receiver();
            let repeated = end.arrived[3].clone();
            end.arrived.insert(4, repeated);
        }
        let seen = open_in_order(&mut pair, &order);
        prop_assert_eq!(seen.len(), 12 * SEGMENTS);
        prop_assert!(seen.windows(2).all(|two| two[1] == two[0].wrapping_add(SEGMENT as u32)));
    }
}

#[test]
fn a_session_that_ends_while_a_run_is_away_takes_nothing_of_it() {
    let mut pair = Pair::with(0, Job::run);
    pair.send(2);
    let (end, from, now) = pair.receiver();
    let queue = &mut end.opens;
    while let Some((mut buffer, len, stride)) = end.arrived.pop_front() {
        queue.push((from, 0), &mut buffer, 0..len, stride);
    }
    let mut opening = Opening {
        queue,
        engine: &mut end.engine,
        now,
    };
    let mut job = opening.hand_over(0).unwrap();
    opening
        .engine
        .set_node_key(&sandd_control_client::keys::NodePrivateKey::generate());
    job.run();
    opening.put_back(job);
    opening.deliver(&mut Seen(|_: &[u8]| panic!("delivered")));
    assert_eq!(opening.held(), 0);
}

#[test]
fn without_threads_the_owner_does_it_all() {
    let mut pair = Pair::with(1, Job::run);
    pair.refuse_threads();
    let mut packets = 0;
    pair.send(TURN);
    pair.carry(|_| packets += 1);
    assert_eq!(packets, TURN * SEGMENTS);
}

#[test]
#[should_panic(expected = "a lane has panicked")]
fn a_lane_that_panics_ends_the_node() {
    fn fail(_: &mut Job) {
        if std::thread::current()
            .name()
            .is_some_and(|name| name.starts_with("sandd-lane"))
        {
            panic!("as a defect would");
        }
        // Leaves the lane the time to take one.
        std::thread::yield_now();
    }
    let mut pair = Pair::with(1, fail);
    for _ in 0..100_000 {
        pair.send(TURN);
    }
}

#[test]
fn a_flow_arrives_whole_and_in_order() {
    for lanes in [1, 3] {
        carry(lanes, 64 << 20);
    }
}

#[test]
#[ignore = "takes minutes: ten GiB"]
fn ten_gibibytes_arrive_whole_and_in_order() {
    carry(2, 10 << 30);
}
