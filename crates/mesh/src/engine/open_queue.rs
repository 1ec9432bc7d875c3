//! [`OpenQueue`]: received datagrams in the order of their arrival, while other threads open some of them.
//!
//! First stop inside the engine when a node has lanes; without them datagrams are opened in the buffers of the socket. It is
//! empty between two turns of the driver.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Instant;

use sandd_aead::Key;

use super::job::{Job, JobQueue, Work};
use super::{Engine, Overlay};

/// Emptied buffers kept for the next datagrams.
const SPARE: usize = 16;

/// Datagrams of one source and one size, the last may be shorter.
struct Received {
    from: SocketAddr,
    ecn: u8,
    bytes: Vec<u8>,
    /// Where in `bytes` they lie.
    slots: Range<usize>,
    stride: usize,
    state: State,
}

enum State {
    /// As they came.
    Sealed,
    /// With another thread, and `bytes` too.
    Out,
    /// Opened with this key, those with these bits with success.
    Opened(Key, u64),
}

/// See the module's text.
#[derive(Default)]
pub(crate) struct OpenQueue {
    received: VecDeque<Received>,
    /// The ticket of the front.
    first: u64,
    /// The first ticket of which nobody has asked yet whether it makes a job.
    unasked: u64,
    spare: Vec<Vec<u8>>,
}

impl OpenQueue {
    /// Takes datagrams that lie in `buffer` at `slots`, and leaves another buffer of that size in its place.
    pub(crate) fn push(
        &mut self,
        (from, ecn): (SocketAddr, u8),
        buffer: &mut Vec<u8>,
        slots: Range<usize>,
        stride: usize,
    ) {
        let other = self.spare.pop().unwrap_or_else(|| vec![0; buffer.len()]);
        self.received.push_back(Received {
            from,
            ecn,
            bytes: std::mem::replace(buffer, other),
            slots,
            stride: stride.max(1),
            state: State::Sealed,
        });
    }

    fn pop(&mut self) -> Option<Received> {
        if matches!(self.received.front()?.state, State::Out) {
            return None;
        }
        self.first += 1;
        self.unasked = self.unasked.max(self.first);
        self.received.pop_front()
    }

    fn at(&mut self, ticket: u64) -> Option<&mut Received> {
        let at = ticket.checked_sub(self.first)?;
        self.received.get_mut(usize::try_from(at).ok()?)
    }

    fn hand_over(&mut self, keep: usize, engine: &mut Engine, now: Instant) -> Option<Job> {
        let end = self.first + self.received.len() as u64;
        while self.unasked + (keep as u64) < end {
            let ticket = self.unasked;
            self.unasked += 1;
            let received = self.at(ticket)?;
            let (slots, stride) = (received.slots.clone(), received.stride);
            let Some((key, candidates)) = engine.opening(&received.bytes[slots.clone()], stride, now) else {
                continue;
            };
            received.state = State::Out;
            return Some(Job {
                ticket,
                key,
                bytes: std::mem::take(&mut received.bytes),
                slots,
                stride,
                work: Work::Open(candidates),
            });
        }
        None
    }

    fn put_back(&mut self, job: Job) {
        let Job { key, bytes, work, .. } = job;
        if let Some(received) = self.at(job.ticket) {
            received.bytes = bytes;
            received.state = match work {
                Work::Opened(opened) => State::Opened(key, opened),
                Work::Open(_) | Work::Seal => State::Sealed,
            };
        }
    }
}

/// The queue and the engine that knows which session each run is for.
pub(crate) struct Opening<'a> {
    pub(crate) queue: &'a mut OpenQueue,
    pub(crate) engine: &'a mut Engine,
    pub(crate) now: Instant,
}

impl Opening<'_> {
    /// Hands over to the engine what stands at the front, up to the first that another thread has.
    pub(crate) fn deliver(&mut self, overlay: &mut impl Overlay) {
        let Self { queue, engine, now } = self;
        while let Some(mut front) = queue.pop() {
            let Received { from, ecn, stride, .. } = front;
            let datagrams = &mut front.bytes[front.slots];
            match &front.state {
                State::Opened(key, opened) => {
                    engine.handle_opened((from, ecn), datagrams, stride, (key, *opened), *now, overlay);
                }
                State::Sealed | State::Out => engine.handle_udp(from, ecn, datagrams, stride, *now, overlay),
            }
            if queue.spare.len() < SPARE {
                queue.spare.push(front.bytes);
            }
        }
    }
}

impl JobQueue for Opening<'_> {
    fn hand_over(&mut self, keep: usize) -> Option<Job> {
        self.queue.hand_over(keep, self.engine, self.now)
    }

    fn put_back(&mut self, job: Job) {
        self.queue.put_back(job);
    }

    fn held(&self) -> usize {
        self.queue.received.len()
    }
}

impl std::fmt::Debug for OpenQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpenQueue({} buffers)", self.received.len())
    }
}
