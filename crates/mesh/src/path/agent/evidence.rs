//! What [`PathAgent`] holds against the path in use: data that nobody answers though pings are, and how much of the data
//! is doubled while the path is under suspicion. The count of pings is kept here, too.
//!
//! Some middleboxes let probes through and swallow WireGuard. Pongs alone therefore keep no path for ever: when data went
//! out for a while and nothing authenticated came back on the path, the peer is asked inside the tunnel, where every
//! node answers; silence to that sends the peer to the relay for a minute.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{PathAction, PathAgent, State};

/// Data sent for so long without an authenticated packet on the path: the peer is asked inside the tunnel.
const ASK_AFTER: Duration = Duration::from_secs(5);
const ASK_GAP: Duration = Duration::from_secs(1);
const MAX_ASKS: u32 = 3;
/// A path that swallows data is left alone for so long.
const BLOCKED_FOR: Duration = Duration::from_secs(60);

/// Packets that a new path has overtaken on the relay are there by then.
const OVERTAKEN_FOR: Duration = Duration::from_secs(2);
/// A path that has just answered is not doubted again for the same reason: the peer may prefer the relay.
const BELIEVED_FOR: Duration = Duration::from_secs(10);

/// What is doubled under suspicion: 4 Mbit/s, with room for one super-packet.
const MIRROR_BYTES_PER_SECOND: u64 = 500_000;
const MIRROR_BURST: u64 = 64 << 10;
/// Unanswered probes after which what is not doubled goes over the relay instead of the address.
const RELAY_FROM_MISS: u32 = 2;

/// See the module's text. A peer that was never pinged has none.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// True since data went out on the path and nothing authenticated came back on it.
    waiting: bool,
    asks: u32,
    next_ask: Option<Instant>,
    /// From then on a packet of the peer that came over the relay tells against the path.
    settled_at: Option<Instant>,
    /// An address that swallowed data, and until when it counts for nothing.
    blocked: Option<(SocketAddr, Instant)>,
    mirror_at: Option<Instant>,
    mirror_left: u64,
    /// Start of the running second and the pings sent in it.
    ping_window: Option<(Instant, u32)>,
}

impl Evidence {
    pub(super) fn note_sent(&mut self, now: Instant) {
        if !self.waiting {
            self.waiting = true;
            self.asks = 0;
            self.next_ask = Some(now + ASK_AFTER);
        }
    }

    /// The path has come up, or out of suspicion.
    pub(super) fn note_direct(&mut self, is_new: bool, now: Instant) {
        let pause = if is_new { OVERTAKEN_FOR } else { BELIEVED_FOR };
        self.settled_at = Some(now + pause);
    }

    pub(super) const fn next_ask(&self) -> Option<Instant> {
        self.next_ask
    }

    /// One more ping in this second; how many they are now.
    pub(super) fn count_ping(&mut self, now: Instant) -> u32 {
        let second = Duration::from_secs(1);
        let (start, sent) = match self.ping_window {
            Some((start, sent)) if now.saturating_duration_since(start) < second => (start, sent),
            Some(_) | None => (now, 0),
        };
        self.ping_window = Some((start, sent + 1));
        sent + 1
    }

    fn forget_unanswered(&mut self) {
        self.waiting = false;
        self.asks = 0;
        self.next_ask = None;
    }

    /// Takes from the bucket of doubled data.
    fn take_mirror(&mut self, bytes: usize, now: Instant) -> bool {
        let since = self.mirror_at.map(|at| now.saturating_duration_since(at));
        let earned = since.map_or(MIRROR_BURST, |since| {
            let micros = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
            micros.saturating_mul(MIRROR_BYTES_PER_SECOND) / 1_000_000
        });
        let left = self.mirror_left.saturating_add(earned).min(MIRROR_BURST);
        let bytes = bytes as u64;
        let room = bytes <= left;
        self.mirror_left = if room { left - bytes } else { left };
        self.mirror_at = Some(now);
        room
    }
}

/// Where data goes while its path is under suspicion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spread {
    /// To the address and over the relay.
    Both,
    /// To the address alone: the relay is not flooded on a mere suspicion.
    Address,
    /// Over the relay alone: the address has missed too much.
    Relay,
}

impl PathAgent {
    /// How `bytes` of data leave while the route is [`Route::Both`](super::Route::Both).
    pub(crate) fn spread(&mut self, bytes: usize, now: Instant) -> Spread {
        let State::Suspect { misses, .. } = self.state else {
            return Spread::Address;
        };
        if self.evidence.get_or_insert_default().take_mirror(bytes, now) {
            Spread::Both
        } else if misses > RELAY_FROM_MISS {
            Spread::Relay
        } else {
            Spread::Address
        }
    }

    /// True while `bytes` of data may also be doubled for a way that is not this machine's.
    pub(crate) fn may_mirror(&mut self, bytes: usize, now: Instant) -> bool {
        self.evidence.get_or_insert_default().take_mirror(bytes, now)
    }

    /// Asks inside the tunnel whether data arrives, and draws the conclusion.
    pub(super) fn run_unanswered(&mut self, best: SocketAddr, now: Instant) {
        let busy = self.busy(now);
        let Some(evidence) = &mut self.evidence else { return };
        if evidence.next_ask.is_none_or(|at| now < at) {
            return;
        }
        if !busy {
            // Without traffic nobody owes an answer.
            evidence.forget_unanswered();
        } else if evidence.asks < MAX_ASKS {
            evidence.asks += 1;
            evidence.next_ask = Some(now + ASK_GAP);
            self.actions.push_back(PathAction::Ask);
        } else {
            evidence.blocked = Some((best, now + BLOCKED_FOR));
            self.leave(now);
        }
    }

    /// An authenticated packet came from there.
    pub(super) fn note_arrival(&mut self, from: SocketAddr) {
        let best = self.best();
        let Some(evidence) = &mut self.evidence else { return };
        evidence.blocked.take_if(|(addr, _)| *addr == from);
        if best == Some(from) {
            evidence.forget_unanswered();
        }
    }

    /// The path is in use long enough that what comes over the relay tells against it.
    pub(super) fn settled(&self, now: Instant) -> bool {
        let settled = self.evidence.as_ref().and_then(|evidence| evidence.settled_at);
        settled.is_some_and(|at| at <= now)
    }

    /// Another path is in use, or none.
    pub(super) fn forget_unanswered(&mut self) {
        if let Some(evidence) = &mut self.evidence {
            evidence.forget_unanswered();
        }
    }

    /// A path that swallowed data counts for nothing until its time is over, whatever its pongs say.
    pub(super) fn blocked(&self, addr: SocketAddr, now: Instant) -> bool {
        let blocked = self.evidence.as_ref().and_then(|evidence| evidence.blocked);
        blocked.is_some_and(|(known, until)| known == addr && now < until)
    }
}
