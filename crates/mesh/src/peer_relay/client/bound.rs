//! [`Bound`]: a way over a server that has worked, and whether it still does.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use sandd_control_client::netmap::NodeId;

use super::{BUSY_FOR, ClientAction};
use crate::disco::{RelayEndpoint, TxId};
use crate::peer_relay::Via;

/// Between two pings under traffic.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// Without proof for this long it is not trusted alone: NATs and servers forget.
const TRUST: Duration = Duration::from_millis(6_500);
/// Data that nothing has come back for is reason to ask after this.
const UNANSWERED: Duration = Duration::from_millis(500);
/// An answer is waited for at least so long.
const ANSWER: Duration = Duration::from_millis(250);
/// Answers that may be missing before suspicion, and then before it is given up.
const MISSES: u32 = 2;
const MISSES_SUSPECT: u32 = 8;
/// Between two pings of a suspect.
const SUSPECT_GAP: Duration = Duration::from_millis(500);

/// Both sides have changed over to it after this.
const SETTLED: Duration = Duration::from_secs(2);

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Fine,
    Doubtful,
    Dead,
}

#[derive(Debug)]
pub(super) struct Bound {
    endpoint: RelayEndpoint,
    server: Option<NodeId>,
    via: Via,
    rtt: Duration,
    since: Instant,
    proven: Instant,
    suspect: bool,
    misses: u32,
    /// First packet sent since the last proof.
    unanswered: Option<Instant>,
    /// The ping that waits for its pong.
    ping: Option<(TxId, Instant)>,
    next_ping: Option<Instant>,
}

impl Bound {
    pub(super) fn new(endpoint: RelayEndpoint, server: Option<NodeId>, via: Via, rtt: Duration, now: Instant) -> Self {
        Self {
            endpoint,
            server,
            via,
            rtt,
            since: now,
            proven: now,
            suspect: false,
            misses: 0,
            unanswered: None,
            ping: None,
            next_ping: None,
        }
    }

    pub(super) fn continue_traffic(&mut self, last_sent: Option<Instant>, now: Instant) {
        let busy = last_sent.is_some_and(|sent| now.saturating_duration_since(sent) < BUSY_FOR);
        self.next_ping = busy.then(|| now + HEARTBEAT);
    }

    pub(super) fn via(&self) -> Via {
        self.via
    }

    pub(super) fn rtt(&self) -> Duration {
        self.rtt
    }

    pub(super) fn server(&self) -> Option<NodeId> {
        self.server
    }

    pub(super) fn learn_server(&mut self, server: Option<NodeId>) {
        self.server = self.server.or(server);
    }

    pub(super) fn endpoint(&self) -> &RelayEndpoint {
        &self.endpoint
    }

    pub(super) fn is_suspect(&self) -> bool {
        self.suspect
    }

    /// True when it has become too old to be trusted.
    pub(super) fn handle_sent(&mut self, now: Instant) -> bool {
        self.unanswered.get_or_insert(now);
        if self.next_ping.is_none() {
            self.next_ping = Some(now + HEARTBEAT);
        }
        !self.suspect && now.saturating_duration_since(self.proven) > TRUST
    }

    pub(super) fn handle_opened(&mut self, from: Via, now: Instant) {
        if from == self.via {
            self.prove(now);
        }
    }

    /// A packet of the peer came over DERP though it could have come this way: the peer may have lost it, so one missing
    /// answer is enough.
    pub(super) fn doubt(&mut self, new_tx: fn() -> TxId, now: Instant, actions: &mut VecDeque<ClientAction>) {
        let settled = now.saturating_duration_since(self.since) >= SETTLED;
        let fresh = now.saturating_duration_since(self.proven) < ANSWER;
        if settled && !fresh && !self.suspect && self.misses == 0 {
            self.misses = MISSES - 1;
            if self.ping.is_none() {
                self.send_ping(new_tx, now, actions);
            }
        }
    }

    /// True when it answers a ping of this way.
    pub(super) fn handle_pong(&mut self, tx: &TxId, from: Via, now: Instant) -> bool {
        match self.ping {
            Some((sent_tx, sent)) if sent_tx == *tx && from == self.via => {
                self.rtt = now.saturating_duration_since(sent);
                self.ping = None;
                self.prove(now);
                true
            }
            Some(_) | None => false,
        }
    }

    fn prove(&mut self, now: Instant) {
        if self.suspect {
            self.next_ping = Some(now + HEARTBEAT);
        }
        self.proven = now;
        self.suspect = false;
        self.misses = 0;
        self.unanswered = None;
    }

    pub(super) fn suspect(&mut self, new_tx: fn() -> TxId, now: Instant, actions: &mut VecDeque<ClientAction>) {
        self.suspect = true;
        self.misses = 0;
        self.send_ping(new_tx, now, actions);
        self.next_ping = Some(now + SUSPECT_GAP);
    }

    /// Does what is due; `busy` says that data is sent.
    pub(super) fn run(
        &mut self,
        busy: bool,
        new_tx: fn() -> TxId,
        now: Instant,
        actions: &mut VecDeque<ClientAction>,
    ) -> Verdict {
        let steady = Duration::from_nanos(self.endpoint.steady_lifetime_ns).min(Duration::from_secs(3_600));
        if now.saturating_duration_since(self.proven) > steady {
            return Verdict::Dead;
        }
        let over = self.answer_deadline().is_some_and(|at| now >= at);
        let ping = self.ping.take_if(|_| over);
        // Data that came meanwhile says the same as a pong.
        let missed = ping.is_some_and(|(_, sent)| self.proven < sent);
        self.misses += u32::from(missed);
        if self.suspect {
            return self.run_suspect(new_tx, now, actions);
        }
        if self.misses >= MISSES {
            return Verdict::Doubtful;
        }
        let due = self.next_ping.is_some_and(|at| now >= at);
        if due && !busy {
            self.next_ping = None;
        }
        if self.ping.is_none() && (missed || (due && busy) || self.asks_at().is_some_and(|at| now >= at)) {
            self.send_ping(new_tx, now, actions);
            self.next_ping = busy.then(|| now + HEARTBEAT);
        }
        Verdict::Fine
    }

    fn run_suspect(&mut self, new_tx: fn() -> TxId, now: Instant, actions: &mut VecDeque<ClientAction>) -> Verdict {
        if self.misses >= MISSES_SUSPECT {
            return Verdict::Dead;
        }
        if self.ping.is_none() && self.next_ping.is_none_or(|at| now >= at) {
            self.send_ping(new_tx, now, actions);
            self.next_ping = Some(now + SUSPECT_GAP);
        }
        Verdict::Fine
    }

    fn send_ping(&mut self, new_tx: fn() -> TxId, now: Instant, actions: &mut VecDeque<ClientAction>) {
        let tx = new_tx();
        self.ping = Some((tx, now));
        // Data that is answered is proof enough for a while longer.
        self.unanswered = None;
        actions.push_back(ClientAction::Ping { to: self.via, tx });
    }

    fn answer_deadline(&self) -> Option<Instant> {
        let (_, sent) = self.ping?;
        Some(sent + ANSWER.max(self.rtt * 3))
    }

    /// When data has gone unanswered for too long.
    fn asks_at(&self) -> Option<Instant> {
        Some(self.unanswered? + UNANSWERED.max(self.rtt * 4))
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        let end = self.proven + Duration::from_nanos(self.endpoint.steady_lifetime_ns).min(Duration::from_secs(3_600));
        let end = end + Duration::from_millis(1);
        if let Some(deadline) = self.answer_deadline() {
            return deadline.min(end);
        }
        let asks = self.asks_at().filter(|_| !self.suspect);
        [self.next_ping, asks].into_iter().flatten().fold(end, Instant::min)
    }
}
