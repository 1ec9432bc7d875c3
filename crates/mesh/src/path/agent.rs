//! [`PathAgent`]: the machine of one peer, described in the essay of [`super`].
//!
//! In go pings, pongs, call-me-maybes, what was sent and what opened, each with `now`; out come [`PathAction`]s
//! (the engine seals and sends them) and the [`Route`] that data takes. Limits of S-16 hold here.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::candidate::{Candidate, Candidates, Origin, is_private};

mod arrivals;
mod evidence;
mod plain;
mod probing;
mod upkeep;

use evidence::Evidence;
pub(crate) use evidence::Spread;

pub(crate) type TxId = [u8; 12];

/// Addresses kept for one peer (S-16).
const MAX_CANDIDATES: usize = 32;
/// Pings waiting for a pong.
const MAX_PROBES: usize = 128;
/// Pings to one peer in one second (S-16).
const MAX_PINGS_PER_SECOND: u32 = 64;
/// Between two pings to one address (S-16: five a second).
const PING_GAP: Duration = Duration::from_millis(200);
/// Between two pings that answer a ping from the same address.
const TRIGGERED_GAP: Duration = Duration::from_millis(250);
/// Between two call-me-maybes to one peer.
const CALL_GAP: Duration = Duration::from_secs(1);
/// Pong waited for.
const PROBE_LIFETIME: Duration = Duration::from_secs(5);
/// Pauses between discovery rounds, the last one repeating while there is traffic.
const DISCOVERY_PAUSES: [Duration; 5] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_millis(1_000),
    Duration::from_millis(2_000),
    Duration::from_millis(5_000),
];
/// Discovery pause without traffic.
const DISCOVERY_IDLE: Duration = Duration::from_secs(60);
/// A full round though the path works, to find a better one.
const UPGRADE_INTERVAL: Duration = Duration::from_secs(30);
const GOOD_ENOUGH_RTT: Duration = Duration::from_millis(5);
/// Heartbeats under traffic and for a while after it.
const HEARTBEAT_BUSY: Duration = Duration::from_secs(1);
const HEARTBEAT_CALM: Duration = Duration::from_secs(3);
/// Traffic counts as present for this long.
const BUSY_FOR: Duration = Duration::from_secs(5);
/// After this silence nothing is pinged any more.
const ACTIVE_FOR: Duration = Duration::from_secs(45);
/// A path that was hard to get is kept open for so long after the last traffic,
const HELD_FOR: Duration = Duration::from_secs(1_800);
/// with one ping in this time.
const HEARTBEAT_HELD: Duration = Duration::from_secs(15);
/// Data without any sign of life from the path for so long: it is pinged before its next heartbeat.
const ASK_PATH_AFTER: Duration = Duration::from_millis(250);
/// Least time such a ping is given.
const ANSWER_LEAST: Duration = Duration::from_millis(150);
/// Least time an answer is waited for before the path is suspected.
const SUSPECT_AFTER: Duration = Duration::from_millis(400);
/// A path unproven for this long is used together with the relay until it answers.
const PROOF_LIFETIME: Duration = Duration::from_millis(4_500);
const SUSPECT_PROBE_GAP: Duration = Duration::from_millis(200);
const SUSPECT_MISSES: u32 = 3;
/// Addresses only heard from are forgotten after this.
const HEARD_LIFETIME: Duration = Duration::from_secs(45);

/// Where data goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// The relay alone.
    Relay,
    /// This address alone.
    Direct(SocketAddr),
    /// Both: the address is under suspicion.
    Both(SocketAddr),
}

/// What the engine is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PathAction {
    /// Send a disco ping to this address.
    Ping { to: SocketAddr, tx: TxId },
    /// Send our endpoints over the relay.
    CallMeMaybe,
    /// Tell a stock peer to forget our addresses: the path it still uses is dead. The next call names them again.
    Withdraw,
    /// Ask inside the tunnel, on the path in use, whether data arrives.
    Ask,
    /// The ordinary ways have not led to a direct path so far.
    Stuck,
    /// The path in use owes an answer: our own mapping may be another one now.
    Suspected,
    /// The route has changed for those who watch: a direct address, or the relay.
    Changed(Option<SocketAddr>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Relay,
    Direct {
        best: SocketAddr,
    },
    Suspect {
        best: SocketAddr,
        misses: u32,
        next_probe: Instant,
    },
}

#[derive(Debug)]
struct Probe {
    to: SocketAddr,
    sent: Instant,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct PathAgent {
    /// Nothing is asked and nothing is measured.
    plain: bool,
    /// The path in use was hard to get and would not come back by itself.
    held: bool,
    state: State,
    candidates: Candidates,
    probes: BTreeMap<TxId, Probe>,
    actions: VecDeque<PathAction>,
    new_tx: fn() -> TxId,
    /// Next discovery round and how many went before.
    discovery: Option<(Instant, usize)>,
    next_heartbeat: Option<Instant>,
    next_upgrade: Option<Instant>,
    last_call: Option<Instant>,
    last_sent: Option<Instant>,
    /// First packet sent since the path in use last proved itself.
    unanswered_since: Option<Instant>,
    last_proof: Option<Instant>,
    /// Elsewhere, since most peers have none.
    evidence: Option<Box<Evidence>>,
}

impl PathAgent {
    /// A peer reached by relay alone. `new_tx` draws transaction ids.
    pub(crate) fn new(new_tx: fn() -> TxId) -> Self {
        Self {
            plain: false,
            held: false,
            state: State::Relay,
            candidates: Candidates::default(),
            probes: BTreeMap::new(),
            actions: VecDeque::new(),
            new_tx,
            discovery: None,
            next_heartbeat: None,
            next_upgrade: None,
            last_call: None,
            last_sent: None,
            unanswered_since: None,
            last_proof: None,
            evidence: None,
        }
    }

    /// Where data goes now.
    pub(crate) fn route(&self) -> Route {
        match self.state {
            State::Relay => Route::Relay,
            State::Direct { best } => Route::Direct(best),
            State::Suspect { best, .. } => Route::Both(best),
        }
    }

    /// The direct address in use, trusted or not.
    pub(crate) fn best(&self) -> Option<SocketAddr> {
        match self.state {
            State::Relay => None,
            State::Direct { best } | State::Suspect { best, .. } => Some(best),
        }
    }

    /// When the path in use last answered a ping or carried something authenticated.
    pub(crate) const fn last_proof(&self) -> Option<Instant> {
        self.last_proof
    }

    /// Every address that is known of the peer.
    pub(crate) fn candidates(&self) -> impl Iterator<Item = (SocketAddr, &Candidate)> {
        self.candidates.iter()
    }

    /// Round trip on the path in use.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.candidates.get(self.best()?)?.rtt()
    }

    /// A few addresses worth a handshake message besides the way in use, best guesses first.
    pub(crate) fn likely(&self) -> Vec<SocketAddr> {
        let best = self.best();
        if self.plain {
            let others = self.candidates.addresses();
            return others.filter(|addr| Some(*addr) != best).collect();
        }
        if best.is_some() {
            return Vec::new();
        }
        let mut all: Vec<_> = self
            .candidates
            .iter()
            .map(|(addr, known)| (known.last_pong.is_none(), addr))
            .collect();
        all.sort();
        all.into_iter().take(4).map(|(_, addr)| addr).collect()
    }

    /// The path that has come up, or is about to, was found by guessing: it is kept open also without traffic.
    pub(crate) fn hold(&mut self) {
        self.held = true;
    }

    /// A public IPv4 address at which the peer says it is.
    pub(crate) fn public_v4(&self) -> Option<SocketAddr> {
        let told = self
            .candidates
            .iter()
            .filter(|(_, known)| known.origin != Origin::Heard);
        told.map(|(addr, _)| addr)
            .find(|addr| addr.is_ipv4() && !is_private(addr.ip()))
    }

    /// The peer has told of an address with this IP.
    pub(crate) fn knows_ip(&self, ip: IpAddr) -> bool {
        let mut told = self
            .candidates
            .iter()
            .filter(|(_, known)| known.origin != Origin::Heard);
        told.any(|(addr, _)| addr.ip() == ip)
    }

    /// The next thing to do.
    pub(crate) fn poll_action(&mut self) -> Option<PathAction> {
        self.actions.pop_front()
    }

    /// The addresses the coordinator knows now.
    pub(crate) fn set_netmap_endpoints(&mut self, endpoints: &[SocketAddr], now: Instant) {
        if self.plain {
            return self.set_plain_endpoints(endpoints);
        }
        let best = self.best();
        self.candidates
            .retain(|addr, known| known.origin != Origin::Netmap || Some(addr) == best || endpoints.contains(&addr));
        let fresh = endpoints
            .iter()
            .filter(|addr| self.add_candidate(**addr, Origin::Netmap, now))
            .count();
        if fresh > 0 && self.active(now) && matches!(self.state, State::Relay) {
            self.start_discovery(now);
        }
    }

    /// A WireGuard packet to the peer goes out.
    pub(crate) fn handle_sent(&mut self, now: Instant) {
        if self.plain {
            return;
        }
        let was_active = self.active(now);
        self.last_sent = Some(now);
        self.unanswered_since.get_or_insert(now);
        if !matches!(self.state, State::Relay) {
            self.evidence.get_or_insert_default().note_sent(now);
        }
        match self.state {
            State::Relay => {
                let soon = now + BUSY_FOR;
                if !was_active || self.discovery.is_none_or(|(at, _)| at > soon) {
                    self.start_discovery(now);
                }
            }
            State::Direct { .. } => {
                if self
                    .last_proof
                    .is_none_or(|proof| now.saturating_duration_since(proof) > PROOF_LIFETIME)
                {
                    self.suspect(now);
                } else if !was_active || self.next_heartbeat.is_none() {
                    self.next_heartbeat = Some(now);
                } else if self
                    .unanswered_since
                    .is_some_and(|since| now.saturating_duration_since(since) >= ASK_PATH_AFTER)
                {
                    self.ping_unanswered(now);
                }
            }
            State::Suspect { .. } => {}
        }
    }

    /// The kernel says that `to` cannot be reached.
    pub(crate) fn handle_unreachable(&mut self, to: SocketAddr, now: Instant) {
        if !self.plain && self.best() == Some(to) && matches!(self.state, State::Direct { .. }) {
            self.suspect(now);
        }
    }

    /// Something about our own network changed: no direct path is believed before it has answered again.
    pub(crate) fn handle_network_change(&mut self, now: Instant) {
        match self.state {
            State::Direct { .. } if !self.plain && self.active(now) => {
                self.probes.clear();
                self.last_call = None;
                self.suspect(now);
                self.ping_all(now, Duration::ZERO);
            }
            State::Relay | State::Direct { .. } | State::Suspect { .. } => self.restart_discovery(now),
        }
    }

    /// The peer has a new disco key, a session has come up, or our own addresses changed: ask everything anew.
    pub(crate) fn restart_discovery(&mut self, now: Instant) {
        if self.plain {
            return;
        }
        self.probes.clear();
        for known in self.candidates.values_mut() {
            known.last_ping = None;
        }
        self.last_call = None;
        match self.state {
            State::Relay => self.start_discovery(now),
            State::Direct { .. } => {
                self.ping_all(now, Duration::ZERO);
                self.call(now);
            }
            State::Suspect { .. } => {}
        }
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.plain {
            return;
        }
        self.probes
            .retain(|_, probe| now.saturating_duration_since(probe.sent) < PROBE_LIFETIME);
        let best = self.best();
        self.candidates.retain(|addr, known| {
            let stale = known
                .last_heard
                .is_none_or(|heard| now.saturating_duration_since(heard) > HEARD_LIFETIME);
            known.origin != Origin::Heard || Some(addr) == best || !stale
        });
        match self.state {
            State::Relay => self.run_discovery(now),
            State::Direct { best } => self.run_direct(best, now),
            State::Suspect {
                best,
                misses,
                next_probe,
            } if now >= next_probe => {
                self.run_suspect(best, misses, now);
            }
            State::Suspect { .. } => {}
        }
    }

    /// When [`Self::handle_timeout`] is wanted next.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Direct { .. } if self.plain => None,
            State::Relay => self.discovery.map(|(at, _)| at),
            State::Direct { best } => {
                let owed = self.answer_deadline(best);
                let asks = self.evidence.as_ref().and_then(|evidence| evidence.next_ask());
                [self.next_heartbeat, self.next_upgrade, owed, asks]
                    .into_iter()
                    .flatten()
                    .min()
            }
            State::Suspect { next_probe, .. } => Some(next_probe),
        }
    }

    fn active(&self, now: Instant) -> bool {
        let long = self.held && self.best().is_some();
        let limit = if long { HELD_FOR } else { ACTIVE_FOR };
        self.last_sent
            .is_some_and(|sent| now.saturating_duration_since(sent) < limit)
    }

    fn busy(&self, now: Instant) -> bool {
        self.last_sent
            .is_some_and(|sent| now.saturating_duration_since(sent) < BUSY_FOR)
    }

    fn prove(&mut self, now: Instant) {
        self.last_proof = Some(now);
        self.unanswered_since = None;
    }

    fn start_discovery(&mut self, now: Instant) {
        self.discovery = Some((now, 0));
        self.run_discovery(now);
    }

    fn suspect(&mut self, now: Instant) {
        if let Some(best) = self.best() {
            self.state = State::Suspect {
                best,
                misses: 0,
                next_probe: now,
            };
            self.actions.push_back(PathAction::Suspected);
            self.call(now);
            self.run_suspect(best, 0, now);
        }
    }

    /// The direct path is given up: the relay carries on alone while others are looked for.
    fn leave(&mut self, now: Instant) {
        self.state = State::Relay;
        self.held = false;
        self.forget_unanswered();
        self.next_heartbeat = None;
        self.next_upgrade = None;
        self.actions.push_back(PathAction::Withdraw);
        self.actions.push_back(PathAction::Changed(None));
        // Behind the withdrawal, whatever was called for last.
        self.last_call = None;
        self.start_discovery(now);
    }

    fn go_direct(&mut self, best: SocketAddr, now: Instant) {
        let before = self.best();
        self.state = State::Direct { best };
        self.evidence
            .get_or_insert_default()
            .note_direct(before != Some(best), now);
        self.last_proof = Some(now);
        self.unanswered_since = None;
        self.discovery = None;
        self.next_upgrade = Some(now + UPGRADE_INTERVAL);
        self.schedule_heartbeat(now);
        if before.is_none() {
            // A stock peer that only heard our ping waits for its next round; a call makes it ask at once.
            self.last_call = None;
            self.call(now);
        }
        if before != Some(best) {
            self.forget_unanswered();
            self.actions.push_back(PathAction::Changed(Some(best)));
        }
    }

    fn schedule_heartbeat(&mut self, now: Instant) {
        let recent = self
            .last_sent
            .is_some_and(|sent| now.saturating_duration_since(sent) < ACTIVE_FOR);
        let pause = if self.busy(now) {
            HEARTBEAT_BUSY
        } else if recent {
            HEARTBEAT_CALM
        } else {
            HEARTBEAT_HELD
        };
        self.next_heartbeat = self.active(now).then(|| now + pause);
    }
}

#[cfg(test)]
mod tests;
