//! [`Job`]: a run of datagrams to be sealed or opened by another thread than the engine's, and the two queues' common face.
//!
//! A job owns what it needs: the buffer and a clone of the session's key. So nothing is shared while it is away, a session
//! may end meanwhile, and the key is wiped with its last clone. Counters are given out before it goes, replay is judged
//! when it is back; its ticket tells its place in the queue, which it never leaves.

use std::ops::Range;

use sandd_aead::Key;

/// Datagrams below which a run is done where it is.
pub(crate) const BULK: usize = 8;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Job {
    /// Its place in its queue.
    pub(super) ticket: u64,
    pub(super) key: Key,
    pub(super) bytes: Vec<u8>,
    /// Where in `bytes` the run lies.
    pub(super) slots: Range<usize>,
    pub(super) stride: usize,
    pub(super) work: Work,
}

/// What is to be done with the slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Seal,
    /// Those with these bits; afterwards [`Work::Opened`].
    Open(u64),
    /// Those with these bits were authentic.
    Opened(u64),
}

impl Job {
    /// Does it. May take some 50 µs.
    pub(crate) fn run(&mut self) {
        let slots = &mut self.bytes[self.slots.clone()];
        match self.work {
            Work::Seal => self.key.seal_slots(slots, self.stride),
            Work::Open(candidates) => {
                self.work = Work::Opened(self.key.open_slots(slots, self.stride, candidates));
            }
            Work::Opened(_) => {}
        }
    }
}

/// A queue whose front is taken in order while others work on what stands behind.
pub(crate) trait JobQueue {
    /// The oldest run that waits for work; none when no more than `keep` do.
    fn hand_over(&mut self, keep: usize) -> Option<Job>;
    /// A job is done.
    fn put_back(&mut self, job: Job);
    /// All that has not been taken yet, in whatever state.
    fn held(&self) -> usize;
}
