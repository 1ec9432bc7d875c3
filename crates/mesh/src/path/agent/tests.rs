//! The stories of the essay, told with invented time.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

fn next_tx() -> TxId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut tx = [0u8; 12];
    tx[4..].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    tx
}

struct Story {
    agent: PathAgent,
    now: Instant,
}

impl Story {
    fn new(endpoints: &[&str]) -> Self {
        let now = Instant::now();
        let mut agent = PathAgent::new(next_tx);
        let endpoints: Vec<_> = endpoints.iter().map(|text| text.parse().unwrap()).collect();
        agent.set_netmap_endpoints(&endpoints, now);
        Self { agent, now }
    }

    fn after(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        while let Some(at) = self.agent.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.agent.handle_timeout(self.now);
        }
        self.now = end;
    }

    /// As [`Self::after`], on a path where every ping is answered at once.
    fn after_answered(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        while let Some(at) = self.agent.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.agent.handle_timeout(self.now);
            for (_, tx) in self.pings() {
                self.agent.handle_pong(tx, self.now);
            }
        }
        self.now = end;
    }

    fn actions(&mut self) -> Vec<PathAction> {
        std::iter::from_fn(|| self.agent.poll_action()).collect()
    }

    fn pings(&mut self) -> Vec<(SocketAddr, TxId)> {
        self.actions()
            .into_iter()
            .filter_map(|action| match action {
                PathAction::Ping { to, tx } => Some((to, tx)),
                PathAction::CallMeMaybe
                | PathAction::Withdraw
                | PathAction::Ask
                | PathAction::Suspected
                | PathAction::Stuck
                | PathAction::Changed(_) => None,
            })
            .collect()
    }

    fn go_direct(&mut self) {
        self.agent.handle_sent(self.now);
        let (_, tx) = self.pings()[0];
        self.after(10);
        self.agent.handle_pong(tx, self.now).unwrap();
        self.actions();
    }
}

const ADDR: &str = "203.0.113.9:41641";

fn addr() -> SocketAddr {
    ADDR.parse().unwrap()
}

#[test]
fn a_quiet_peer_costs_nothing() {
    let mut story = Story::new(&[ADDR]);
    assert_eq!(story.agent.poll_timeout(), None);
    assert!(story.actions().is_empty());
    assert_eq!(story.agent.route(), Route::Relay);
}

#[test]
fn the_first_packet_pings_and_calls_at_once() {
    let mut story = Story::new(&[ADDR]);
    story.agent.handle_sent(story.now);
    let actions = story.actions();
    assert!(matches!(actions[0], PathAction::Ping { to, .. } if to == addr()));
    assert_eq!(actions[1], PathAction::CallMeMaybe);
}

#[test]
fn a_lost_round_is_repeated_after_a_quarter_second() {
    let mut story = Story::new(&[ADDR]);
    story.agent.handle_sent(story.now);
    story.actions();
    story.after(249);
    assert!(story.actions().is_empty());
    story.after(2);
    let actions = story.actions();
    assert_eq!(actions.len(), 2, "{actions:?}");
}

#[test]
fn the_first_pong_makes_it_direct() {
    let mut story = Story::new(&[ADDR]);
    story.agent.handle_sent(story.now);
    let (_, tx) = story.pings()[0];
    story.after(30);
    assert_eq!(story.agent.handle_pong(tx, story.now), Some(addr()));
    assert_eq!(story.agent.route(), Route::Direct(addr()));
    let expected = [PathAction::CallMeMaybe, PathAction::Changed(Some(addr()))];
    assert_eq!(story.actions(), expected, "a stock peer is asked to look at once, too");
    assert_eq!(story.agent.handle_pong(tx, story.now), None, "an answer counts once");
}

#[test]
fn a_pong_nobody_asked_for_moves_nothing() {
    let mut story = Story::new(&[ADDR]);
    assert_eq!(story.agent.handle_pong([9; 12], story.now), None);
    assert_eq!(story.agent.route(), Route::Relay);
}

#[test]
fn a_ping_from_an_unused_address_is_pinged_back_once() {
    let mut story = Story::new(&[]);
    story.agent.handle_ping(addr(), story.now);
    assert_eq!(story.pings().len(), 1);
    story.after(100);
    story.agent.handle_ping(addr(), story.now);
    assert!(story.pings().is_empty());
    story.after(200);
    story.agent.handle_ping(addr(), story.now);
    assert_eq!(story.pings().len(), 1);
}

#[test]
fn a_call_is_answered_by_pings_and_a_call() {
    let mut story = Story::new(&[]);
    story.agent.handle_call_me_maybe(&[addr()], story.now);
    let actions = story.actions();
    assert!(matches!(actions[0], PathAction::Ping { to, .. } if to == addr()));
    assert_eq!(actions[1], PathAction::CallMeMaybe);
}

#[test]
fn silence_under_traffic_brings_the_relay_in_within_half_a_second() {
    let mut story = Story::new(&[ADDR]);
    story.go_direct();
    let start = story.now;
    let mut mirrored_after = None;
    for _ in 0..200 {
        story.after(20);
        story.agent.handle_sent(story.now);
        if story.agent.route() != Route::Direct(addr()) && mirrored_after.is_none() {
            mirrored_after = Some(story.now - start);
        }
    }
    let mirrored = mirrored_after.unwrap();
    assert!(mirrored <= Duration::from_millis(450), "{mirrored:?}");
    assert_eq!(story.agent.route(), Route::Relay, "three unanswered probes end it");
}

#[test]
fn an_answer_clears_the_suspicion() {
    let mut story = Story::new(&[ADDR]);
    story.go_direct();
    story.agent.handle_sent(story.now);
    story.after(1_600);
    assert_eq!(story.agent.route(), Route::Both(addr()));
    story.agent.handle_opened(Some(addr()), story.now);
    assert_eq!(story.agent.route(), Route::Direct(addr()));
}

#[test]
fn data_that_opens_keeps_a_path_without_pongs() {
    let mut story = Story::new(&[ADDR]);
    story.go_direct();
    for _ in 0..500 {
        story.after(20);
        story.agent.handle_sent(story.now);
        story.agent.handle_opened(Some(addr()), story.now);
        assert_eq!(story.agent.route(), Route::Direct(addr()));
    }
}

#[test]
fn data_from_a_new_address_moves_a_relayed_peer() {
    let mut story = Story::new(&[]);
    story.agent.handle_sent(story.now);
    story.agent.handle_opened(Some(addr()), story.now);
    assert_eq!(story.agent.route(), Route::Direct(addr()));
}

#[test]
fn a_path_unused_for_long_starts_as_suspect() {
    let mut story = Story::new(&[ADDR]);
    story.go_direct();
    story.after_answered(120_000);
    assert_eq!(story.agent.poll_timeout(), None, "nothing is pinged when nobody talks");
    story.agent.handle_sent(story.now);
    assert_eq!(story.agent.route(), Route::Both(addr()));
}

#[test]
fn candidates_are_bounded() {
    let mut story = Story::new(&[ADDR]);
    story.go_direct();
    for port in 1..2_000u16 {
        story
            .agent
            .handle_ping(SocketAddr::from(([198, 51, 100, 1], port)), story.now);
    }
    assert!(story.agent.candidates.len() <= MAX_CANDIDATES);
    assert_eq!(story.agent.best(), Some(addr()), "the path in use is never pushed out");
    assert!(story.agent.probes.len() <= MAX_PROBES);
}

#[test]
fn useless_addresses_are_not_pinged() {
    let mut story = Story::new(&[
        "0.0.0.0:1",
        "224.0.0.1:5",
        "[fe80::1]:5",
        "203.0.113.1:0",
        "[ff02::1]:4",
    ]);
    story.agent.handle_sent(story.now);
    assert!(story.pings().is_empty());
}

#[test]
fn pings_to_one_peer_are_bounded_in_a_second() {
    let mut story = Story::new(&[]);
    let mut sent = 0;
    for port in 1..500u16 {
        story
            .agent
            .handle_ping(SocketAddr::from(([198, 51, 100, 1], port)), story.now);
        sent += story.pings().len();
    }
    assert_eq!(sent, 64);
}

/// A middlebox lets disco through and swallows WireGuard.
#[test]
fn a_path_that_swallows_data_is_left_for_a_minute() {
    let mut story = Story::new(&[ADDR]);
    story.go_direct();
    let start = story.now;
    let (mut asked, mut left) = (0, None);
    while left.is_none() {
        story.agent.handle_sent(story.now);
        for action in story.actions() {
            match action {
                PathAction::Ping { tx, .. } => drop(story.agent.handle_pong(tx, story.now)),
                PathAction::Ask => asked += 1,
                PathAction::Changed(None) => left = Some(story.now - start),
                PathAction::CallMeMaybe
                | PathAction::Withdraw
                | PathAction::Stuck
                | PathAction::Suspected
                | PathAction::Changed(_) => {}
            }
        }
        story.after(50);
        assert!(story.now < start + Duration::from_secs(20), "it is never noticed");
    }
    assert_eq!(asked, 3);
    assert!(left.unwrap() < Duration::from_secs(9), "{left:?}");
    // Its pongs do not bring it back, data does.
    for _ in 0..500 {
        story.agent.handle_sent(story.now);
        story.after_answered(100);
        assert_eq!(story.agent.route(), Route::Relay);
    }
    story.agent.handle_opened(Some(addr()), story.now);
    assert_eq!(story.agent.route(), Route::Direct(addr()));
}

#[test]
fn a_swallowing_path_is_tried_again_after_its_minute() {
    let mut story = Story::new(&[ADDR]);
    story.go_direct();
    while story.agent.route() != Route::Relay {
        story.agent.handle_sent(story.now);
        story.after_answered(50);
    }
    let start = story.now;
    while story.agent.route() == Route::Relay {
        story.agent.handle_sent(story.now);
        story.after_answered(100);
    }
    let blocked = story.now - start;
    assert!((60..67).contains(&blocked.as_secs()), "{blocked:?}");
}

#[test]
fn a_one_way_stream_whose_questions_are_answered_keeps_its_path() {
    let mut story = Story::new(&[ADDR]);
    story.go_direct();
    for _ in 0..1_000 {
        story.agent.handle_sent(story.now);
        let actions = story.actions();
        for action in actions {
            match action {
                PathAction::Ping { tx, .. } => drop(story.agent.handle_pong(tx, story.now)),
                PathAction::Ask => story.agent.handle_opened(Some(addr()), story.now),
                PathAction::CallMeMaybe
                | PathAction::Withdraw
                | PathAction::Stuck
                | PathAction::Suspected
                | PathAction::Changed(_) => {}
            }
        }
        story.after(50);
        assert_eq!(story.agent.route(), Route::Direct(addr()));
    }
}

#[test]
fn suspicion_doubles_a_little_and_not_a_flood() {
    let mut story = Story::new(&[ADDR]);
    story.go_direct();
    story.agent.handle_sent(story.now);
    story.after(1_100);
    story.agent.handle_sent(story.now);
    while !matches!(story.agent.route(), Route::Both(_)) {
        story.after(10);
    }
    // A slow flow is doubled whole.
    for _ in 0..5 {
        assert_eq!(story.agent.spread(1_280, story.now), Spread::Both);
    }
    // A flood goes to the address first, to the relay once the address has missed too much.
    let mut seen = Vec::new();
    while matches!(story.agent.route(), Route::Both(_)) {
        for _ in 0..20 {
            let spread = story.agent.spread(60_000, story.now);
            if seen.last() != Some(&spread) && spread != Spread::Both {
                seen.push(spread);
            }
        }
        story.after(10);
    }
    assert_eq!(seen, [Spread::Address, Spread::Relay]);
}

#[test]
fn a_change_of_our_network_doubts_the_path_at_once() {
    let mut story = Story::new(&[ADDR]);
    story.go_direct();
    story.agent.handle_network_change(story.now);
    assert_eq!(story.agent.route(), Route::Both(addr()));
    let actions = story.actions();
    assert!(actions.contains(&PathAction::CallMeMaybe), "{actions:?}");
    let ping = actions.iter().find_map(|action| match action {
        PathAction::Ping { to, tx } if *to == addr() => Some(*tx),
        PathAction::Ping { .. }
        | PathAction::CallMeMaybe
        | PathAction::Withdraw
        | PathAction::Ask
        | PathAction::Stuck
        | PathAction::Suspected
        | PathAction::Changed(_) => None,
    });
    story.agent.handle_pong(ping.unwrap(), story.now);
    assert_eq!(story.agent.route(), Route::Direct(addr()));
}

#[test]
fn a_packet_over_the_relay_doubts_a_settled_path_and_not_a_new_one() {
    let mut story = Story::new(&[ADDR]);
    story.go_direct();
    story.agent.handle_opened(None, story.now);
    assert_eq!(story.agent.route(), Route::Direct(addr()), "it was overtaken");
    story.after_answered(3_000);
    story.agent.handle_opened(None, story.now);
    assert_eq!(story.agent.route(), Route::Both(addr()));
    let (_, tx) = story.pings()[0];
    story.agent.handle_pong(tx, story.now);
    for _ in 0..9 {
        story.after_answered(1_000);
        story.agent.handle_opened(None, story.now);
        assert_eq!(story.agent.route(), Route::Direct(addr()), "it has just answered");
    }
}

#[test]
fn a_call_that_no_longer_names_the_address_in_use_doubts_it() {
    let mut story = Story::new(&[ADDR]);
    story.go_direct();
    story.agent.handle_call_me_maybe(&[addr()], story.now);
    assert_eq!(story.agent.route(), Route::Direct(addr()));
    story
        .agent
        .handle_call_me_maybe(&["198.51.100.7:9".parse().unwrap()], story.now);
    assert_eq!(story.agent.route(), Route::Both(addr()));
}

#[test]
fn leaving_a_path_withdraws_our_addresses_before_they_are_named_anew() {
    let mut story = Story::new(&[ADDR]);
    story.go_direct();
    while story.agent.route() != Route::Relay {
        story.agent.handle_sent(story.now);
        story.after(50);
    }
    let actions = story.actions();
    let at = |wanted: PathAction| actions.iter().rposition(|action| *action == wanted);
    assert!(
        at(PathAction::Withdraw).unwrap() < at(PathAction::CallMeMaybe).unwrap(),
        "{actions:?}"
    );
}

#[test]
fn two_that_cannot_reach_each_other_stop_calling() {
    let (mut one, mut other) = (Story::new(&[ADDR]), Story::new(&["198.51.100.7:41641"]));
    one.agent.handle_sent(one.now);
    let mut calls = 0;
    for round in 0..300 {
        let calling = one.actions().contains(&PathAction::CallMeMaybe);
        one.after(102);
        other.after(102);
        if calling {
            other
                .agent
                .handle_call_me_maybe(&["198.51.100.7:41641".parse().unwrap()], other.now);
            calls += u32::from(round > 100);
        }
        let answering = other.actions().contains(&PathAction::CallMeMaybe);
        one.after(102);
        other.after(102);
        if answering {
            one.agent.handle_call_me_maybe(&[addr()], one.now);
        }
    }
    assert_eq!(calls, 0, "calls without traffic after the first 20 s");
}
