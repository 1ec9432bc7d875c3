//! [`SendQueue`]: packets on their way to a relay. Bounded: the oldest make room, as late packets are worth least.
//!
//! Each lane is one buffer of whole frames, so that a run of packets costs one lock and one wake-up, and the connection
//! writes many with one call. Disco has a lane of its own in front, so that a path is still found while data piles up.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, BytesMut};
use sandd_control_client::keys::NodePublicKey;
use tokio::sync::Notify;

use super::DropCounters;
use crate::derp::{MAX_PACKET, append_send_packet};
use crate::disco;

/// Packets of each lane while there is no connection: what is older will be sent again by its sender anyway.
const WAITING: usize = 32;
/// Packets and bytes while there is one: some milliseconds of a fast link, and a few super-packets.
const FLOWING: usize = 1_024;
const FLOWING_BYTES: usize = 512 << 10;
const DISCO: usize = 32;
/// An empty lane keeps a buffer of this size.
const KEPT: usize = 128 << 10;

/// Whole frames, one after the other.
#[derive(Debug, Default)]
struct Lane {
    bytes: BytesMut,
    lengths: VecDeque<usize>,
}

impl Lane {
    fn push(&mut self, dst: &NodePublicKey, packet: &[u8]) -> bool {
        let before = self.bytes.len();
        let appended = append_send_packet(dst, packet, &mut self.bytes);
        if appended {
            self.lengths.push_back(self.bytes.len() - before);
        }
        appended
    }

    /// Drops the oldest until there is room; how many went.
    fn make_room(&mut self, frames: usize, bytes: usize) -> u64 {
        let mut dropped = 0;
        while self.lengths.len() >= frames || self.bytes.len() > bytes {
            let Some(length) = self.lengths.pop_front() else { break };
            self.bytes.advance(length);
            dropped += 1;
        }
        dropped
    }

    /// Moves frames to `out` until it holds about `room` bytes; how many `admits` refused.
    fn drain(&mut self, out: &mut BytesMut, room: usize, admits: &mut impl FnMut(usize) -> bool) -> u64 {
        let (mut refused, mut run) = (0, 0);
        while out.len() + run < room {
            let Some(length) = self.lengths.pop_front() else { break };
            if admits(length) {
                run += length;
                continue;
            }
            refused += 1;
            out.extend_from_slice(&self.bytes[..run]);
            self.bytes.advance(run + length);
            run = 0;
        }
        out.extend_from_slice(&self.bytes[..run]);
        self.bytes.advance(run);
        if self.bytes.is_empty() && self.bytes.capacity() > KEPT {
            self.bytes = BytesMut::new();
        }
        refused
    }
}

#[derive(Debug, Default)]
struct Lanes {
    disco: Lane,
    data: Lane,
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

    /// Queues packets of `stride` bytes each, the last may be shorter; how many a relay would carry.
    pub(super) fn push(&self, dst: &NodePublicKey, packets: &[u8], stride: usize) -> usize {
        let flowing = self.flowing.load(Ordering::Relaxed);
        let (frames, bytes) = if flowing {
            (FLOWING, FLOWING_BYTES)
        } else {
            (WAITING, usize::MAX)
        };
        let mut taken = 0;
        let mut dropped = 0;
        {
            let mut lanes = self.lanes();
            for packet in packets.chunks(stride.max(1)) {
                let pushed = packet.len() <= MAX_PACKET
                    && if disco::looks_like(packet) {
                        dropped += lanes.disco.make_room(DISCO, usize::MAX);
                        lanes.disco.push(dst, packet)
                    } else {
                        dropped += lanes.data.make_room(frames, bytes);
                        lanes.data.push(dst, packet)
                    };
                taken += usize::from(pushed);
            }
        }
        if dropped > 0 {
            self.drops.sent.fetch_add(dropped, Ordering::Relaxed);
        }
        if taken > 0 {
            self.filled.notify_one();
        }
        taken
    }

    /// Appends whole frames to `out` until it holds about `room` bytes. True when there were any. What `admits` refuses
    /// is dropped.
    pub(super) fn drain(&self, out: &mut BytesMut, room: usize, mut admits: impl FnMut(usize) -> bool) -> bool {
        let mut lanes = self.lanes();
        let before = out.len();
        let refused = lanes.disco.drain(out, room, &mut admits) + lanes.data.drain(out, room, &mut admits);
        drop(lanes);
        if refused > 0 {
            self.drops.sent.fetch_add(refused, Ordering::Relaxed);
        }
        out.len() > before
    }

    /// A connection takes packets now, or does no longer.
    pub(super) fn set_flowing(&self, flowing: bool) {
        self.flowing.store(flowing, Ordering::Relaxed);
    }

    pub(super) fn is_empty(&self) -> bool {
        let lanes = self.lanes();
        lanes.disco.bytes.is_empty() && lanes.data.bytes.is_empty()
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
    use proptest::prelude::*;

    use super::*;
    use crate::derp::{Frame, FrameDecoder};

    fn queue() -> (SendQueue, Arc<DropCounters>) {
        let drops = Arc::new(DropCounters::default());
        (SendQueue::new(Arc::clone(&drops)), drops)
    }

    fn one(queue: &SendQueue, packet: &[u8]) -> bool {
        queue.push(&dst(), packet, packet.len()) == 1
    }

    fn dst() -> NodePublicKey {
        NodePublicKey::from_bytes([1; 32])
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
        for number in 0..40u8 {
            assert!(one(&queue, &[number]));
        }
        let left: Vec<_> = (8..40u8).map(|number| vec![number]).collect();
        assert_eq!(drained(&queue), left);
        assert_eq!(drops.sent.load(Ordering::Relaxed), 8);
        assert!(queue.is_empty());
        queue.set_flowing(true);
        for number in 0..=255u8 {
            one(&queue, &[number]);
        }
        assert_eq!(drained(&queue).len(), 256);
        assert_eq!(drops.sent.load(Ordering::Relaxed), 8);
    }

    #[test]
    fn bytes_are_bounded_too_and_a_drained_lane_gives_its_buffer_back() {
        let (queue, drops) = queue();
        queue.set_flowing(true);
        let run = vec![4u8; 45 * 1_400];
        for _ in 0..100 {
            assert_eq!(queue.push(&dst(), &run, 1_400), 45);
        }
        let kept = drained(&queue).len();
        assert!(kept * 1_437 <= FLOWING_BYTES + 1_437, "{kept}");
        assert_eq!(drops.sent.load(Ordering::Relaxed) as usize + kept, 4_500);
        assert!(queue.lanes().data.bytes.capacity() <= KEPT);
    }

    #[test]
    fn disco_goes_first_and_is_not_pushed_out_by_data() {
        let (queue, _) = queue();
        let mut ping = vec![0x54, 0x53, 0xf0, 0x9f, 0x92, 0xac];
        ping.resize(100, 0);
        one(&queue, b"data");
        one(&queue, &ping);
        for _ in 0..50 {
            one(&queue, b"data");
        }
        assert_eq!(drained(&queue)[0], ping);
    }

    #[test]
    fn one_drain_takes_about_what_fits() {
        let (queue, _) = queue();
        assert_eq!(queue.push(&dst(), &[0; 10_000], 1_000), 10);
        let mut out = BytesMut::new();
        assert!(queue.drain(&mut out, 2_000, |_| true));
        assert_eq!(out.len(), 2 * 1_037);
        assert!(!one(&queue, &vec![0; MAX_PACKET + 1]));
        assert_eq!(queue.push(&dst(), &[], 0), 0);
    }

    #[test]
    fn what_is_refused_leaves_no_hole() {
        let (queue, drops) = queue();
        for number in 0..6u8 {
            one(&queue, &[number; 3]);
        }
        let mut decoder = FrameDecoder::server();
        let mut at = 0;
        queue.drain(decoder.buffer(), usize::MAX, |_| {
            at += 1;
            at % 2 == 0
        });
        let mut left = Vec::new();
        while let Some(raw) = decoder.next_frame().unwrap() {
            left.push(raw.into_tail(32)[0]);
        }
        assert_eq!(left, [1, 3, 5]);
        assert_eq!(drops.sent.load(Ordering::Relaxed), 3);
    }

    proptest! {
        /// In any interleaving, what comes out is the end of what went in, in order.
        #[test]
        fn it_equals_a_plain_queue(steps in prop::collection::vec((1usize..80, 1usize..1_500, any::<bool>()), 1..40)) {
            let (queue, drops) = queue();
            queue.set_flowing(true);
            let (mut expected, mut got, mut number) = (Vec::new(), Vec::new(), 0u32);
            for (count, size, drain) in steps {
                let size = size.max(8);
                let mut run = Vec::new();
                for _ in 0..count {
                    let mut packet = vec![4u8; size];
                    packet[4..8].copy_from_slice(&number.to_be_bytes());
                    number += 1;
                    run.extend_from_slice(&packet);
                    expected.push(packet);
                }
                prop_assert_eq!(queue.push(&dst(), &run, size), count);
                if drain {
                    got.extend(drained(&queue));
                }
            }
            got.extend(drained(&queue));
            let lost = usize::try_from(drops.sent.load(Ordering::Relaxed)).unwrap();
            prop_assert_eq!(got.len() + lost, expected.len());
            let mut rest = expected.iter();
            prop_assert!(got.iter().all(|packet| rest.any(|known| known == packet)), "order");
        }
    }
}
