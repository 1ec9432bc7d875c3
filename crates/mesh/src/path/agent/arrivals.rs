//! The receiving half of [`PathAgent`]: call-me-maybes, pings, pongs and opened packets, and what they prove.

use std::net::SocketAddr;
use std::time::Instant;

use super::{MAX_CANDIDATES, PING_GAP, PathAgent, Route, State, TRIGGERED_GAP, TxId};
use crate::path::candidate::{Candidate, Origin, clearly_better};

impl PathAgent {
    /// The peer named its addresses over the relay.
    pub(crate) fn handle_call_me_maybe(&mut self, endpoints: &[SocketAddr], now: Instant) {
        if self.plain {
            return;
        }
        // The address in use is none of the peer's any more, by its own word: its network has changed.
        if let State::Direct { best } = self.state {
            let told = self
                .candidates
                .get(best)
                .is_some_and(|known| known.origin != Origin::Heard);
            if told && !endpoints.contains(&best) {
                self.suspect(now);
            }
        }
        let best = self.best();
        self.candidates.retain(|addr, known| {
            known.origin != Origin::CallMeMaybe || Some(addr) == best || endpoints.contains(&addr)
        });
        for addr in endpoints.iter().take(MAX_CANDIDATES) {
            self.add_candidate(*addr, Origin::CallMeMaybe, now);
        }
        self.ping_all(now, PING_GAP);
        if !matches!(self.state, State::Direct { .. }) {
            self.answer_call(now);
        }
    }

    /// A disco ping of the peer came from `from`; the engine has answered it.
    pub(crate) fn handle_ping(&mut self, from: SocketAddr, now: Instant) {
        if self.plain {
            return;
        }
        self.add_candidate(from, Origin::Heard, now);
        if self.route() != Route::Direct(from) {
            self.ping(from, now, TRIGGERED_GAP);
        }
    }

    /// A pong arrived over UDP; returns the address it proves.
    pub(crate) fn handle_pong(&mut self, tx: TxId, now: Instant) -> Option<SocketAddr> {
        let probe = self.probes.remove(&tx)?;
        let rtt = now.saturating_duration_since(probe.sent);
        let known = self.candidates.get_mut(probe.to)?;
        known.record_rtt(rtt, now);
        if self.blocked(probe.to, now) {
            return Some(probe.to);
        }
        match self.state {
            State::Relay => self.go_direct(probe.to, now),
            State::Suspect { .. } => {
                self.prove(now);
                self.go_direct(probe.to, now);
            }
            State::Direct { best } if best == probe.to => self.prove(now),
            State::Direct { best } => self.consider(probe.to, best, now),
        }
        Some(probe.to)
    }

    /// A WireGuard packet of the peer opened; `from` is its UDP source, or nothing for the relay.
    pub(crate) fn handle_opened(&mut self, from: Option<SocketAddr>, now: Instant) {
        let Some(from) = from else {
            // The peer does not use the direct path, or it lost the packet: does it still stand? Just after it came up there
            // are packets on the relay that it has overtaken.
            if matches!(self.state, State::Direct { .. }) && self.settled(now) {
                self.suspect(now);
            }
            return;
        };
        if self.plain {
            return self.follow(from);
        }
        self.note_arrival(from);
        match self.state {
            State::Direct { best } if best == from => self.prove(now),
            State::Suspect { best, .. } if best == from => {
                self.prove(now);
                self.go_direct(best, now);
            }
            State::Relay | State::Suspect { .. } => {
                self.add_candidate(from, Origin::Heard, now);
                self.ping(from, now, TRIGGERED_GAP);
                self.prove(now);
                self.go_direct(from, now);
            }
            State::Direct { .. } => {
                self.add_candidate(from, Origin::Heard, now);
                self.ping(from, now, TRIGGERED_GAP);
            }
        }
    }

    fn consider(&mut self, other: SocketAddr, best: SocketAddr, now: Instant) {
        let rtt = |addr| {
            self.candidates
                .get(addr)
                .filter(|known| known.proven_twice())
                .and_then(Candidate::rtt)
        };
        match (rtt(other), self.rtt()) {
            (Some(other_rtt), Some(best_rtt)) if clearly_better((other, other_rtt), (best, best_rtt)) => {
                self.prove(now);
                self.go_direct(other, now);
            }
            (Some(_), _) => {}
            // One pong says that it works; a second one lets it compete.
            (None, _) => self.ping(other, now, PING_GAP),
        }
    }
}
