//! The timed half of [`PathAgent`]: what is due while the peer is relayed, direct or under suspicion.

use std::net::SocketAddr;
use std::time::Instant;

use super::{
    DISCOVERY_IDLE, DISCOVERY_PAUSES, GOOD_ENOUGH_RTT, PING_GAP, PathAction, PathAgent, SILENCE_LIMIT, SUSPECT_AFTER,
    SUSPECT_MISSES, SUSPECT_PROBE_GAP, State, UPGRADE_INTERVAL,
};
use crate::path::candidate::Candidate;

/// Rounds of discovery before other means are thought of.
const STUCK_FROM: usize = 2;

impl PathAgent {
    pub(super) fn run_discovery(&mut self, now: Instant) {
        let Some((at, round)) = self.discovery else { return };
        if now < at {
            return;
        }
        if !self.active(now) {
            self.discovery = None;
            return;
        }
        self.ping_all(now, PING_GAP);
        self.call(now);
        if round >= STUCK_FROM {
            self.actions.push_back(PathAction::Stuck);
        }
        let step = DISCOVERY_PAUSES
            .get(round)
            .or(DISCOVERY_PAUSES.last())
            .copied()
            .unwrap_or(DISCOVERY_IDLE);
        let pause = if self.busy(now) { step } else { step.max(DISCOVERY_IDLE) };
        self.discovery = Some((now + pause, round + 1));
    }

    pub(super) fn run_direct(&mut self, best: SocketAddr, now: Instant) {
        if self.answer_deadline(best).is_some_and(|deadline| now >= deadline) {
            self.suspect(now);
            return;
        }
        self.run_unanswered(best, now);
        if !matches!(self.state, State::Direct { .. }) {
            return;
        }
        if self.next_heartbeat.is_some_and(|at| now >= at) {
            if self.active(now) {
                self.ping(best, now, PING_GAP);
                self.schedule_heartbeat(now);
            } else {
                self.next_heartbeat = None;
            }
        }
        if self.next_upgrade.is_some_and(|at| now >= at) {
            let worth = self.active(now) && self.rtt().is_none_or(|rtt| rtt > GOOD_ENOUGH_RTT);
            if worth {
                self.ping_all(now, PING_GAP);
            }
            self.next_upgrade = self.active(now).then(|| now + UPGRADE_INTERVAL);
        }
    }

    /// When the path in use must have answered: a ping that is overdue, or data that nobody answers.
    pub(super) fn answer_deadline(&self, best: SocketAddr) -> Option<Instant> {
        let patience = self.rtt().map_or(SUSPECT_AFTER, |rtt| (rtt * 3).max(SUSPECT_AFTER));
        let after_proof = |sent: Instant| self.last_proof.is_none_or(|proof| proof < sent);
        let ping = self
            .probes
            .values()
            .filter(|probe| probe.to == best && after_proof(probe.sent))
            .map(|p| p.sent)
            .min();
        // One-way streams answer nothing for long: only silence while a heartbeat is out counts.
        let data = self
            .unanswered_since
            .filter(|_| ping.is_some())
            .map(|since| since + SILENCE_LIMIT);
        [ping.map(|sent| sent + patience), data].into_iter().flatten().min()
    }

    pub(super) fn run_suspect(&mut self, best: SocketAddr, misses: u32, now: Instant) {
        if misses >= SUSPECT_MISSES {
            if let Some(known) = self.candidates.get_mut(best) {
                *known = Candidate::new(known.origin);
            }
            return self.leave(now);
        }
        self.force_ping(best, now);
        self.ping_all(now, PING_GAP);
        self.state = State::Suspect {
            best,
            misses: misses + 1,
            next_probe: now + SUSPECT_PROBE_GAP,
        };
    }
}
