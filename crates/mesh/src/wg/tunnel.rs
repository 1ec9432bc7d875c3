//! [`Tunnel`]: the WireGuard sessions with one peer; the only file that names boringtun's engine.
//!
//! Out: a packet is padded and sealed when a session stands, else it waits here (bounded) and a handshake starts.
//! In: a datagram is opened and cut to its inner length. boringtun reads its own clock; this wall ticks it before it
//! is used after a silence, and says when it wants the next tick.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};

use crate::packet::PacketBuf;

/// Packets that wait for a first session; more push the oldest out.
pub(crate) const MAX_STAGED: usize = 128;
/// Ages of an unanswered initiation at which it is sent again, before boringtun's own 5 s rhythm takes over: a relay
/// connection or the peer's network map may be there a moment later.
const RETRY_LADDER: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_millis(1_000),
    Duration::from_millis(2_000),
];
const TICK_BUSY: Duration = Duration::from_millis(250);
const TICK_IDLE: Duration = Duration::from_secs(1);
/// Smallest buffer boringtun writes a handshake message into.
const MIN_SCRATCH: usize = 148;
/// Bytes of a data message in front of its packet: type, receiver, counter.
pub(crate) const HEADER: usize = 16;
/// Bytes behind it.
pub(crate) const TAG: usize = 16;

/// A datagram that did not open: forged, replayed, expired or for another session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unopened;

/// See the module's text.
pub(crate) struct Tunnel {
    engine: Tunn,
    index: u32,
    staged: VecDeque<PacketBuf>,
    scratch: Vec<u8>,
    last_tick: Option<Instant>,
    last_use: Instant,
    handshake: Option<Handshake>,
    had_session: bool,
}

/// An initiation of ours that nobody answered yet.
struct Handshake {
    started: Instant,
    step: usize,
}

impl Tunnel {
    /// A tunnel to the peer with this key. `index` is random, 24 bits, and unique among the living tunnels.
    pub(crate) fn new(own: StaticSecret, peer: PublicKey, index: u32, limiter: Arc<RateLimiter>, now: Instant) -> Self {
        Self {
            engine: Tunn::new(own, peer, None, None, index, Some(limiter)),
            index,
            staged: VecDeque::new(),
            scratch: Vec::new(),
            last_tick: None,
            last_use: now,
            handshake: None,
            had_session: false,
        }
    }

    /// The 24 bits that the peer's messages carry in front of a counting byte.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// True while packets can be sealed.
    pub(crate) fn has_session(&self) -> bool {
        self.engine.time_since_last_handshake().is_some()
    }

    /// Age of the session in use.
    pub(crate) fn session_age(&self) -> Option<Duration> {
        self.engine.time_since_last_handshake()
    }

    /// True once after a session came up where there was none; the caller then flushes and greets.
    pub(crate) fn take_established(&mut self) -> bool {
        let has = self.has_session();
        let fresh = has && !self.had_session;
        self.had_session = has;
        if has {
            self.handshake = None;
        }
        fresh
    }

    /// True when packets can be sealed now. `out` gets what is due to the peer.
    pub(crate) fn ready(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) -> bool {
        self.refresh(now, out);
        self.last_use = now;
        self.has_session()
    }

    /// Seals a run of slots in place: `stride` bytes each, the last may be shorter, each with room for the header (16),
    /// then the padded packet, then room for the tag (16). Needs [`Self::ready`].
    pub(crate) fn seal_slots(&mut self, slots: &mut [u8], stride: usize, _now: Instant, _out: &mut Vec<Vec<u8>>) {
        for slot in slots.chunks_mut(stride) {
            let len = slot.len();
            let plain = &slot[HEADER..len - TAG];
            let needed = len.max(MIN_SCRATCH);
            if self.scratch.len() < needed {
                self.scratch.resize(needed, 0);
            }
            if let TunnResult::WriteToNetwork(message) = self.engine.encapsulate(plain, &mut self.scratch) {
                slot.copy_from_slice(message);
            }
        }
    }

    /// Opens a run of data messages with one receiver index in place. A bit of the result stands for a slot that is
    /// authentic and fresh; its packet is then at [`HEADER`], all zero for a keepalive.
    pub(crate) fn open_slots(&mut self, slots: &mut [u8], stride: usize, now: Instant, out: &mut Vec<Vec<u8>>) -> u64 {
        self.refresh(now, out);
        let mut opened = 0;
        for (at, slot) in slots.chunks_mut(stride).enumerate().take(64) {
            let needed = slot.len().max(MIN_SCRATCH);
            if self.scratch.len() < needed {
                self.scratch.resize(needed, 0);
            }
            match self.engine.decapsulate(None, slot, &mut self.scratch) {
                TunnResult::WriteToTunnelV4(inner, _) | TunnResult::WriteToTunnelV6(inner, _) => {
                    slot[HEADER..HEADER + inner.len()].copy_from_slice(inner);
                    opened |= 1 << at;
                }
                TunnResult::WriteToNetwork(message) => {
                    let message = message.to_vec();
                    out.push(message);
                    slot[HEADER..].fill(0);
                    opened |= 1 << at;
                }
                TunnResult::Done => {
                    slot[HEADER..].fill(0);
                    opened |= 1 << at;
                }
                TunnResult::Err(_) => {}
            }
        }
        opened
    }

    /// Keeps a packet until a session stands, and starts the handshake.
    pub(crate) fn stage(&mut self, packet: PacketBuf, now: Instant, out: &mut Vec<Vec<u8>>) {
        if self.staged.len() >= MAX_STAGED {
            self.staged.pop_front();
        }
        self.staged.push_back(packet);
        if self.handshake.is_none() {
            out.extend(self.initiate(now));
        }
    }

    /// What waited for a session, in order.
    pub(crate) fn take_staged(&mut self) -> VecDeque<PacketBuf> {
        std::mem::take(&mut self.staged)
    }

    /// True while an initiation of ours waits for its answer.
    pub(crate) fn handshaking(&self) -> bool {
        self.handshake.is_some()
    }

    /// A fresh initiation, also when one is under way: a path has just come up, or the peer has just become known.
    pub(crate) fn initiate(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.handshake.get_or_insert(Handshake { started: now, step: 0 });
        self.last_use = now;
        let mut scratch = vec![0u8; MIN_SCRATCH];
        match self.engine.format_handshake_initiation(&mut scratch, true) {
            TunnResult::WriteToNetwork(message) => Some(message.to_vec()),
            TunnResult::Done
            | TunnResult::Err(_)
            | TunnResult::WriteToTunnelV4(..)
            | TunnResult::WriteToTunnelV6(..) => None,
        }
    }

    /// Takes a handshake message or cookie; an answer goes to `out`. `source` feeds boringtun's cookie check, which the
    /// guard has already made.
    pub(crate) fn handle_handshake(
        &mut self,
        source: IpAddr,
        datagram: &[u8],
        now: Instant,
        out: &mut Vec<Vec<u8>>,
    ) -> Result<(), Unopened> {
        self.refresh(now, out);
        let mut scratch = [0u8; MIN_SCRATCH];
        match self.engine.decapsulate(Some(source), datagram, &mut scratch) {
            TunnResult::WriteToNetwork(message) => out.push(message.to_vec()),
            TunnResult::Done | TunnResult::WriteToTunnelV4(..) | TunnResult::WriteToTunnelV6(..) => {}
            TunnResult::Err(_) => return Err(Unopened),
        }
        Ok(())
    }

    /// Gives boringtun its time and sends what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        self.tick(now, out);
        let due = self.handshake.as_ref().is_some_and(|handshake| {
            RETRY_LADDER
                .get(handshake.step)
                .is_some_and(|age| now >= handshake.started + *age)
        });
        if due && !self.staged.is_empty() {
            if let Some(handshake) = &mut self.handshake {
                handshake.step += 1;
            }
            out.extend(self.initiate(now));
        }
    }

    /// When [`Self::handle_timeout`] is wanted next; `None` for a tunnel that holds nothing.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let last = self.last_tick.unwrap_or(self.last_use);
        if let Some(handshake) = &self.handshake {
            let tick = last + TICK_BUSY;
            // Without packets that wait nothing is retried: a step that never comes must not be a deadline.
            let retry = RETRY_LADDER.get(handshake.step).filter(|_| !self.staged.is_empty());
            let retry = retry.map(|age| handshake.started + *age);
            return Some(retry.map_or(tick, |retry| retry.min(tick)));
        }
        self.has_session().then(|| last + TICK_IDLE)
    }

    fn refresh(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        if self
            .last_tick
            .is_none_or(|last| now.saturating_duration_since(last) >= TICK_BUSY)
        {
            self.tick(now, out);
        }
    }

    fn tick(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        self.last_tick = Some(now);
        let mut scratch = vec![0u8; MIN_SCRATCH];
        match self.engine.update_timers(&mut scratch) {
            TunnResult::WriteToNetwork(message) => out.push(message.to_vec()),
            TunnResult::Err(_) => {
                // Given up after 90 s, or expired: what waits would go out stale, the next packet starts anew.
                self.handshake = None;
                self.staged.clear();
            }
            TunnResult::Done | TunnResult::WriteToTunnelV4(..) | TunnResult::WriteToTunnelV6(..) => {}
        }
        if !self.has_session() {
            self.had_session = false;
        }
    }
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel")
            .field("index", &self.index)
            .field("staged", &self.staged.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A deadline that stays in the past after it was handled would keep the engine in its loop for ever.
    #[test]
    fn a_handshake_for_its_own_sake_leaves_no_deadline_behind() {
        let own = StaticSecret::from([1; 32]);
        let peer = PublicKey::from(&StaticSecret::from([2; 32]));
        let limiter = Arc::new(RateLimiter::new(&PublicKey::from(&own), u64::MAX));
        let mut now = Instant::now();
        let mut tunnel = Tunnel::new(own, peer, 7, limiter, now);
        assert!(tunnel.initiate(now).is_some());
        for _ in 0..50 {
            now = tunnel.poll_timeout().unwrap().max(now);
            tunnel.handle_timeout(now, &mut Vec::new());
            assert!(tunnel.poll_timeout().is_none_or(|at| at > now));
        }
    }
}
