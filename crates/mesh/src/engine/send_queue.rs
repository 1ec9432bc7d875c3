//! [`SendQueue`]: datagrams on their way out, gathered into batches that one system call can carry.
//!
//! Last stop inside the engine. Sealing happens in place in the batches, so a packet is written once between the device
//! and the kernel. The order of what goes to one destination never changes; a batch closes when a datagram is shorter
//! than its first, since segmentation offload allows that for the last one only.
//!
//! Where a node has lanes, long runs are sealed by other threads: a batch stays in its place while its bytes are away, and
//! nothing behind it leaves before it is back. What nobody took is sealed when it comes to the front.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;

use sandd_aead::Key;

use super::Underlay;
use super::job::{BULK, Job, JobQueue, Work};
use crate::disco::GeneveHeader;

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
    sealing: Sealing,
}

/// How far the bytes of a batch are.
enum Sealing {
    /// They may leave.
    Done,
    /// These are still in the clear, for this key.
    Waits(Range<usize>, Key),
    /// Another thread has them.
    Out,
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

    /// Puts `header` in front of each datagram; to be called before any of them has left. From now on they go to `to`.
    pub(crate) fn wrap(&mut self, to: Underlay, header: &[u8]) {
        let mut bytes = Vec::with_capacity(self.contents().len() + self.count * header.len());
        for datagram in self.contents().chunks(self.stride) {
            bytes.extend_from_slice(header);
            bytes.extend_from_slice(datagram);
        }
        (self.to, self.closed) = (to, true);
        self.stride += header.len();
        (self.start, self.end, self.bytes) = (0, bytes.len(), bytes);
    }

    /// Room for the datagrams of `run`, as many as fit.
    fn admits(&self, run: &Run) -> usize {
        if self.closed || self.to != run.to || self.ecn != run.ecn {
            return 0;
        }
        let slots = (MAX_SEGMENTS - self.count).min(run.count);
        let most = capacity(self.to);
        if run.stride == self.stride {
            let fits = self.end + (run.count - 1) * run.stride + run.last <= most;
            return slots.min(if fits {
                run.count
            } else {
                most.saturating_sub(self.end) / run.stride
            });
        }
        // A shorter datagram may end a batch.
        let ends = run.count == 1 && run.last < self.stride && self.end + run.last <= most;
        slots.min(usize::from(ends))
    }
}

/// Bytes of one batch: a header may still come in front of each datagram.
const fn capacity(to: Underlay) -> usize {
    match to {
        Underlay::PeerRelay(_) => MAX_BYTES - MAX_SEGMENTS * GeneveHeader::LEN,
        Underlay::Udp(_) | Underlay::Derp { .. } => MAX_BYTES,
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
    /// Batches whose socket takes no more, by family (IPv4, IPv6): taken out of the line, so that others pass.
    stalled: [VecDeque<SendBatch>; 2],
    spare: Vec<Vec<u8>>,
    dropped: u64,
    /// The ticket of the front.
    first: u64,
    /// Tickets of batches that wait to be sealed, in order.
    waiting: VecDeque<u64>,
    /// Where the last slots were reserved: which batch, and its bytes.
    reserved: (usize, Range<usize>),
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
        self.reserved = (at, start..start + len);
        (&mut batch.bytes[start..start + len], taken)
    }

    /// The slots that were reserved last are sealed with this key before they leave, but not now.
    pub(crate) fn seal_later(&mut self, key: &Key) {
        let (at, slots) = self.reserved.clone();
        let batch = &mut self.batches[at];
        match &mut batch.sealing {
            Sealing::Waits(before, same) if same.is(key) && before.end == slots.start => before.end = slots.end,
            Sealing::Done => {
                batch.sealing = Sealing::Waits(slots, key.clone());
                let ticket = self.first + at as u64;
                let after = self.waiting.partition_point(|other| *other < ticket);
                self.waiting.insert(after, ticket);
            }
            Sealing::Waits(..) | Sealing::Out => key.seal_slots(&mut batch.bytes[slots], batch.stride),
        }
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

    /// The batch to send first; none when it is being sealed elsewhere.
    pub(crate) fn front(&mut self) -> Option<&mut SendBatch> {
        let batch = self.batches.front_mut()?;
        match &batch.sealing {
            Sealing::Done => {}
            Sealing::Out => return None,
            Sealing::Waits(slots, key) => {
                key.seal_slots(&mut batch.bytes[slots.clone()], batch.stride);
                batch.sealing = Sealing::Done;
                self.waiting.pop_front();
            }
        }
        Some(batch)
    }

    /// Takes the first batch away: it has left, or is given up.
    pub(crate) fn pop(&mut self) {
        if let Some(batch) = self.take() {
            self.recycle(batch.bytes);
        }
    }

    fn take(&mut self) -> Option<SendBatch> {
        let batch = self.batches.pop_front()?;
        if self.waiting.front() == Some(&self.first) {
            self.waiting.pop_front();
        }
        self.first += 1;
        Some(batch)
    }

    /// The socket of the first batch takes no more: it waits aside, and so must what comes after it for that family.
    pub(crate) fn stall(&mut self) {
        let Some(batch) = self.take() else { return };
        let Underlay::Udp(to) = batch.to else { return };
        let stalled = &mut self.stalled[usize::from(to.is_ipv6())];
        stalled.push_back(batch);
        if stalled.len() > MAX_BATCHES {
            self.dropped += stalled.front().map_or(0, |batch| batch.count as u64);
            self.pop_stalled(to.is_ipv6());
        }
    }

    /// The first batch that waits aside for the socket of a family, and its address.
    pub(crate) fn stalled(&mut self, v6: bool) -> Option<(SocketAddr, &mut SendBatch)> {
        let batch = self.stalled[usize::from(v6)].front_mut()?;
        match batch.to {
            Underlay::Udp(to) => Some((to, batch)),
            Underlay::PeerRelay(_) | Underlay::Derp { .. } => None,
        }
    }

    /// Takes it away, as [`Self::pop`] does.
    pub(crate) fn pop_stalled(&mut self, v6: bool) {
        if let Some(batch) = self.stalled[usize::from(v6)].pop_front() {
            self.recycle(batch.bytes);
        }
    }

    fn recycle(&mut self, bytes: Vec<u8>) {
        if bytes.len() >= MAX_BYTES && self.spare.len() < SPARE {
            self.spare.push(bytes);
        }
    }

    fn open(&mut self, run: &Run) -> (usize, usize) {
        if self.batches.len() >= MAX_BATCHES {
            self.dropped += self.batches.front().map_or(0, |batch| batch.count as u64);
            self.pop();
        }
        let whole = (capacity(run.to) / run.stride).clamp(1, MAX_SEGMENTS);
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
            sealing: Sealing::Done,
        });
        (self.batches.len() - 1, run.count.min(whole))
    }
}

impl JobQueue for SendQueue {
    fn hand_over(&mut self, keep: usize) -> Option<Job> {
        if self.waiting.len() <= keep {
            return None;
        }
        let ticket = self.waiting.pop_front()?;
        let at = usize::try_from(ticket.checked_sub(self.first)?).ok()?;
        let batch = self.batches.get_mut(at)?;
        let Sealing::Waits(slots, key) = std::mem::replace(&mut batch.sealing, Sealing::Out) else {
            return None;
        };
        batch.closed = true;
        Some(Job {
            ticket,
            key,
            bytes: std::mem::take(&mut batch.bytes),
            slots,
            stride: batch.stride,
            work: Work::Seal,
        })
    }

    fn put_back(&mut self, job: Job) {
        let at = job
            .ticket
            .checked_sub(self.first)
            .and_then(|at| usize::try_from(at).ok());
        match at.and_then(|at| self.batches.get_mut(at)) {
            Some(batch) => {
                batch.bytes = job.bytes;
                batch.sealing = Sealing::Done;
            }
            // Pushed out by later ones.
            None => self.recycle(job.bytes),
        }
    }

    fn held(&self) -> usize {
        self.batches.len()
    }
}

impl std::fmt::Debug for SendQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SendQueue({} batches)", self.batches.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wg::tunnel::{HEADER, TAG};

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

    const SLOT: usize = HEADER + 16 + TAG;

    /// A sealed slot holds its number twice: as counter, and inside.
    fn write(slots: &mut [u8], first: u64) {
        for (number, slot) in (first..).zip(slots.chunks_mut(SLOT)) {
            slot.fill(0);
            slot[8..HEADER].copy_from_slice(&number.to_le_bytes());
            slot[HEADER..HEADER + 8].copy_from_slice(&number.to_le_bytes());
        }
    }

    fn read(key: &Key, datagram: &mut [u8]) -> Option<u64> {
        let opened = key.open_slots(datagram, SLOT, 1) == 1;
        let body = datagram[HEADER..HEADER + 8].try_into().ok()?;
        opened.then(|| u64::from_le_bytes(body))
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// A run to a port with one of two keys, sealed at once or later.
        Write(u16, usize, usize, bool),
        HandOver(usize),
        /// Any of those that are away comes back.
        Return(prop::sample::Index),
        Send,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0u16..3, 0usize..2, 1usize..70, any::<bool>())
                .prop_map(|(to, key, n, later)| Step::Write(to, key, n, later)),
            (0usize..2).prop_map(Step::HandOver),
            any::<prop::sample::Index>().prop_map(Step::Return),
            Just(Step::Send),
        ];
        prop::collection::vec(step, 1..120)
    }

    proptest! {
        /// In whatever order others seal: what leaves is sealed, whole, and in order for each destination.
        #[test]
        fn jobs_that_come_back_in_any_order_change_nothing(steps in steps()) {
            let keys = [Key::new(&[1; 32]), Key::new(&[2; 32])];
            let mut queue = SendQueue::default();
            let (mut away, mut number, mut expected, mut left) = (Vec::new(), 0, Vec::new(), Vec::new());
            let mut send = |queue: &mut SendQueue| {
                while let Some(batch) = queue.front() {
                    let to = batch.to();
                    left.extend(batch.contents().chunks(batch.stride()).map(|datagram| (to, datagram.to_vec())));
                    queue.pop();
                }
            };
            for step in steps {
                match step {
                    Step::Write(port, key, count, later) => {
                        let mut done = 0;
                        while done < count {
                            let run = Run { to: to(port), ecn: 0, stride: SLOT, count: count - done, last: SLOT };
                            let (slots, taken) = queue.reserve(&run);
                            write(slots, number);
                            if later {
                                queue.seal_later(&keys[key]);
                            } else {
                                keys[key].seal_slots(slots, SLOT);
                            }
                            expected.extend((number..).take(taken).map(|number| (to(port), key, number)));
                            number += taken as u64;
                            done += taken;
                        }
                    }
                    Step::HandOver(keep) => away.extend(queue.hand_over(keep)),
                    Step::Return(any) if !away.is_empty() => {
                        let mut job: Job = away.swap_remove(any.index(away.len()));
                        job.run();
                        queue.put_back(job);
                    }
                    Step::Return(_) => {}
                    Step::Send => send(&mut queue),
                }
            }
            for mut job in away {
                job.run();
                queue.put_back(job);
            }
            send(&mut queue);
            prop_assert!(queue.is_empty() && queue.waiting.is_empty());
            prop_assert_eq!(left.len(), expected.len());
            for port in 0..3 {
                let of = |at: &Underlay| *at == to(port);
                let sent = left.iter_mut().filter(|(at, _)| of(at));
                for ((_, datagram), (_, key, number)) in sent.zip(expected.iter().filter(|(at, _, _)| of(at))) {
                    prop_assert_eq!(read(&keys[*key], datagram), Some(*number));
                }
            }
        }

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
