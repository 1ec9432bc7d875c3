//! [`Outbox`]: what waits for one connection's writer. Bounded; the oldest goes first.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Buf, BytesMut};
use sandd_control_client::keys::NodePublicKey;
use sandd_mesh::derp::{Frame, append_recv_packet};
use tokio::sync::Notify;

/// Packets of WireGuard that may wait.
const MAX_DATA: usize = 1_024;
/// Bytes of these.
const MAX_DATA_BYTES: usize = 1 << 20;
/// Packets of disco that may wait; they are few, and a path depends on each.
const MAX_DISCO: usize = 32;
/// An empty lane keeps a buffer of this size.
const KEPT: usize = 128 << 10;
/// Frames of our own that may wait.
const MAX_FRAMES: usize = 64;
/// How disco packets begin.
const DISCO_MAGIC: &[u8] = "TS💬".as_bytes();

/// True for a disco packet, sealed as it is.
pub(super) fn is_disco(packet: &[u8]) -> bool {
    packet.starts_with(DISCO_MAGIC)
}

/// Whole frames in one buffer, so that a packet that waits needs no allocation of its own.
#[derive(Debug, Default)]
struct Lane {
    bytes: BytesMut,
    lengths: VecDeque<usize>,
}

impl Lane {
    fn put(&mut self, from: &NodePublicKey, packet: &[u8]) {
        let before = self.bytes.len();
        append_recv_packet(from, packet, &mut self.bytes);
        self.lengths.push_back(self.bytes.len() - before);
    }

    fn drop_oldest(&mut self) -> bool {
        let oldest = self.lengths.pop_front();
        self.bytes.advance(oldest.unwrap_or(0));
        oldest.is_some()
    }

    /// Moves frames to `out` until it holds about `limit` bytes.
    fn take(&mut self, out: &mut BytesMut, limit: usize) {
        let mut run = 0;
        while out.len() + run < limit {
            let Some(length) = self.lengths.pop_front() else { break };
            run += length;
        }
        out.extend_from_slice(&self.bytes[..run]);
        self.bytes.advance(run);
        if self.bytes.is_empty() && self.bytes.capacity() > KEPT {
            self.bytes = BytesMut::new();
        }
    }
}

#[derive(Debug, Default)]
struct Queues {
    frames: VecDeque<BytesMut>,
    disco: Lane,
    data: Lane,
    dropped: u64,
    closed: bool,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queues: Mutex<Queues>,
    bell: Notify,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A packet of another client.
    pub(super) fn put_packet(&self, from: NodePublicKey, packet: &[u8]) {
        let mut queues = self.lock();
        let disco = is_disco(packet);
        let (most, most_bytes) = if disco {
            (MAX_DISCO, usize::MAX)
        } else {
            (MAX_DATA, MAX_DATA_BYTES)
        };
        let Queues {
            disco: probes,
            data,
            dropped,
            ..
        } = &mut *queues;
        let lane = if disco { probes } else { data };
        while (lane.lengths.len() >= most || lane.bytes.len() + packet.len() > most_bytes) && lane.drop_oldest() {
            *dropped += 1;
        }
        lane.put(&from, packet);
        drop(queues);
        self.bell.notify_one();
    }

    /// A frame of our own.
    pub(super) fn put_frame(&self, frame: &Frame<'_>) {
        let mut queues = self.lock();
        if queues.frames.len() >= MAX_FRAMES {
            queues.frames.pop_front();
            queues.dropped += 1;
        }
        queues.frames.push_back(frame.encode());
        drop(queues);
        self.bell.notify_one();
    }

    /// Moves up to about `limit` bytes to `out`: own frames, then disco, then data. False when the connection is to end.
    pub(super) fn take(&self, out: &mut BytesMut, limit: usize) -> bool {
        let mut queues = self.lock();
        while out.len() < limit {
            let Some(frame) = queues.frames.pop_front() else { break };
            out.extend_from_slice(&frame);
        }
        queues.disco.take(out, limit);
        queues.data.take(out, limit);
        !queues.closed
    }

    /// Waits until there may be something to take.
    pub(super) async fn filled(&self) {
        self.bell.notified().await;
    }

    /// Ends the connection.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.bell.notify_one();
    }

    pub(super) fn dropped(&self) -> u64 {
        self.lock().dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(outbox: &Outbox) -> usize {
        let mut out = BytesMut::new();
        outbox.take(&mut out, usize::MAX);
        out.len()
    }

    #[test]
    fn the_oldest_goes_and_disco_has_room_of_its_own() {
        let from = NodePublicKey::from_bytes([1; 32]);
        let outbox = Outbox::default();
        let disco = [DISCO_MAGIC, &[0; 40]].concat();
        outbox.put_packet(from, &disco);
        for _ in 0..MAX_DATA + 5 {
            outbox.put_packet(from, &[4; 100]);
        }
        assert_eq!(outbox.dropped(), 5);
        assert_eq!(drain(&outbox), MAX_DATA * (5 + 32 + 100) + 5 + 32 + disco.len());
        for _ in 0..MAX_DATA {
            outbox.put_packet(from, &[4; 60_000]);
        }
        assert!(drain(&outbox) <= MAX_DATA_BYTES + MAX_DATA * 37);
        assert!(outbox.lock().data.bytes.capacity() <= KEPT);
    }

    #[test]
    fn own_frames_come_first_and_a_batch_has_an_end() {
        let from = NodePublicKey::from_bytes([1; 32]);
        let outbox = Outbox::default();
        for _ in 0..3 {
            outbox.put_packet(from, &[4; 100]);
        }
        outbox.put_frame(&Frame::KeepAlive);
        let mut out = BytesMut::new();
        assert!(outbox.take(&mut out, 10));
        assert_eq!(out[..5], [6, 0, 0, 0, 0]);
        assert_eq!(out.len(), 5 + 137);
        outbox.close();
        assert!(!outbox.take(&mut out, usize::MAX));
    }
}
