//! The sending half of [`PathAgent`]: pings and calls within their limits, and the addresses they go to.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::{CALL_GAP, MAX_CANDIDATES, MAX_PINGS_PER_SECOND, MAX_PROBES, PING_GAP, PathAction, PathAgent, Probe};
use crate::path::candidate::{Candidate, Origin};

impl PathAgent {
    pub(super) fn ping_all(&mut self, now: Instant, gap: Duration) {
        let all: Vec<_> = self.candidates.addresses().collect();
        for addr in all {
            self.ping(addr, now, gap);
        }
    }

    pub(super) fn ping(&mut self, to: SocketAddr, now: Instant, gap: Duration) {
        let due = self.candidates.get(to).is_some_and(|known| {
            known
                .last_ping
                .is_none_or(|last| now.saturating_duration_since(last) >= gap)
        });
        if due {
            self.force_ping(to, now);
        }
    }

    pub(super) fn force_ping(&mut self, to: SocketAddr, now: Instant) {
        if self.probes.len() >= MAX_PROBES || !self.within_budget(now) {
            return;
        }
        if let Some(known) = self.candidates.get_mut(to) {
            known.last_ping = Some(now);
        }
        let tx = (self.new_tx)();
        self.probes.insert(tx, Probe { to, sent: now });
        self.actions.push_back(PathAction::Ping { to, tx });
    }

    fn within_budget(&mut self, now: Instant) -> bool {
        self.evidence.get_or_insert_default().count_ping(now) <= MAX_PINGS_PER_SECOND
    }

    pub(super) fn call(&mut self, now: Instant) {
        // The ladder's early rounds are allowed: a lost call is what they are for.
        let early = self.discovery.is_some_and(|(_, round)| round < 3);
        self.call_after(if early { PING_GAP } else { CALL_GAP }, now);
    }

    /// A call-me-maybe is answered by one, but not an answer: two that cannot reach each other would go on for ever.
    pub(super) fn answer_call(&mut self, now: Instant) {
        self.call_after(CALL_GAP, now);
    }

    fn call_after(&mut self, gap: Duration, now: Instant) {
        if self
            .last_call
            .is_none_or(|last| now.saturating_duration_since(last) >= gap)
        {
            self.last_call = Some(now);
            self.actions.push_back(PathAction::CallMeMaybe);
        }
    }

    /// Notes an address; true when it is new.
    pub(super) fn add_candidate(&mut self, addr: SocketAddr, origin: Origin, now: Instant) -> bool {
        if !usable(addr) {
            return false;
        }
        if let Some(known) = self.candidates.get_mut(addr) {
            known.origin = known.origin.min(origin);
            known.last_heard = Some(now);
            return false;
        }
        if self.candidates.len() >= MAX_CANDIDATES {
            let best = self.best();
            let oldest = self
                .candidates
                .iter()
                .filter(|(known, _)| Some(*known) != best)
                .max_by_key(|(_, known)| (known.origin, std::cmp::Reverse(known.last_heard)))
                .map(|(addr, _)| addr);
            let Some(oldest) = oldest else { return false };
            self.candidates.remove(oldest);
        }
        let mut known = Candidate::new(origin);
        known.last_heard = Some(now);
        self.candidates.insert(addr, known);
        true
    }
}

fn usable(addr: SocketAddr) -> bool {
    let ip_ok = match addr.ip() {
        IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_unicast_link_local(),
    };
    ip_ok && addr.port() != 0
}
