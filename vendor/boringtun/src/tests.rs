// Copyright (c) 2019 Cloudflare, Inc. All rights reserved.
// SPDX-License-Identifier: BSD-3-Clause

//! Upstream's tests of the handshake, put into the terms of this fork, and those of what was changed.

use super::*;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use x25519::{PublicKey, StaticSecret};

struct Pair {
    me: Arc<Identity>,
    them: Arc<Identity>,
    mine: Handshake,
    theirs: Handshake,
    now: Instant,
}

fn identity(now: Instant) -> Arc<Identity> {
    let clock = Clock::new(
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        now,
    );
    Arc::new(Identity::new(StaticSecret::random(), clock))
}

fn create_two(preshared: [Option<[u8; 32]>; 2]) -> Pair {
    let now = Instant::now();
    let (me, them) = (identity(now), identity(now));
    let [mine, theirs] = preshared.map(|key| key.map(PresharedKey::new));
    Pair {
        mine: Handshake::new(Arc::clone(&me), *them.public(), mine),
        theirs: Handshake::new(Arc::clone(&them), *me.public(), theirs),
        me,
        them,
        now,
    }
}

fn init_of(datagram: &[u8]) -> HandshakeInit<'_> {
    match Packet::parse(datagram).unwrap() {
        Packet::HandshakeInit(init) => init,
        other => panic!("{other:?}"),
    }
}

fn response_of(datagram: &[u8]) -> HandshakeResponse<'_> {
    match Packet::parse(datagram).unwrap() {
        Packet::HandshakeResponse(response) => response,
        other => panic!("{other:?}"),
    }
}

fn cookie_of(datagram: &[u8]) -> PacketCookieReply<'_> {
    match Packet::parse(datagram).unwrap() {
        Packet::PacketCookieReply(cookie) => cookie,
        other => panic!("{other:?}"),
    }
}

fn source(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
}

#[test]
fn handshake_init() {
    let mut pair = create_two([None, None]);
    let (init, _) = pair.mine.initiate(1, pair.now).unwrap();
    let initiator = pair.them.read_initiation(&init_of(&init)).unwrap();
    assert_eq!(initiator.static_public(), pair.me.public());
}

#[test]
fn full_handshake() {
    for key in [None, Some([7; 32])] {
        let mut pair = create_two([key, key]);
        let (init, _) = pair.mine.initiate(1, pair.now).unwrap();
        let initiator = pair.them.read_initiation(&init_of(&init)).unwrap();
        let (response, theirs) = pair.theirs.respond(&initiator, 2, pair.now).unwrap();
        let mine = pair.mine.finish(&response_of(&response)).unwrap();
        assert_eq!(*mine.send, *theirs.recv);
        assert_eq!(*mine.recv, *theirs.send);
        assert_ne!(*mine.send, *mine.recv);
        assert_eq!((mine.local_index, mine.remote_index), (1, 2));
        assert_eq!((theirs.local_index, theirs.remote_index), (2, 1));
        assert_eq!(pair.mine.waiting().count(), 0);
        // The same response does not make a second session.
        assert!(pair.mine.finish(&response_of(&response)).is_err());
    }
}

#[test]
fn preshared_keys_must_agree() {
    let mut pair = create_two([Some([1; 32]), Some([2; 32])]);
    let (init, _) = pair.mine.initiate(1, pair.now).unwrap();
    let initiator = pair.them.read_initiation(&init_of(&init)).unwrap();
    let (response, _) = pair.theirs.respond(&initiator, 2, pair.now).unwrap();
    assert_eq!(
        pair.mine.finish(&response_of(&response)).unwrap_err(),
        WireGuardError::InvalidAeadTag
    );
}

#[test]
fn an_initiation_counts_once_and_an_older_one_not_at_all() {
    let mut pair = create_two([None, None]);
    let (old, _) = pair.mine.initiate(1, pair.now).unwrap();
    // The same reading of the clock must make a newer timestamp.
    let (new, _) = pair.mine.initiate(2, pair.now).unwrap();
    let read = |datagram: &[u8]| pair.them.read_initiation(&init_of(datagram)).unwrap();
    let (old, new) = (read(&old), read(&new));
    assert!(pair.theirs.respond(&new, 3, pair.now).is_ok());
    for replay in [&new, &old] {
        assert_eq!(
            pair.theirs.respond(replay, 4, pair.now).unwrap_err(),
            WireGuardError::WrongTai64nTimestamp
        );
    }
}

#[test]
fn the_answer_to_the_last_but_one_initiation_is_taken() {
    let mut pair = create_two([None, None]);
    let mut sent = Vec::new();
    for index in 1..=3 {
        let (init, forgotten) = pair.mine.initiate(index, pair.now).unwrap();
        sent.push(init);
        assert_eq!(forgotten, (index == 3).then_some(1));
    }
    let responses: Vec<_> = sent
        .iter()
        .map(|init| {
            let initiator = pair.them.read_initiation(&init_of(init)).unwrap();
            pair.theirs.respond(&initiator, 9, pair.now).unwrap().0
        })
        .collect();
    assert!(pair.mine.finish(&response_of(&responses[0])).is_err());
    assert!(pair.mine.finish(&response_of(&responses[1])).is_ok());
}

#[test]
fn another_peers_initiation_is_refused() {
    let mut pair = create_two([None, None]);
    let other = identity(pair.now);
    let mut stranger = Handshake::new(Arc::clone(&other), *pair.them.public(), None);
    let (init, _) = stranger.initiate(1, pair.now).unwrap();
    let initiator = pair.them.read_initiation(&init_of(&init)).unwrap();
    assert_eq!(
        pair.theirs.respond(&initiator, 2, pair.now).unwrap_err(),
        WireGuardError::WrongKey
    );
}

#[test]
fn keys_of_small_order_are_refused() {
    let mut pair = create_two([None, None]);
    let (mut init, _) = pair.mine.initiate(1, pair.now).unwrap();
    init[8..40].fill(0);
    assert_eq!(
        pair.them.read_initiation(&init_of(&init)).unwrap_err(),
        WireGuardError::WeakKey
    );
    let mut weak = Handshake::new(Arc::clone(&pair.me), PublicKey::from([0; 32]), None);
    assert_eq!(
        weak.initiate(1, pair.now).unwrap_err(),
        WireGuardError::WeakKey
    );
    let (init, _) = pair.mine.initiate(1, pair.now).unwrap();
    let initiator = pair.them.read_initiation(&init_of(&init)).unwrap();
    let (mut response, _) = pair.theirs.respond(&initiator, 2, pair.now).unwrap();
    response[12..44].fill(0);
    assert_eq!(
        pair.mine.finish(&response_of(&response)).unwrap_err(),
        WireGuardError::WeakKey
    );
}

#[test]
fn timestamps_follow_the_clock_and_are_coarse() {
    let now = Instant::now();
    let clock = Clock::new(SystemTime::UNIX_EPOCH + Duration::from_millis(1_999), now);
    let mut last = [0; 12];
    for _ in 0..200 {
        let stamp = clock_stamp(&clock, now, &last);
        assert!(stamp > last);
        last = stamp;
    }
    let later = clock_stamp(&clock, now + Duration::from_secs(60), &last);
    assert_eq!(
        u64::from_be_bytes(later[..8].try_into().unwrap()),
        (1 << 62) + 37 + 61
    );
    assert_eq!(
        u32::from_be_bytes(later[8..].try_into().unwrap()) & 0x00ff_ffff,
        0
    );
}

fn clock_stamp(clock: &Clock, now: Instant, last: &[u8; 12]) -> [u8; 12] {
    clock.stamp(now, last)
}

#[test]
fn a_cookie_is_for_an_address_and_a_port_and_two_minutes() {
    let mut pair = create_two([None, None]);
    let mut checker = CookieChecker::new(pair.them.public());
    let (init, _) = pair.mine.initiate(1, pair.now).unwrap();
    assert!(checker.check_mac1(&init));
    assert!(!checker.check_mac2(&init, source(1), pair.now));
    let reply = checker.reply(&init, source(1), pair.now).unwrap();
    pair.mine
        .receive_cookie_reply(&cookie_of(&reply), pair.now)
        .unwrap();
    let (init, _) = pair.mine.initiate(2, pair.now).unwrap();
    assert!(checker.check_mac1(&init));
    assert!(checker.check_mac2(&init, source(1), pair.now));
    assert!(!checker.check_mac2(&init, source(2), pair.now));
    assert!(!checker.check_mac2(&init, SocketAddr::from(([192, 0, 2, 2], 1)), pair.now));
    assert!(!checker.check_mac2(&init, source(1), pair.now + Duration::from_secs(120)));
    // Its holder drops it after the same time.
    let (init, _) = pair
        .mine
        .initiate(3, pair.now + Duration::from_secs(120))
        .unwrap();
    assert_eq!(init[132..], [0; 16]);
}

#[test]
fn spoofed_cookie_replies_are_ignored() {
    let mut pair = create_two([None, None]);
    let mut checker = CookieChecker::new(pair.them.public());
    let (first, _) = pair.mine.initiate(1, pair.now).unwrap();
    let (init, _) = pair.mine.initiate(2, pair.now).unwrap();
    let stale = checker.reply(&first, source(1), pair.now).unwrap();
    let mut wrong_index = checker.reply(&init, source(1), pair.now).unwrap();
    wrong_index[4] ^= 1;
    let mut wrong_tag = checker.reply(&init, source(1), pair.now).unwrap();
    wrong_tag[63] ^= 1;
    let other = CookieChecker::new(pair.me.public())
        .reply(&init, source(1), pair.now)
        .unwrap();
    for spoofed in [stale, wrong_index, wrong_tag, other] {
        assert!(pair
            .mine
            .receive_cookie_reply(&cookie_of(&spoofed), pair.now)
            .is_err());
    }
    let reply = checker.reply(&init, source(1), pair.now).unwrap();
    assert!(pair
        .mine
        .receive_cookie_reply(&cookie_of(&reply), pair.now)
        .is_ok());
    assert!(
        pair.mine
            .receive_cookie_reply(&cookie_of(&reply), pair.now)
            .is_err(),
        "one answer for each message"
    );
}

/// `cargo test --release -p sandd-noise -- --ignored --nocapture`: what a flood of initiations can cost.
#[test]
#[ignore = "a measurement"]
fn what_an_initiation_costs_its_receiver() {
    let mut pair = create_two([None, None]);
    let sent: Vec<_> = (0..2_000)
        .map(|index| pair.mine.initiate(index, pair.now).unwrap().0)
        .collect();
    let checker = CookieChecker::new(pair.them.public());
    let mut wrong = sent[0];
    wrong[116] ^= 1;
    let micros = |start: Instant| start.elapsed().as_secs_f64() * 1e6 / sent.len() as f64;

    let start = Instant::now();
    let right = sent.iter().filter(|_| checker.check_mac1(&wrong)).count();
    println!("mac1: {:.1} us", micros(start));
    assert_eq!(right, 0);
    let start = Instant::now();
    let read: Vec<_> = sent
        .iter()
        .map(|init| pair.them.read_initiation(&init_of(init)).unwrap())
        .collect();
    println!("who sent it: {:.1} us", micros(start));
    let start = Instant::now();
    for initiator in &read {
        pair.theirs.respond(initiator, 1, pair.now).unwrap();
    }
    println!("the answer: {:.1} us", micros(start));
}
