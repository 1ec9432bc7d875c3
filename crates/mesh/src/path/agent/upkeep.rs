//! The timed half of [`PathAgent`]: what is due while the peer is relayed, direct or under suspicion.

use std::net::SocketAddr;
use std::time::Instant;

use super::{
    ANSWER_LEAST, DISCOVERY_IDLE, DISCOVERY_PAUSES, GOOD_ENOUGH_RTT, PING_GAP, PathAction, PathAgent, SUSPECT_AFTER,
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

    /// Pings the path in use, unless a ping since its last sign of life is out already.
    pub(super) fn ping_unanswered(&mut self, now: Instant) {
        if let Some(best) = self.best()
            && self.oldest_unanswered(best).is_none()
        {
            self.ping(best, now, PING_GAP);
        }
    }

    /// When the first ping of the path in use left that nothing has answered since.
    fn oldest_unanswered(&self, best: SocketAddr) -> Option<Instant> {
        let after_proof = |sent: Instant| self.last_proof.is_none_or(|proof| proof < sent);
        self.probes
            .values()
            .filter(|probe| probe.to == best && after_proof(probe.sent))
            .map(|probe| probe.sent)
            .min()
    }

    /// When the path in use must have answered: a ping that is overdue. With data waiting as well the time counts from
    /// that; data alone proves nothing, since nobody answers a one-way stream.
    pub(super) fn answer_deadline(&self, best: SocketAddr) -> Option<Instant> {
        let sent = self.oldest_unanswered(best)?;
        let round_trips = self.rtt().map_or(SUSPECT_AFTER, |rtt| rtt * 3);
        Some(match self.unanswered_since {
            Some(since) if since < sent => (sent + round_trips.max(ANSWER_LEAST)).max(since + SUSPECT_AFTER),
            Some(_) | None => sent + round_trips.max(SUSPECT_AFTER),
        })
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
