//! [`SendQueue`]: datagrams on their way out, gathered into batches that one system call can carry.
//!
//! Last stop inside the engine. Sealing happens in place in the batches, so a packet is written once between the device
//! and the kernel. The order of what goes to one destination never changes; a batch closes when a datagram is shorter
//! than its first, since segmentation offload allows that for the last one only.

use std::collections::VecDeque;

use super::Underlay;

/// Most bytes of one segmented send: what a UDP datagram can hold over IPv4.
const MAX_BYTES: usize = 65_507;
/// Most datagrams of one segmented send (Linux `UDP_MAX_SEGMENTS` of older kernels).
const MAX_SEGMENTS: usize = 64;
/// Batches still open to further datagrams; older ones are left alone.
const OPEN: usize = 8;
/// Emptied buffers kept for the next batches.
const SPARE: usize = 8;
/// Batches that wait at most while the kernel takes none; the oldest goes first.
const MAX_BATCHES: usize = 4_096;
/// From here on a batch is given a whole buffer at once, because it will grow.
const BULK: usize = 8;

/// Datagrams of one size for one destination; the last may be shorter.
pub(crate) struct SendBatch {
    to: Underlay,
    ecn: u8,
    stride: usize,
    count: usize,
    closed: bool,
    start: usize,
    end: usize,
    bytes: Vec<u8>,
}

impl SendBatch {
    /// Where it goes.
    pub(crate) const fn to(&self) -> Underlay {
        self.to
    }

    /// The two ECN bits of the outer header.
    pub(crate) const fn ecn(&self) -> u8 {
        self.ecn
    }

    /// Bytes of each datagram but the last.
    pub(crate) const fn stride(&self) -> usize {
        self.stride
    }

    /// Datagrams that have not left yet.
    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    /// What has not left yet, one datagram after the other.
    pub(crate) fn contents(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// The first `count` datagrams have left.
    pub(crate) fn advance(&mut self, count: usize) {
        let count = count.min(self.count);
        self.count -= count;
        self.start = (self.start + count * self.stride).min(self.end);
        self.closed = true;
    }

    /// Room for the datagrams of `run`, as many as fit.
    fn admits(&self, run: &Run) -> usize {
        if self.closed || self.to != run.to || self.ecn != run.ecn {
            return 0;
        }
        let slots = (MAX_SEGMENTS - self.count).min(run.count);
        if run.stride == self.stride {
            let fits = self.end + (run.count - 1) * run.stride + run.last <= MAX_BYTES;
            return slots.min(if fits {
                run.count
            } else {
                MAX_BYTES.saturating_sub(self.end) / run.stride
            });
        }
        // A shorter datagram may end a batch.
        let ends = run.count == 1 && run.last < self.stride && self.end + run.last <= MAX_BYTES;
        slots.min(usize::from(ends))
    }
}

/// Datagrams to be written: `count` of them, `stride` bytes each, the last `last` bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) to: Underlay,
    pub(crate) ecn: u8,
    pub(crate) stride: usize,
    pub(crate) count: usize,
    pub(crate) last: usize,
}

/// See the module's text.
#[derive(Default)]
pub(crate) struct SendQueue {
    batches: VecDeque<SendBatch>,
    spare: Vec<Vec<u8>>,
    dropped: u64,
}

impl SendQueue {
    /// True when nothing waits.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Batches that wait.
    pub(crate) fn len(&self) -> usize {
        self.batches.len()
    }

    /// Datagrams that were pushed out by later ones.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Room for the first datagrams of `run`, one at least, to be written at once: the slots and how many they are. What
    /// the slots hold before is without meaning.
    pub(crate) fn reserve(&mut self, run: &Run) -> (&mut [u8], usize) {
        let found = self
            .batches
            .iter()
            .enumerate()
            .rev()
            .take(OPEN)
            .find(|(_, batch)| batch.to == run.to)
            .map(|(at, batch)| (at, batch.admits(run)))
            .filter(|(_, room)| *room > 0);
        let (at, taken) = found.unwrap_or_else(|| self.open(run));
        let len = if taken == run.count {
            (taken - 1) * run.stride + run.last
        } else {
            taken * run.stride
        };
        let batch = &mut self.batches[at];
        let start = batch.end;
        batch.end += len;
        batch.count += taken;
        batch.closed = taken == run.count && run.last < batch.stride;
        if batch.bytes.len() < batch.end {
            batch.bytes.resize(batch.end, 0);
        }
        (&mut batch.bytes[start..start + len], taken)
    }

    /// Appends one datagram that is written already.
    pub(crate) fn push(&mut self, to: Underlay, datagram: &[u8]) {
        let run = Run {
            to,
            ecn: 0,
            stride: datagram.len(),
            count: 1,
            last: datagram.len(),
        };
        if datagram.is_empty() || datagram.len() > MAX_BYTES {
            return;
        }
        self.reserve(&run).0.copy_from_slice(datagram);
    }

    /// The batch to send first.
    pub(crate) fn front(&mut self) -> Option<&mut SendBatch> {
        self.batches.front_mut()
    }

    /// Takes the first batch away: it has left, or is given up.
    pub(crate) fn pop(&mut self) {
        if let Some(batch) = self.batches.pop_front()
            && batch.bytes.len() >= MAX_BYTES
            && self.spare.len() < SPARE
        {
            self.spare.push(batch.bytes);
        }
    }

    fn open(&mut self, run: &Run) -> (usize, usize) {
        if self.batches.len() >= MAX_BATCHES {
            self.dropped += self.batches.front().map_or(0, |batch| batch.count as u64);
            self.pop();
        }
        let whole = (MAX_BYTES / run.stride).clamp(1, MAX_SEGMENTS);
        let bytes = if run.count >= BULK {
            self.spare.pop().unwrap_or_else(|| vec![0; MAX_BYTES])
        } else {
            Vec::new()
        };
        self.batches.push_back(SendBatch {
            to: run.to,
            ecn: run.ecn,
            stride: if run.count == 1 { run.last } else { run.stride },
            count: 0,
            closed: false,
            start: 0,
            end: 0,
            bytes,
        });
        (self.batches.len() - 1, run.count.min(whole))
    }
}

impl std::fmt::Debug for SendQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SendQueue({} batches)", self.batches.len())
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;

    fn to(port: u16) -> Underlay {
        Underlay::Udp(SocketAddr::from(([192, 0, 2, 1], port)))
    }

    fn datagrams(queue: &mut SendQueue) -> Vec<(Underlay, Vec<u8>)> {
        let mut out = Vec::new();
        while let Some(batch) = queue.front() {
            assert!(batch.count() <= MAX_SEGMENTS && batch.contents().len() <= MAX_BYTES);
            assert_eq!(batch.contents().chunks(batch.stride()).count(), batch.count());
            for datagram in batch.contents().chunks(batch.stride()) {
                out.push((batch.to(), datagram.to_vec()));
            }
            queue.pop();
        }
        out
    }

    proptest! {
        /// Whatever is written comes out whole, and in order for each destination.
        #[test]
        fn every_datagram_leaves_once_in_the_order_of_its_destination(
            runs in prop::collection::vec((0u16..3, 1usize..70, 33usize..1500, 0usize..1500), 1..30),
        ) {
            let mut queue = SendQueue::default();
            let mut expected = Vec::new();
            let mut number = 0u32;
            for (port, count, stride, shorter) in runs {
                let last = stride - shorter.min(stride - 32);
                let mut done = 0;
                while done < count {
                    let run = Run { to: to(port), ecn: 0, stride, count: count - done, last };
                    let (slots, taken) = queue.reserve(&run);
                    prop_assert!(taken >= 1);
                    for at in 0..taken {
                        let len = if done + at + 1 == count { last } else { stride };
                        let slot = &mut slots[at * stride..at * stride + len];
                        slot.fill(0);
                        slot[..4].copy_from_slice(&number.to_le_bytes());
                        expected.push((to(port), slot.to_vec()));
                        number += 1;
                    }
                    done += taken;
                }
            }
            let got = datagrams(&mut queue);
            for port in 0..3 {
                let of = |all: &[(Underlay, Vec<u8>)]| {
                    all.iter().filter(|(dst, _)| *dst == to(port)).cloned().collect::<Vec<_>>()
                };
                prop_assert_eq!(of(&got), of(&expected));
            }
        }
    }
}
