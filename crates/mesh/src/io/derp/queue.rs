//! [`SendQueue`]: packets on their way to a relay. Bounded: the oldest make room, as late packets are worth least.
//!
//! Disco has a lane of its own in front, so that a path is still found while data piles up.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use sandd_control_client::keys::NodePublicKey;
use tokio::sync::Notify;

use super::DropCounters;
use crate::derp::{MAX_PACKET, append_send_packet};
use crate::disco;

/// Packets of each lane while there is no connection: what is older will be sent again by its sender anyway.
const WAITING: usize = 32;
/// Packets while there is one: some milliseconds of a fast link.
const FLOWING: usize = 256;
const DISCO: usize = 32;

#[derive(Debug, Default)]
struct Lanes {
    disco: VecDeque<BytesMut>,
    data: VecDeque<BytesMut>,
}

#[derive(Debug)]
pub(super) struct SendQueue {
    lanes: Mutex<Lanes>,
    flowing: AtomicBool,
    filled: Notify,
    drops: Arc<DropCounters>,
}

impl SendQueue {
    pub(super) fn new(drops: Arc<DropCounters>) -> Self {
        Self {
            lanes: Mutex::default(),
            flowing: AtomicBool::new(false),
            filled: Notify::new(),
            drops,
        }
    }

    /// Queues a packet; false when no relay would carry it.
    pub(super) fn push(&self, dst: &NodePublicKey, packet: &[u8]) -> bool {
        let mut frame = BytesMut::new();
        if packet.len() > MAX_PACKET || !append_send_packet(dst, packet, &mut frame) {
            return false;
        }
        {
            let mut lanes = self.lanes();
            let (lane, room) = match (disco::looks_like(packet), self.flowing.load(Ordering::Relaxed)) {
                (true, _) => (&mut lanes.disco, DISCO),
                (false, true) => (&mut lanes.data, FLOWING),
                (false, false) => (&mut lanes.data, WAITING),
            };
            while lane.len() >= room {
                lane.pop_front();
                self.drops.sent.fetch_add(1, Ordering::Relaxed);
            }
            lane.push_back(frame);
        }
        self.filled.notify_one();
        true
    }

    /// Appends whole frames to `out` until it holds about `room` bytes. True when there were any. What `admits` refuses
    /// is dropped.
    pub(super) fn drain(&self, out: &mut BytesMut, room: usize, mut admits: impl FnMut(usize) -> bool) -> bool {
        let mut lanes = self.lanes();
        let before = out.len();
        while out.len() < room {
            let Some(frame) = lanes.disco.pop_front().or_else(|| lanes.data.pop_front()) else {
                break;
            };
            if admits(frame.len()) {
                out.extend_from_slice(&frame);
            } else {
                self.drops.sent.fetch_add(1, Ordering::Relaxed);
            }
        }
        out.len() > before
    }

    /// A connection takes packets now, or does no longer.
    pub(super) fn set_flowing(&self, flowing: bool) {
        self.flowing.store(flowing, Ordering::Relaxed);
    }

    pub(super) fn is_empty(&self) -> bool {
        let lanes = self.lanes();
        lanes.disco.is_empty() && lanes.data.is_empty()
    }

    /// Waits until something was queued or [`Self::wake`] was called; it may return early.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Ends a wait of [`Self::filled`].
    pub(super) fn wake(&self) {
        self.filled.notify_one();
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        // Queues are whole after every statement, so a panic elsewhere does not spoil them.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::derp::{Frame, FrameDecoder};

    fn queue() -> (SendQueue, Arc<DropCounters>) {
        let drops = Arc::new(DropCounters::default());
        (SendQueue::new(Arc::clone(&drops)), drops)
    }

    fn drained(queue: &SendQueue) -> Vec<Vec<u8>> {
        let mut decoder = FrameDecoder::server();
        queue.drain(decoder.buffer(), usize::MAX, |_| true);
        let mut packets = Vec::new();
        while let Some(raw) = decoder.next_frame().unwrap() {
            let Some(Frame::SendPacket { packet, .. }) = raw.parse().unwrap() else {
                panic!("{raw:?}")
            };
            packets.push(packet.to_vec());
        }
        packets
    }

    #[test]
    fn the_oldest_make_room_and_are_counted() {
        let (queue, drops) = queue();
        let dst = NodePublicKey::from_bytes([1; 32]);
        for number in 0..40u8 {
            assert!(queue.push(&dst, &[number]));
        }
        let left: Vec<_> = (8..40u8).map(|number| vec![number]).collect();
        assert_eq!(drained(&queue), left);
        assert_eq!(drops.sent.load(Ordering::Relaxed), 8);
        assert!(queue.is_empty());
        queue.set_flowing(true);
        for number in 0..=255u8 {
            queue.push(&dst, &[number]);
        }
        assert_eq!(drained(&queue).len(), 256);
        assert_eq!(drops.sent.load(Ordering::Relaxed), 8);
    }

    #[test]
    fn disco_goes_first_and_is_not_pushed_out_by_data() {
        let (queue, _) = queue();
        let dst = NodePublicKey::from_bytes([1; 32]);
        let mut ping = vec![0x54, 0x53, 0xf0, 0x9f, 0x92, 0xac];
        ping.resize(100, 0);
        queue.push(&dst, b"data");
        queue.push(&dst, &ping);
        for _ in 0..50 {
            queue.push(&dst, b"data");
        }
        assert_eq!(drained(&queue)[0], ping);
    }

    #[test]
    fn one_drain_takes_about_what_fits() {
        let (queue, _) = queue();
        let dst = NodePublicKey::from_bytes([1; 32]);
        for _ in 0..10 {
            queue.push(&dst, &[0; 1_000]);
        }
        let mut out = BytesMut::new();
        assert!(queue.drain(&mut out, 2_000, |_| true));
        assert_eq!(out.len(), 2 * 1_037);
        assert!(!queue.push(&dst, &vec![0; MAX_PACKET + 1]));
    }
}
