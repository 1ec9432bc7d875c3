//! [`Candidate`]: an underlay address a peer may be reached at, and the ranking between two that work.

use std::cmp::Ordering;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// How we came to know an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    /// The coordinator named it.
    Netmap,
    /// The peer named it in a call-me-maybe.
    CallMeMaybe,
    /// The peer's ping or data came from it.
    Heard,
}

/// One address with what its pongs told.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) origin: Origin,
    pub(crate) last_ping: Option<Instant>,
    pub(crate) last_pong: Option<Instant>,
    pub(crate) last_heard: Option<Instant>,
    /// The last two in microseconds.
    rtts: [Option<NonZeroU32>; 2],
}

/// The addresses of one peer, few and in order. A peer that is never spoken to keeps them in no more room than they take.
#[derive(Debug, Default)]
pub(crate) struct Candidates(Vec<(SocketAddr, Candidate)>);

impl Candidates {
    /// Bytes of one.
    #[cfg(test)]
    pub(crate) const ENTRY: usize = size_of::<(SocketAddr, Candidate)>();

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn get(&self, addr: SocketAddr) -> Option<&Candidate> {
        let at = self.position(addr).ok()?;
        self.0.get(at).map(|(_, known)| known)
    }

    pub(crate) fn get_mut(&mut self, addr: SocketAddr) -> Option<&mut Candidate> {
        let at = self.position(addr).ok()?;
        self.0.get_mut(at).map(|(_, known)| known)
    }

    /// Puts one in its place.
    pub(crate) fn insert(&mut self, addr: SocketAddr, candidate: Candidate) {
        match self.position(addr) {
            Ok(at) => self.0[at].1 = candidate,
            Err(at) => {
                self.0.reserve_exact(1);
                self.0.insert(at, (addr, candidate));
            }
        }
    }

    pub(crate) fn remove(&mut self, addr: SocketAddr) -> Option<Candidate> {
        let at = self.position(addr).ok()?;
        Some(self.0.remove(at).1)
    }

    pub(crate) fn retain(&mut self, mut keep: impl FnMut(SocketAddr, &Candidate) -> bool) {
        self.0.retain(|(addr, known)| keep(*addr, known));
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.0.iter().map(|(addr, _)| *addr)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (SocketAddr, &Candidate)> {
        self.0.iter().map(|(addr, known)| (*addr, known))
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut Candidate> {
        self.0.iter_mut().map(|(_, known)| known)
    }

    fn position(&self, addr: SocketAddr) -> Result<usize, usize> {
        self.0.binary_search_by_key(&addr, |(known, _)| *known)
    }
}

/// A wins by this much before a healthy path is given up for it.
const GAIN_SHARE: u32 = 10;
const GAIN_LEAST: Duration = Duration::from_millis(2);

impl Candidate {
    pub(crate) fn new(origin: Origin) -> Self {
        Self {
            origin,
            last_ping: None,
            last_pong: None,
            last_heard: None,
            rtts: [None; 2],
        }
    }

    /// Notes a pong.
    pub(crate) fn record_rtt(&mut self, rtt: Duration, now: Instant) {
        let micros = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX);
        self.rtts = [NonZeroU32::new(micros.max(1)), self.rtts[0]];
        self.last_pong = Some(now);
    }

    /// The better of the last two round trips: one sample alone never judges.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        let best = self.rtts.iter().flatten().min()?;
        Some(Duration::from_micros(best.get().into()))
    }

    /// True once two pongs came, so that its round trip may be compared.
    pub(crate) fn proven_twice(&self) -> bool {
        self.rtts.iter().all(Option::is_some)
    }
}

/// True when moving from a healthy `current` to `other` is worth it. Declared order first: inside one site beats IPv6 beats
/// IPv4, as long as it costs little; within one class only a clear gain moves a path.
pub(crate) fn clearly_better(other: (SocketAddr, Duration), current: (SocketAddr, Duration)) -> bool {
    let (other_addr, other_rtt) = other;
    let (current_addr, current_rtt) = current;
    let (to, from) = (Class::of(other_addr.ip()), Class::of(current_addr.ip()));
    match to.cmp(&from) {
        // The same local network: stay off the uplink even when it is a little slower.
        Ordering::Greater if to == Class::Site => other_rtt <= current_rtt + current_rtt / 5 + GAIN_LEAST,
        // No NAT in between whose mapping could end.
        Ordering::Greater => other_rtt <= current_rtt + current_rtt / 10 + GAIN_LEAST / 2,
        // What the order above prefers is left for much only, so that two paths do not alternate.
        Ordering::Less => other_rtt * 2 < current_rtt && other_rtt + GAIN_LEAST * 5 < current_rtt,
        Ordering::Equal => {
            let gain = current_rtt.saturating_sub(other_rtt);
            gain >= GAIN_LEAST && gain >= current_rtt / GAIN_SHARE
        }
    }
}

/// Kinds of addresses, the best last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    V4,
    V6,
    Site,
}

impl Class {
    fn of(ip: IpAddr) -> Self {
        if is_private(ip) {
            Self::Site
        } else if ip.is_ipv6() {
            Self::V6
        } else {
            Self::V4
        }
    }
}

/// Private, link-local or unique-local: reachable only inside one site.
pub(crate) fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local() || ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str, millis: u64) -> (SocketAddr, Duration) {
        (text.parse().unwrap(), Duration::from_millis(millis))
    }

    #[test]
    fn small_gains_do_not_move_a_path() {
        assert!(!clearly_better(at("198.51.100.1:1", 99), at("203.0.113.1:1", 100)));
        assert!(!clearly_better(at("198.51.100.1:1", 95), at("203.0.113.1:1", 100)));
        assert!(clearly_better(at("198.51.100.1:1", 85), at("203.0.113.1:1", 100)));
        assert!(!clearly_better(at("198.51.100.1:1", 1), at("203.0.113.1:1", 2)));
    }

    #[test]
    fn a_private_address_wins_unless_it_is_much_slower() {
        assert!(clearly_better(at("192.168.1.2:1", 3), at("203.0.113.1:1", 2)));
        assert!(!clearly_better(at("203.0.113.1:1", 2), at("192.168.1.2:1", 3)));
        assert!(!clearly_better(at("192.168.1.2:1", 60), at("203.0.113.1:1", 20)));
    }

    #[test]
    fn ipv6_wins_over_ipv4_unless_it_is_slower_and_nobody_alternates() {
        assert!(clearly_better(at("[2001:db8::1]:1", 21), at("203.0.113.1:1", 20)));
        assert!(!clearly_better(at("[2001:db8::1]:1", 30), at("203.0.113.1:1", 20)));
        assert!(clearly_better(at("[fd00::1]:1", 21), at("[2001:db8::1]:1", 20)));
        let all = [
            "192.168.1.2:1",
            "203.0.113.1:1",
            "203.0.113.2:1",
            "[2001:db8::1]:1",
            "[fd00::1]:1",
        ];
        for (a, b) in all.iter().flat_map(|a| all.iter().map(move |b| (a, b))) {
            for (x, y) in (1..80).flat_map(|x| (1..80).map(move |y| (x, y))) {
                let there = clearly_better(at(a, x), at(b, y));
                let back = clearly_better(at(b, y), at(a, x));
                assert!(!(there && back), "{a} {x} ms and {b} {y} ms");
            }
        }
    }
}
