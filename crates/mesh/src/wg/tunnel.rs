//! [`Tunnel`]: one peer's handshakes, sessions, timers and the packets that wait for a session.
//!
//! Out: [`Tunnel::ready`] says whether packets can be sealed; those that cannot are [staged](Tunnel::stage), bounded, and
//! start a handshake. In: runs of data messages are [opened](Tunnel::open_slots), handshake messages are
//! [answered](Tunnel::respond) after the guard has let them pass. Nothing here reads a clock, and nothing allocates for a
//! data packet.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandd_aead::Key;
use sandd_noise::x25519::PublicKey;
use sandd_noise::{Handshake, Identity, Initiator, Packet, PresharedKey, SessionKeys};

use super::index::IndexTable;
use super::session::{Role, Session};
use super::sessions::Sessions;
use super::timers::{Holding, Initiation, Timers};
use crate::packet::PacketBuf;

pub(crate) use super::session::{HEADER, TAG};

/// Packets that wait for a first session; more push the oldest out.
pub(crate) const MAX_STAGED: usize = 128;
/// Age at which the initiator renews a session that it sends on.
const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// Age at which the initiator renews a session that data comes in on: what is left is a keepalive's and a retry's time.
const REKEY_ON_RECEIVE: Duration = Duration::from_secs(165);
/// Added to that age where both ends called at one moment, so that they do not do so for ever.
const CROSSED_SLACK: Duration = Duration::from_secs(5);
/// Two initiations closer than this are one: peers take the second for a flood.
const SAME_MOMENT: Duration = Duration::from_millis(25);
/// Distance of two initiations that cookies ask for.
const COOKIE_PAUSE: Duration = Duration::from_secs(1);
/// Indices held ready for handshakes of one call.
const SPARES: usize = 2;

/// A message that was refused: forged, replayed, expired or for another session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unopened;

/// What is to be known of a peer.
#[derive(Debug)]
pub(crate) struct PeerConfig {
    pub(crate) public: PublicKey,
    pub(crate) preshared: Option<PresharedKey>,
    /// Silence after which an empty packet is sent; `None` for peers whose paths are kept open otherwise.
    pub(crate) keepalive: Option<Duration>,
}

/// See the module's text.
pub(crate) struct Tunnel {
    handshake: Handshake,
    sessions: Sessions,
    timers: Timers,
    staged: VecDeque<PacketBuf>,
    /// The last initiation, while it waits.
    last_message: Option<Box<[u8]>>,
    last_cookie: Option<Instant>,
    /// Random part of the age at which the current session is renewed.
    renewal_slack: Duration,
    /// Of two ends that called each other at one moment, the one that leaves the next call to the other.
    yields: bool,
    spares: Vec<u32>,
    /// Indices to be given back.
    gone: Vec<u32>,
    had_session: bool,
    /// A handshake was completed since this was last asked.
    fresh: bool,
}

impl Tunnel {
    /// A tunnel without session. It can do handshakes once [`Self::settle`] has given it indices.
    pub(crate) fn new(identity: &Arc<Identity>, peer: PeerConfig, now: Instant) -> Self {
        let mut seed = [0u8; 8];
        crate::random::fill(&mut seed);
        Self {
            yields: identity.public().as_bytes() > peer.public.as_bytes(),
            handshake: Handshake::new(Arc::clone(identity), peer.public, peer.preshared),
            sessions: Sessions::default(),
            timers: Timers::new(peer.keepalive, u64::from_ne_bytes(seed), now),
            staged: VecDeque::new(),
            last_message: None,
            last_cookie: None,
            renewal_slack: Duration::ZERO,
            spares: Vec::new(),
            gone: Vec::new(),
            had_session: false,
            fresh: false,
        }
    }

    /// Exchanges indices with the table: after each call that may have used some. Cheap when none were.
    pub(crate) fn settle<O: Copy>(&mut self, table: &mut IndexTable<O>, owner: O) {
        for index in self.gone.drain(..) {
            table.release(index);
        }
        while self.spares.len() < SPARES {
            self.spares.push(table.register(owner));
        }
    }

    /// Gives all indices back; the tunnel is of no use afterwards.
    pub(crate) fn release<O: Copy>(&mut self, table: &mut IndexTable<O>) {
        let own = self.sessions.indices().chain(self.handshake.waiting());
        for index in own.chain(self.spares.iter().copied()).chain(self.gone.iter().copied()) {
            table.release(index);
        }
        self.spares.clear();
        self.gone.clear();
    }

    /// True while packets can be sealed.
    pub(crate) fn has_session(&self) -> bool {
        self.sessions.current().is_some()
    }

    /// When the handshake of the session in use was completed.
    pub(crate) fn session_since(&self) -> Option<Instant> {
        self.sessions.current().map(|session| session.born)
    }

    /// True once after a session came up where there was none; the caller then flushes and greets.
    pub(crate) fn take_established(&mut self) -> bool {
        let has = self.has_session();
        let fresh = has && !self.had_session;
        self.had_session = has;
        fresh
    }

    /// True once after a handshake was completed, the first or a later one: the peer may have begun anew.
    pub(crate) fn take_completed(&mut self) -> bool {
        std::mem::take(&mut self.fresh)
    }

    /// True when packets can be sealed now.
    pub(crate) fn ready(&mut self, now: Instant) -> bool {
        let Some(session) = self.sessions.current() else {
            return false;
        };
        if !session.is_alive(now) {
            self.sessions.expire(now, &mut self.gone);
        } else if !session.has_counters() {
            self.sessions.retire_current(&mut self.gone);
        }
        self.had_session &= self.has_session();
        self.has_session()
    }

    /// Prepares a run of slots for being sealed in place with the key that this gives: `stride` bytes each, the last may be
    /// shorter, each with room for the header (16), then the padded packet, then room for the tag (16). Needs
    /// [`Self::ready`]; without it the slots are zeroed, so that nothing leaves in the clear.
    pub(crate) fn number_slots(
        &mut self,
        slots: &mut [u8],
        stride: usize,
        now: Instant,
        out: &mut Vec<Vec<u8>>,
    ) -> Option<&Key> {
        let session = self.sessions.current_mut().filter(|session| session.is_alive(now));
        let Some(session) = session else {
            slots.fill(0);
            return None;
        };
        if !session.number(slots, stride) {
            slots.fill(0);
            return None;
        }
        let old = session.role == Role::Initiator && session.age(now) >= REKEY_AFTER_TIME + self.renewal_slack;
        let renew = old || session.is_worn();
        self.timers.sent(slots.len() > HEADER + TAG, now);
        if renew {
            self.renew(now, out);
        }
        self.sessions.current().map(Session::send_key)
    }

    /// Opens a run of data messages with one receiver index in place. A bit of the result stands for a slot that is
    /// authentic and fresh; its packet is then at [`HEADER`], padded, with nothing in it for a keepalive.
    pub(crate) fn open_slots(&mut self, slots: &mut [u8], stride: usize, now: Instant, out: &mut Vec<Vec<u8>>) -> u64 {
        let stride = stride.max(HEADER + TAG);
        let opened = self
            .receiving(slots, now)
            .map_or(0, |session| session.open(slots, stride));
        self.opened(slots, stride, opened, now, out);
        opened
    }

    /// What [`Self::open_slots`] would try, for another thread: the slots and the key.
    pub(crate) fn opening(&mut self, slots: &[u8], stride: usize, now: Instant) -> Option<(Key, u64)> {
        let session = self.receiving(slots, now)?;
        let candidates = session.candidates(slots, stride.max(HEADER + TAG));
        (candidates != 0).then(|| (session.receive_key().clone(), candidates))
    }

    /// As [`Self::open_slots`], for a run that was opened with this key. Nothing of it counts when the session has ended.
    pub(crate) fn accept_slots(
        &mut self,
        slots: &[u8],
        stride: usize,
        (key, opened): (&Key, u64),
        now: Instant,
        out: &mut Vec<Vec<u8>>,
    ) -> u64 {
        let stride = stride.max(HEADER + TAG);
        let session = self
            .receiving(slots, now)
            .filter(|session| session.receive_key().is(key));
        let opened = session.map_or(0, |session| session.accept(slots, stride, opened));
        self.opened(slots, stride, opened, now, out);
        opened
    }

    /// The session that a run of data messages is for.
    fn receiving(&mut self, slots: &[u8], now: Instant) -> Option<&mut Session> {
        let session = self.sessions.receiving(word_at(slots, 4)?)?;
        session.is_alive(now).then_some(session)
    }

    /// What a run means for its session and the timers.
    fn opened(&mut self, slots: &[u8], stride: usize, opened: u64, now: Instant, out: &mut Vec<Vec<u8>>) {
        let Some(local) = word_at(slots, 4).filter(|_| opened != 0) else {
            return;
        };
        let Some(session) = self.sessions.receiving(local) else {
            return;
        };
        session.heard = Some(now);
        let data = slots
            .chunks(stride)
            .take(64)
            .enumerate()
            .any(|(at, slot)| opened & (1 << at) != 0 && slot.len() > HEADER + TAG);
        self.timers.received(data, now);
        if self.sessions.confirm(local, &mut self.gone) {
            self.completed();
        } else {
            self.renew_late(local, now, out);
        }
    }

    /// Keeps a packet until a session stands, and starts the handshake.
    pub(crate) fn stage(&mut self, packet: PacketBuf, now: Instant, out: &mut Vec<Vec<u8>>) {
        if self.staged.len() >= MAX_STAGED {
            self.staged.pop_front();
        }
        self.staged.push_back(packet);
        if self.timers.attempting() {
            self.timers.staged(now);
        } else {
            self.call(now, out);
        }
    }

    /// What waited for a session, in order.
    pub(crate) fn take_staged(&mut self) -> VecDeque<PacketBuf> {
        std::mem::take(&mut self.staged)
    }

    /// True while an initiation of ours waits for its answer.
    pub(crate) fn handshaking(&self) -> bool {
        self.timers.attempting()
    }

    /// A fresh initiation, also when one is under way: a path has just come up, or the peer has just become known.
    pub(crate) fn initiate(&mut self, now: Instant) -> Option<Vec<u8>> {
        let just_sent = |at| now.saturating_duration_since(at) < SAME_MOMENT;
        if self.timers.attempting() && self.timers.last_initiation().is_some_and(just_sent) {
            return self.last_message.as_ref().map(|message| message.to_vec());
        }
        let mut out = Vec::new();
        self.call(now, &mut out);
        out.pop()
    }

    /// Answers an initiation of this peer; the response goes to `out`. The session it makes is sent on when the peer has.
    pub(crate) fn respond(
        &mut self,
        initiator: &Initiator,
        now: Instant,
        out: &mut Vec<Vec<u8>>,
    ) -> Result<(), Unopened> {
        let index = self.spares.pop().ok_or(Unopened)?;
        let Ok((response, keys)) = self.handshake.respond(initiator, index, now) else {
            self.spares.push(index);
            return Err(Unopened);
        };
        let session = self.born(&keys, Role::Responder, now);
        self.sessions.offer(session, &mut self.gone);
        self.timers.received(false, now);
        self.timers.sent(false, now);
        out.push(response.to_vec());
        Ok(())
    }

    /// Takes a response or a cookie reply; what is to be sent because of it goes to `out`.
    pub(crate) fn handle_answer(
        &mut self,
        datagram: &[u8],
        now: Instant,
        out: &mut Vec<Vec<u8>>,
    ) -> Result<(), Unopened> {
        match Packet::parse(datagram) {
            Ok(Packet::HandshakeResponse(response)) => {
                let waiting: Vec<u32> = self.handshake.waiting().collect();
                let keys = self.handshake.finish(&response).map_err(|_| Unopened)?;
                self.gone
                    .extend(waiting.into_iter().filter(|index| *index != keys.local_index));
                let session = self.born(&keys, Role::Initiator, now);
                let crossed = self.sessions.complete(session, &mut self.gone);
                self.timers.received(false, now);
                self.completed();
                if crossed && self.yields {
                    self.renewal_slack += CROSSED_SLACK;
                }
                // The peer sends nothing on the session before it has seen something on it.
                self.send_keepalive(now, out);
                Ok(())
            }
            Ok(Packet::PacketCookieReply(reply)) => {
                self.handshake.receive_cookie_reply(&reply, now).map_err(|_| Unopened)?;
                let lately = |at| now.saturating_duration_since(at) < COOKIE_PAUSE;
                if self.timers.attempting() && !self.last_cookie.is_some_and(lately) {
                    self.last_cookie = Some(now);
                    self.call(now, out);
                }
                Ok(())
            }
            Ok(Packet::HandshakeInit(_)) | Err(_) => Err(Unopened),
        }
    }

    /// Sends what is due, and drops what is too old.
    pub(crate) fn handle_timeout(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        if self.timers.armed().is_none_or(|at| now < at) {
            return;
        }
        self.sessions.expire(now, &mut self.gone);
        self.had_session &= self.has_session();
        let due = self.timers.due(self.holding(), now);
        if due.gave_up {
            self.staged.clear();
            self.forget();
        }
        match due.initiation {
            Some(Initiation::Fresh) => self.call(now, out),
            Some(Initiation::Same) => out.extend(self.last_message.as_ref().map(|message| message.to_vec())),
            None => {}
        }
        if due.keepalive {
            self.send_keepalive(now, out);
        }
        self.timers.rearm(self.holding(), now);
    }

    /// When [`Self::handle_timeout`] is wanted next; `None` for a tunnel that holds nothing. It moves only when it has come,
    /// or to an earlier time, so that data does not make a deadline move with every packet.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.armed()
    }

    fn holding(&self) -> Holding {
        Holding {
            staged: !self.staged.is_empty(),
            session: self.has_session(),
            expiry: self.sessions.next_expiry(),
        }
    }

    fn born(&mut self, keys: &SessionKeys, role: Role, now: Instant) -> Session {
        let session = Session::new(keys, role, now);
        self.timers.arm(now + super::session::REJECT_AFTER_TIME);
        session
    }

    /// A session can be sent on: what was tried for it ends.
    fn completed(&mut self) {
        self.fresh = true;
        self.timers.completed();
        self.renewal_slack = self.timers.draw();
        self.forget();
    }

    /// Drops initiations that wait, with their keys.
    fn forget(&mut self) {
        self.gone.extend(self.handshake.waiting());
        self.handshake.forget();
        self.last_message = None;
    }

    fn renew(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        if self.timers.may_initiate(now) {
            self.call(now, out);
        }
    }

    /// Data comes in on a session of ours that is about to end, and we send nothing that would renew it.
    fn renew_late(&mut self, local: u32, now: Instant, out: &mut Vec<Vec<u8>>) {
        let current = self.sessions.current_mut().filter(|session| session.local == local);
        let Some(session) = current else { return };
        if session.role == Role::Initiator && !session.renewed_late && session.age(now) >= REKEY_ON_RECEIVE {
            session.renewed_late = true;
            self.renew(now, out);
        }
    }

    /// Sends a new initiation.
    fn call(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        let Some(index) = self.spares.pop() else { return };
        let Ok((message, forgotten)) = self.handshake.initiate(index, now) else {
            self.spares.push(index);
            return;
        };
        self.gone.extend(forgotten);
        self.timers.initiated(!self.staged.is_empty(), now);
        self.last_message = Some(Box::from(message));
        out.push(message.to_vec());
    }

    fn send_keepalive(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        let mut message = vec![0u8; HEADER + TAG];
        if let Some(session) = self.sessions.current_mut().filter(|session| session.is_alive(now))
            && session.seal(&mut message, HEADER + TAG)
        {
            self.timers.sent(false, now);
            out.push(message);
        }
    }

    /// Prepares and seals a run.
    #[cfg(test)]
    pub(crate) fn seal_slots(&mut self, slots: &mut [u8], stride: usize, now: Instant, out: &mut Vec<Vec<u8>>) {
        if let Some(key) = self.number_slots(slots, stride, now, out) {
            key.seal_slots(slots, stride);
        }
    }

    /// The session that is sent on, for tests that begin near a limit.
    #[cfg(test)]
    pub(crate) fn current_session(&mut self) -> Option<&mut Session> {
        self.sessions.current_mut()
    }
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel")
            .field("sessions", &self.sessions)
            .field("staged", &self.staged.len())
            .finish_non_exhaustive()
    }
}

fn word_at(bytes: &[u8], at: usize) -> Option<u32> {
    let word: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_le_bytes(word))
}

#[cfg(test)]
mod tests;
