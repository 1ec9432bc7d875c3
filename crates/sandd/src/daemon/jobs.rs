//! Which commands run now and which wait: in order of arrival, up to a bound at once (pure).

use std::collections::{BTreeSet, VecDeque};

use crate::wire::ids::RequestId;

/// Commands that may wait for their turn.
pub(super) const MAX_QUEUED: usize = 1_024;

/// The bookkeeping of running and waiting commands; `J` is what the shell needs to start one.
#[derive(Debug)]
pub(super) struct Jobs<J> {
    limit: usize,
    running: BTreeSet<RequestId>,
    waiting: VecDeque<(RequestId, J)>,
}

/// What becomes of a command that came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Submitted<J> {
    /// Start it now.
    Start(J),
    /// It waits for its turn.
    Waits,
    /// Too many wait already.
    Full,
    /// One of this id is running or waiting.
    Duplicate,
}

impl<J> Jobs<J> {
    /// At most `limit` at once, at least one.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            running: BTreeSet::new(),
            waiting: VecDeque::new(),
        }
    }

    /// A command came.
    pub(super) fn submit(&mut self, id: RequestId, job: J) -> Submitted<J> {
        if self.running.contains(&id) || self.waiting.iter().any(|(other, _)| *other == id) {
            return Submitted::Duplicate;
        }
        if self.running.len() < self.limit {
            self.running.insert(id);
            return Submitted::Start(job);
        }
        if self.waiting.len() >= MAX_QUEUED {
            return Submitted::Full;
        }
        self.waiting.push_back((id, job));
        Submitted::Waits
    }

    /// A running command ended: the next one to start.
    pub(super) fn finished(&mut self, id: &RequestId) -> Option<J> {
        self.running.remove(id);
        if self.running.len() >= self.limit {
            return None;
        }
        let (next, job) = self.waiting.pop_front()?;
        self.running.insert(next);
        Some(job)
    }

    /// Nothing more starts.
    pub(super) fn clear_waiting(&mut self) {
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_arrival_and_a_bound() {
        let mut jobs = Jobs::new(2);
        assert_eq!(jobs.submit("a".into(), 'a'), Submitted::Start('a'));
        assert_eq!(jobs.submit("b".into(), 'b'), Submitted::Start('b'));
        assert_eq!(jobs.submit("b".into(), 'b'), Submitted::Duplicate);
        assert_eq!(jobs.submit("c".into(), 'c'), Submitted::Waits);
        assert_eq!(jobs.submit("c".into(), 'c'), Submitted::Duplicate);
        assert_eq!(jobs.submit("d".into(), 'd'), Submitted::Waits);
        assert_eq!(jobs.finished(&"b".into()), Some('c'));
        assert_eq!(jobs.finished(&"a".into()), Some('d'));
        assert_eq!(jobs.finished(&"c".into()), None);
        assert_eq!(jobs.submit("a".into(), 'a'), Submitted::Start('a'));
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut jobs = Jobs::new(1);
        for n in 0..=MAX_QUEUED {
            let submitted = jobs.submit(n.to_string().as_str().into(), n);
            assert!(matches!(submitted, Submitted::Start(_) | Submitted::Waits));
        }
        assert_eq!(jobs.submit("more".into(), 0), Submitted::Full);
    }
}
