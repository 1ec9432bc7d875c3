//! Which connections want a turn: those that are ready now, in order of asking, and those with a deadline.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use super::ConnectionId;

/// One entry a connection at most in each of the two; the connection remembers which.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    ready: VecDeque<ConnectionId>,
    deadlines: BTreeSet<(Instant, ConnectionId)>,
}

/// A connection's own note of where it stands in the schedule.
#[derive(Debug, Default)]
pub(super) struct Place {
    ready: bool,
    deadline: Option<Instant>,
}

impl Schedule {
    pub(super) fn set_ready(&mut self, id: ConnectionId, place: &mut Place) {
        if !place.ready {
            place.ready = true;
            self.ready.push_back(id);
        }
    }

    pub(super) fn set_deadline(&mut self, id: ConnectionId, place: &mut Place, deadline: Option<Instant>) {
        if place.deadline == deadline {
            return;
        }
        if let Some(old) = place.deadline {
            self.deadlines.remove(&(old, id));
        }
        if let Some(new) = deadline {
            self.deadlines.insert((new, id));
        }
        place.deadline = deadline;
    }

    /// Takes the entry out of the deadlines; a stale one in the ready queue is skipped by its reader.
    pub(super) fn forget(&mut self, id: ConnectionId, place: &mut Place) {
        self.set_deadline(id, place, None);
    }

    /// The next connection whose deadline has passed; its reader clears the place by setting the next deadline.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<ConnectionId> {
        let &(deadline, id) = self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        self.deadlines.pop_first();
        Some(id)
    }

    pub(super) fn pop_ready(&mut self) -> Option<ConnectionId> {
        self.ready.pop_front()
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(super) fn ready_len(&self) -> usize {
        self.ready.len()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }
}

impl Place {
    /// The reader took the entry out of the ready queue.
    pub(super) fn left_ready(&mut self) {
        self.ready = false;
    }

    /// The reader took the entry out of the deadlines.
    pub(super) fn left_deadlines(&mut self) {
        self.deadline = None;
    }
}
