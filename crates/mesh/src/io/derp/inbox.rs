//! [`Inbox`]: what a relay delivers, gathered into runs of one sender and one size, as the engine opens them together.
//!
//! The bytes lie in one buffer that is used again when those who took the runs have let go of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::BytesMut;
use sandd_control_client::keys::NodePublicKey;

/// Most packets of one run: as many as are opened together.
const MAX_RUN: usize = 64;
/// The buffer in use; what does not fit any longer begins another.
const BUFFER: usize = 128 << 10;
/// Bytes that may wait for the driver; beyond that packets are dropped.
pub(super) const MAX_WAITING: usize = 1 << 20;

/// Packets of one sender, one after the other, of [`Self::stride`] bytes each; the last may be shorter.
#[derive(Debug)]
pub struct RelayPackets {
    bytes: BytesMut,
    stride: usize,
    _waiting: Waiting,
}

impl RelayPackets {
    /// Bytes of each packet but the last.
    #[must_use]
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.bytes.len().div_ceil(self.stride)
    }

    /// All of them.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All of them, to be opened in place.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// Bytes that wait, counted for as long as this lives.
#[derive(Debug)]
struct Waiting {
    all: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    buffer: BytesMut,
    run: Option<Run>,
    waiting: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Run {
    src: NodePublicKey,
    stride: usize,
    count: usize,
    closed: bool,
}

impl Inbox {
    /// Adds a packet; gives the run before it when that has come to its end.
    pub(super) fn push(&mut self, src: NodePublicKey, packet: &[u8]) -> Option<(NodePublicKey, RelayPackets)> {
        if packet.is_empty() {
            return None;
        }
        let continues = self
            .run
            .as_ref()
            .is_some_and(|run| !run.closed && run.count < MAX_RUN && run.src == src && packet.len() <= run.stride);
        let ended = if continues { None } else { self.take() };
        if self.buffer.capacity() - self.buffer.len() < packet.len() {
            self.buffer.reserve(packet.len().max(BUFFER));
        }
        self.buffer.extend_from_slice(packet);
        let run = self.run.get_or_insert(Run {
            src,
            stride: packet.len(),
            count: 0,
            closed: false,
        });
        run.count += 1;
        run.closed = packet.len() < run.stride;
        ended
    }

    /// The run that was begun.
    pub(super) fn take(&mut self) -> Option<(NodePublicKey, RelayPackets)> {
        let run = self.run.take()?;
        let bytes = self.buffer.split();
        self.waiting.fetch_add(bytes.len(), Ordering::Relaxed);
        let waiting = Waiting {
            all: Arc::clone(&self.waiting),
            bytes: bytes.len(),
        };
        let packets = RelayPackets {
            bytes,
            stride: run.stride,
            _waiting: waiting,
        };
        Some((run.src, packets))
    }

    /// Too much waits for the driver.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > MAX_WAITING
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever comes, it goes on whole and in order, and nothing is counted as waiting afterwards.
        #[test]
        fn runs_add_up_to_what_came(packets in prop::collection::vec((0u8..2, 1usize..300, 1usize..40), 0..60)) {
            let mut inbox = Inbox::default();
            let (mut came, mut went) = (Vec::new(), Vec::new());
            let mut note = |ended: Option<(NodePublicKey, RelayPackets)>| {
                if let Some((src, run)) = ended {
                    assert!(run.count() <= MAX_RUN && run.count() > 0);
                    went.extend(run.bytes().chunks(run.stride()).map(|packet| (src, packet.to_vec())));
                }
            };
            for (number, (src, size, times)) in packets.into_iter().enumerate() {
                for _ in 0..times {
                    let src = NodePublicKey::from_bytes([src; 32]);
                    let packet = vec![number as u8; size];
                    note(inbox.push(src, &packet));
                    came.push((src, packet));
                }
            }
            note(inbox.take());
            prop_assert_eq!(went, came);
            prop_assert_eq!(inbox.waiting.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn the_buffer_is_used_again_once_its_runs_are_gone() {
        let mut inbox = Inbox::default();
        let src = NodePublicKey::from_bytes([1; 32]);
        let mut first = None;
        for _ in 0..10_000 {
            inbox.push(src, &[7; 1_000]);
            let (_, run) = inbox.take().unwrap();
            let at = run.bytes().as_ptr();
            let (low, high) = *first.get_or_insert((at as usize, at as usize + BUFFER + 1_000));
            assert!((low..high).contains(&(at as usize)), "another allocation");
        }
    }

    #[test]
    fn what_waits_is_counted_until_it_is_taken() {
        let mut inbox = Inbox::default();
        let src = NodePublicKey::from_bytes([1; 32]);
        let mut held = Vec::new();
        while !inbox.is_full() {
            inbox.push(src, &[7; 60_000]);
            held.extend(inbox.take());
        }
        assert_eq!(held.len(), MAX_WAITING / 60_000 + 1);
        held.clear();
        assert!(!inbox.is_full());
    }
}
