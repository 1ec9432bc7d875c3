//! Floods, strangers and those who only want to come in.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::SystemTime;

use sandd_noise::{Clock, Handshake, Identity, Packet};

use super::*;
use crate::wg::StaticSecret;

struct Ground {
    own: Arc<Identity>,
    guard: HandshakeGuard<u32>,
    now: Instant,
}

fn identity(now: Instant) -> Arc<Identity> {
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_750_000_000);
    Arc::new(Identity::new(StaticSecret::random(), Clock::new(wall, now)))
}

impl Ground {
    fn new() -> Self {
        let now = Instant::now();
        let own = identity(now);
        Self {
            guard: HandshakeGuard::new(own.public()),
            own,
            now,
        }
    }

    fn caller(&self) -> Handshake {
        Handshake::new(identity(self.now), *self.own.public(), None)
    }

    fn initiation(&self, caller: &mut Handshake) -> Vec<u8> {
        caller.initiate(1, self.now).unwrap().0.to_vec()
    }

    fn admit(&mut self, number: u32, source: SocketAddr, datagram: &[u8]) -> Admission {
        self.guard.admit(number, source, datagram, self.now)
    }
}

/// The source of this number, all different.
fn source(number: u32) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from(0x0a00_0000 | number), 51_820))
}

#[test]
fn who_does_not_know_our_key_hears_nothing() {
    let mut ground = Ground::new();
    let other = identity(ground.now);
    let mut caller = Handshake::new(identity(ground.now), *other.public(), None);
    let wrong = caller.initiate(1, ground.now).unwrap().0;
    let mut state = 1u64;
    for number in 0..50_000u32 {
        // Random bytes of every length, and messages to somebody else.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut bytes = [state.to_le_bytes(); 20].concat();
        bytes.truncate((state >> 40) as usize % 160);
        assert_eq!(ground.admit(number, source(number), &bytes), Admission::Refuse);
        assert_eq!(ground.admit(number, source(number), &wrong), Admission::Refuse);
    }
    assert!(ground.guard.sources.is_empty(), "nothing is remembered of them");
    assert!(ground.guard.load.until.is_none());
}

#[test]
fn one_source_does_not_use_up_what_others_need() {
    let mut ground = Ground::new();
    let mut caller = ground.caller();
    let mut admitted = 0;
    for _ in 0..90 {
        let initiation = ground.initiation(&mut caller);
        admitted += u32::from(ground.admit(0, source(1), &initiation) == Admission::Admit);
    }
    assert_eq!(admitted, 40);
    let initiation = ground.initiation(&mut caller);
    assert_eq!(ground.admit(0, source(2), &initiation), Admission::Admit);
    // Neither the port nor the lower half of an IPv6 address make another source.
    let other_port = SocketAddr::new(source(1).ip(), 1);
    assert_eq!(ground.admit(0, other_port, &initiation), Admission::Refuse);
    let mut ground = Ground::new();
    let mut caller = ground.caller();
    let mut admitted = 0;
    for low in 0..90u16 {
        let initiation = ground.initiation(&mut caller);
        let source = SocketAddr::from(([0x2001, 0xdb8, 0, 1, 0, 0, 0, low], 1));
        admitted += u32::from(ground.admit(0, source, &initiation) == Admission::Admit);
    }
    assert_eq!(admitted, 40);
}

#[test]
fn under_a_flood_one_who_can_be_reached_comes_in() {
    let mut ground = Ground::new();
    // 5,000 calls a second from addresses that are not theirs: each gets a cookie at most, which goes elsewhere.
    let mut flood = ground.caller();
    let mut number = 0;
    let mut worked = 0;
    let mut honest = ground.caller();
    let start = ground.now;
    let mut came_in = None;
    let mut retry = 0;
    for step in 0..2_000 {
        ground.now += Duration::from_millis(1);
        while ground.guard.next(ground.now).is_some() {}
        for _ in 0..5 {
            number += 1;
            let initiation = ground.initiation(&mut flood);
            match ground.admit(number, source(number), &initiation) {
                Admission::Admit | Admission::Queued => worked += 1,
                Admission::Cookie(_) | Admission::Refuse => {}
            }
        }
        // It calls in the middle, again when it gets a cookie, and once a second otherwise.
        if step >= 500 && came_in.is_none() && step >= retry {
            retry = step + 1_000;
            let own = SocketAddr::from(([192, 0, 2, 1], 41_641));
            let initiation = ground.initiation(&mut honest);
            let answer = ground.admit(0, own, &initiation);
            if let Admission::Cookie(reply) = answer {
                let Ok(Packet::PacketCookieReply(reply)) = Packet::parse(&reply) else {
                    panic!()
                };
                honest.receive_cookie_reply(&reply, ground.now).unwrap();
                retry = step + 20;
            } else if answer == Admission::Admit {
                came_in = Some(ground.now - start - Duration::from_millis(500));
            }
        }
    }
    assert!(
        came_in.is_some_and(|took| took < Duration::from_millis(100)),
        "{came_in:?}"
    );
    // In the first moment, before there was load, and never again.
    assert!(worked <= CALM_RATE as usize + 1, "{worked}");
}

#[test]
fn a_cookie_is_no_use_from_another_port() {
    let mut ground = Ground::new();
    let mut caller = ground.caller();
    let mut cookie = None;
    for number in 0..150 {
        let initiation = ground.initiation(&mut caller);
        if let Admission::Cookie(reply) = ground.admit(0, source(number), &initiation) {
            cookie = Some((number, reply));
        }
    }
    let (number, reply) = cookie.unwrap();
    let Ok(Packet::PacketCookieReply(reply)) = Packet::parse(&reply) else {
        panic!()
    };
    caller.receive_cookie_reply(&reply, ground.now).unwrap();
    let initiation = ground.initiation(&mut caller);
    let elsewhere = SocketAddr::new(source(number).ip(), 1);
    assert!(matches!(ground.admit(0, elsewhere, &initiation), Admission::Cookie(_)));
    assert!(matches!(
        ground.admit(0, source(number + 1), &initiation),
        Admission::Cookie(_)
    ));
    assert_ne!(ground.admit(0, source(number), &initiation), Admission::Refuse);
}

/// Everybody can be reached and has a cookie: what protects the data path then is the budget.
#[test]
fn all_handshakes_together_have_a_budget_and_a_bounded_queue() {
    let mut ground = Ground::new();
    let mut callers: Vec<_> = (0..3_000).map(|_| ground.caller()).collect();
    // The ground learns that there is load, then gives everybody a cookie.
    for (number, caller) in (0..).zip(&mut callers) {
        let initiation = caller.initiate(1, ground.now).unwrap().0;
        if let Admission::Cookie(reply) = ground.admit(number, source(number), &initiation) {
            let Ok(Packet::PacketCookieReply(reply)) = Packet::parse(&reply) else {
                panic!()
            };
            caller.receive_cookie_reply(&reply, ground.now).unwrap();
        }
    }
    while ground.guard.next(ground.now + Duration::from_secs(10)).is_some() {}
    let start = ground.now + Duration::from_secs(10);
    ground.now = start;
    for _ in 0..2 {
        let initiation = callers[0].initiate(1, ground.now).unwrap().0;
        for number in 0..CALM_RATE {
            ground.admit(0, source(1_000_000 + number), &initiation);
        }
    }
    while ground.guard.next(ground.now).is_some() {}
    ground.guard.queue.clear();
    let (mut queued, mut refused, mut order) = (0, 0, Vec::new());
    for (number, caller) in (0..).zip(&mut callers) {
        let initiation = caller.initiate(1, ground.now).unwrap().0;
        match ground.admit(number, source(number), &initiation) {
            Admission::Admit => order.push(number),
            Admission::Queued => queued += 1,
            Admission::Refuse => refused += 1,
            Admission::Cookie(_) => {}
        }
    }
    assert!(order.len() <= BUDGET.at_once as usize);
    assert_eq!(queued, MAX_QUEUED);
    assert!(refused > 0);
    // They are worked off by the budget, the oldest first, and nobody has to ask in between.
    let mut looks = 0;
    while let Some(at) = ground.guard.poll_timeout() {
        ground.now = ground.now.max(at);
        looks += 1;
        while let Some((number, _)) = ground.guard.next(ground.now) {
            order.push(number);
        }
        assert!(looks < 10_000);
    }
    assert!(order.is_sorted());
    let took = (ground.now - start).as_secs_f64();
    assert!(
        queued as f64 <= took * BUDGET.a_second + BUDGET.at_once,
        "{queued} in {took} s"
    );
}

#[test]
fn sources_are_bounded() {
    let mut ground = Ground::new();
    let mut caller = ground.caller();
    for number in 0..20_000 {
        // Slowly enough to be no load.
        ground.now += Duration::from_millis(20);
        let initiation = ground.initiation(&mut caller);
        assert_ne!(ground.admit(number, source(number), &initiation), Admission::Refuse);
        assert!(ground.guard.sources.len() <= MAX_SOURCES);
    }
}
