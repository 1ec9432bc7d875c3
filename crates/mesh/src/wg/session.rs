//! [`Session`]: the keys of one completed handshake, its counter and its window.
//!
//! It seals and opens runs of slots in place: `[16 B header][body][16 B tag]`, equal strides, the last may be shorter.
//! When it may no longer be used, it says so; nothing is sealed past a limit of WireGuard's.

use std::time::{Duration, Instant};

use sandd_aead::Key;
use sandd_noise::SessionKeys;

use super::window::Window;

/// Bytes of a data message in front of its packet: type, receiver, counter.
pub(crate) const HEADER: usize = 16;
/// Bytes behind it.
pub(crate) const TAG: usize = 16;
/// Slots that are opened by one call.
const MAX_RUN: usize = 64;
/// Age at which keys are used no more, neither way.
pub(crate) const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// Messages after which new keys are wanted.
const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// Counters from here on are used neither way.
const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13) - 1;
/// A session with fewer counters left is not begun with: no run of a turn is longer.
const RESERVE: u64 = 1 << 16;

/// Who sent the initiation of a session, and has to renew it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// We did.
    Initiator,
    /// The peer did.
    Responder,
}

/// See the module's text. Both keys are wiped when it is dropped.
pub(crate) struct Session {
    send: Key,
    recv: Key,
    pub(crate) local: u32,
    remote: u32,
    pub(crate) role: Role,
    pub(crate) born: Instant,
    /// When something authentic came last.
    pub(crate) heard: Option<Instant>,
    /// The next counter to send with.
    counter: u64,
    window: Window,
    /// New keys were asked for because data came in shortly before its end.
    pub(crate) renewed_late: bool,
}

impl Session {
    /// The session that a handshake made.
    pub(crate) fn new(keys: &SessionKeys, role: Role, now: Instant) -> Self {
        Self {
            send: Key::new(&keys.send),
            recv: Key::new(&keys.recv),
            local: keys.local_index,
            remote: keys.remote_index,
            role,
            born: now,
            heard: None,
            counter: 0,
            window: Window::new(),
            renewed_late: false,
        }
    }

    /// Its keys are young enough.
    pub(crate) fn is_alive(&self, now: Instant) -> bool {
        self.age(now) < REJECT_AFTER_TIME
    }

    /// There is room for a turn's packets below the last counter.
    pub(crate) fn has_counters(&self) -> bool {
        self.counter < REJECT_AFTER_MESSAGES - RESERVE
    }

    /// So many messages that new keys are wanted.
    pub(crate) fn is_worn(&self) -> bool {
        self.counter >= REKEY_AFTER_MESSAGES
    }

    /// Time since its handshake.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.born)
    }

    /// The key that what [`Self::number`] has prepared is sealed with.
    pub(crate) fn send_key(&self) -> &Key {
        &self.send
    }

    /// The key that opens what comes.
    pub(crate) fn receive_key(&self) -> &Key {
        &self.recv
    }

    /// Writes the headers of a run, with counters that are its own from now on. False when there are not enough: then it
    /// must not be sealed.
    pub(crate) fn number(&mut self, slots: &mut [u8], stride: usize) -> bool {
        if stride < HEADER + TAG || slots.chunks(stride).last().is_none_or(|last| last.len() < HEADER + TAG) {
            return false;
        }
        let count = slots.len().div_ceil(stride) as u64;
        let first = self.counter;
        match first.checked_add(count) {
            Some(end) if end <= REJECT_AFTER_MESSAGES => self.counter = end,
            Some(_) | None => return false,
        }
        for (counter, slot) in (first..).zip(slots.chunks_mut(stride)) {
            slot[..4].copy_from_slice(&4u32.to_le_bytes());
            slot[4..8].copy_from_slice(&self.remote.to_le_bytes());
            slot[8..HEADER].copy_from_slice(&counter.to_le_bytes());
        }
        true
    }

    /// Writes headers and seals a run. False when there are not enough counters: nothing is sealed then.
    pub(crate) fn seal(&mut self, slots: &mut [u8], stride: usize) -> bool {
        let numbered = self.number(slots, stride);
        if numbered {
            self.send.seal_slots(slots, stride);
        }
        numbered
    }

    /// Opens a run; the bits of those that are authentic and have not come before.
    pub(crate) fn open(&mut self, slots: &mut [u8], stride: usize) -> u64 {
        let candidates = self.candidates(slots, stride);
        if candidates == 0 {
            return 0;
        }
        let opened = self.recv.open_slots(slots, stride, candidates);
        self.accept(slots, stride, opened)
    }

    /// The bits of those that have not come before, if they are authentic.
    pub(crate) fn candidates(&self, slots: &[u8], stride: usize) -> u64 {
        let mut candidates = 0;
        for (at, slot) in slots.chunks(stride).enumerate().take(MAX_RUN) {
            let fresh = counter_of(slot).is_some_and(|counter| self.window.is_fresh(counter));
            candidates |= u64::from(fresh) << at;
        }
        candidates
    }

    /// Marks those that were authentic as come; the bits of those that were not marked before.
    pub(crate) fn accept(&mut self, slots: &[u8], stride: usize, mut opened: u64) -> u64 {
        for (at, slot) in slots.chunks(stride).enumerate().take(MAX_RUN) {
            // The same datagram may be in a run twice, or in another one that was opened meanwhile.
            if opened & (1 << at) != 0 && !counter_of(slot).is_some_and(|counter| self.window.mark(counter)) {
                opened &= !(1 << at);
            }
        }
        opened
    }

    /// Where its two boxed keys are noted, for a test that looks whether they are wiped.
    #[cfg(test)]
    pub(crate) fn key_places(&self) -> [usize; 2] {
        [&self.send, &self.recv].map(|key| std::ptr::from_ref(key).addr())
    }

    /// Lets a test begin near a limit.
    #[cfg(test)]
    pub(crate) fn set_counter(&mut self, counter: u64) {
        self.counter = counter;
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({:08x} {:?})", self.local, self.role)
    }
}

/// The counter of a data message, if it may still be used.
fn counter_of(slot: &[u8]) -> Option<u64> {
    let bytes: [u8; 8] = slot.get(8..HEADER)?.try_into().ok()?;
    let counter = u64::from_le_bytes(bytes);
    (slot.len() >= HEADER + TAG && counter < REJECT_AFTER_MESSAGES).then_some(counter)
}
