//! Connections that are over but for a peer that may repeat its FIN, because our last acknowledgement got lost.
//!
//! All that such a peer needs is that acknowledgement once more. So the whole connection, buffers and all, is replaced
//! by the one packet, and a busy server does not hold a minute's worth of closed connections.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::ingress::FourTuple;
use crate::packet::PacketBuf;

/// How long a tuple is remembered: by then a peer has repeated its FIN, with growing pauses, about six times.
const DURATION: Duration = Duration::from_secs(60);
/// Bound on remembered tuples; the oldest goes first.
const LIMIT: usize = 16_384;

/// Remembered tuples and their last packets.
#[derive(Debug, Default)]
pub(super) struct TimeWait {
    answers: HashMap<FourTuple, (u64, PacketBuf)>,
    ends: VecDeque<(Instant, u64, FourTuple)>,
    count: u64,
}

impl TimeWait {
    pub(super) fn insert(&mut self, tuple: FourTuple, answer: PacketBuf, now: Instant) {
        self.count += 1;
        self.answers.insert(tuple, (self.count, answer));
        self.ends.push_back((now + DURATION, self.count, tuple));
        while self.ends.len() > LIMIT {
            self.pop_first();
        }
    }

    pub(super) fn contains(&self, tuple: &FourTuple) -> bool {
        self.answers.contains_key(tuple)
    }

    /// What the peer of this tuple needs to hear once more.
    pub(super) fn answer(&self, tuple: &FourTuple) -> Option<PacketBuf> {
        self.answers.get(tuple).map(|(_, answer)| answer.clone())
    }

    pub(super) fn remove(&mut self, tuple: &FourTuple) {
        self.answers.remove(tuple);
    }

    /// Forgets what is old enough. No deadline belongs to it: there is no hurry.
    pub(super) fn expire(&mut self, now: Instant) {
        while self.ends.front().is_some_and(|(end, ..)| *end <= now) {
            self.pop_first();
        }
    }

    fn pop_first(&mut self) {
        let Some((_, count, tuple)) = self.ends.pop_front() else {
            return;
        };
        // The tuple may have been removed and inserted anew since.
        if self.answers.get(&tuple).is_some_and(|(newest, _)| *newest == count) {
            self.answers.remove(&tuple);
        }
    }
}
