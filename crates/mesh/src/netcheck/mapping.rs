//! [`Mapping`]: whether the NAT gives each destination another port.
//!
//! A STUN server tells how it sees us, and so does each peer's pong. Two who see different addresses of one socket at
//! about the same time mean a NAT that maps by destination ("hard"); two who agree mean one that does not. A single one
//! can never tell. An observer that sees us elsewhere than before means something else: the NAT made a new mapping.

use std::net::{SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

/// Sights are compared when they are no further apart than this.
const FRESH: Duration = Duration::from_secs(60);
/// So long after a new mapping, late words on the old one are to be expected.
const SETTLING: Duration = Duration::from_secs(2);
/// Observers that are remembered.
const MAX_SIGHTS: usize = 64;

#[derive(Debug)]
struct Sight {
    by: SocketAddr,
    mapped: SocketAddrV4,
    at: Instant,
}

/// See the module's text. IPv6 is not translated, so only IPv4 counts.
#[derive(Debug, Default)]
pub(crate) struct Mapping {
    sights: Vec<Sight>,
    moved: Option<Instant>,
    varies: Option<bool>,
}

impl Mapping {
    /// A server or a peer has seen us at `mapped`. True when the verdict is another than before.
    pub(crate) fn observe(&mut self, by: SocketAddr, mapped: SocketAddr, now: Instant) -> bool {
        let SocketAddr::V4(mapped) = mapped else { return false };
        self.sights
            .retain(|sight| now.saturating_duration_since(sight.at) < FRESH);
        let before = self.sights.iter().position(|sight| sight.by == by);
        if let Some(before) = before.map(|at| self.sights.remove(at))
            && before.mapped != mapped
        {
            self.sights.clear();
            self.moved = Some(now);
        }
        if self.sights.len() >= MAX_SIGHTS {
            self.sights.remove(0);
        }
        self.sights.push(Sight { by, mapped, at: now });
        let agree = self.sights.iter().all(|sight| sight.mapped == mapped);
        let settling = self
            .moved
            .is_some_and(|moved| now.saturating_duration_since(moved) < SETTLING);
        let verdict = match (agree, self.sights.len()) {
            (false, _) if settling => self.varies,
            (false, _) => Some(true),
            (true, 1) => self.varies,
            (true, _) => Some(false),
        };
        let changed = verdict != self.varies;
        self.varies = verdict;
        changed
    }

    /// Whether the mapping varies by destination, once two have told.
    pub(crate) fn varies(&self) -> Option<bool> {
        self.varies
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    const STUN: &str = "192.0.2.1:3478";
    const PEER: &str = "198.51.100.7:41641";

    #[test]
    fn one_observer_never_tells() {
        let (mut mapping, now) = (Mapping::default(), Instant::now());
        for second in 0..10 {
            let at = now + Duration::from_secs(second);
            assert!(!mapping.observe(addr(STUN), addr("203.0.113.5:4000"), at));
        }
        assert_eq!(mapping.varies(), None);
    }

    #[test]
    fn two_who_agree_and_two_who_do_not() {
        let (mut mapping, now) = (Mapping::default(), Instant::now());
        mapping.observe(addr(STUN), addr("203.0.113.5:4000"), now);
        assert!(mapping.observe(addr(PEER), addr("203.0.113.5:4000"), now));
        assert_eq!(mapping.varies(), Some(false));
        assert!(mapping.observe(addr("192.0.2.2:3478"), addr("203.0.113.5:4001"), now));
        assert_eq!(mapping.varies(), Some(true));
    }

    #[test]
    fn a_new_mapping_is_no_hard_nat() {
        let (mut mapping, now) = (Mapping::default(), Instant::now());
        mapping.observe(addr(STUN), addr("203.0.113.5:4000"), now);
        mapping.observe(addr(PEER), addr("203.0.113.5:4000"), now);
        let later = now + Duration::from_secs(5);
        mapping.observe(addr(STUN), addr("203.0.113.5:7777"), later);
        // A pong that was under way.
        mapping.observe(addr(PEER), addr("203.0.113.5:4000"), later + Duration::from_millis(50));
        assert_eq!(mapping.varies(), Some(false));
        mapping.observe(addr(PEER), addr("203.0.113.5:7777"), later + Duration::from_secs(3));
        mapping.observe(addr(STUN), addr("203.0.113.5:7777"), later + Duration::from_secs(3));
        assert_eq!(mapping.varies(), Some(false));
    }

    #[test]
    fn old_sights_and_ipv6_do_not_count() {
        let (mut mapping, now) = (Mapping::default(), Instant::now());
        mapping.observe(addr(STUN), addr("203.0.113.5:4000"), now);
        mapping.observe(addr(PEER), addr("[2001:db8::5]:4000"), now);
        let later = now + FRESH;
        mapping.observe(addr(PEER), addr("203.0.113.5:5000"), later);
        assert_eq!(mapping.varies(), None);
    }

    #[test]
    fn it_is_bounded() {
        let (mut mapping, now) = (Mapping::default(), Instant::now());
        for port in 1..1_000 {
            mapping.observe(SocketAddr::from(([192, 0, 2, 1], port)), addr("203.0.113.5:4000"), now);
        }
        assert_eq!(mapping.sights.len(), MAX_SIGHTS);
    }
}
