//! Request id to waiter (S-28), pure.

use std::collections::BTreeMap;

use super::registry::ConnectionId;
use crate::wire::ids::RequestId;

/// Commands that may wait for their answer at one controller.
pub(super) const MAX_PENDING: usize = 10_000;

/// Waiters by request; `W` is what the shell wakes.
#[derive(Debug)]
pub(super) struct Pending<W> {
    waiters: BTreeMap<RequestId, (ConnectionId, W)>,
    by_connection: BTreeMap<ConnectionId, usize>,
    /// Answers that nobody asked for, or that came on a connection that was not asked.
    strays: u64,
}

impl<W> Pending<W> {
    pub(super) fn new() -> Self {
        Self {
            waiters: BTreeMap::new(),
            by_connection: BTreeMap::new(),
            strays: 0,
        }
    }

    /// Enters a waiter; `false` when there are too many.
    pub(super) fn insert(&mut self, id: RequestId, connection: ConnectionId, waiter: W) -> bool {
        if self.waiters.len() >= MAX_PENDING {
            return false;
        }
        if self.waiters.insert(id, (connection, waiter)).is_none() {
            *self.by_connection.entry(connection).or_default() += 1;
        }
        true
    }

    /// The waiter of an answer that came on `connection`; anything else is counted and dropped.
    pub(super) fn answer(&mut self, id: &RequestId, connection: ConnectionId) -> Option<W> {
        if self.waiters.get(id).is_none_or(|(asked, _)| *asked != connection) {
            self.strays = self.strays.saturating_add(1);
            return None;
        }
        self.remove(id)
    }

    /// The caller does not wait any more.
    pub(super) fn remove(&mut self, id: &RequestId) -> Option<W> {
        let (connection, waiter) = self.waiters.remove(id)?;
        if let Some(count) = self.by_connection.get_mut(&connection) {
            *count -= 1;
            if *count == 0 {
                self.by_connection.remove(&connection);
            }
        }
        Some(waiter)
    }

    /// All waiters of a connection that is gone.
    pub(super) fn drain(&mut self, connection: ConnectionId) -> Vec<W> {
        if self.by_connection.remove(&connection).is_none() {
            return Vec::new();
        }
        let ids: Vec<_> = self
            .waiters
            .iter()
            .filter(|(_, (asked, _))| *asked == connection)
            .map(|(id, _)| id.clone())
            .collect();
        ids.iter()
            .filter_map(|id| self.waiters.remove(id))
            .map(|(_, waiter)| waiter)
            .collect()
    }

    /// At least one request waits on this connection.
    pub(super) fn is_busy(&self, connection: ConnectionId) -> bool {
        self.by_connection.contains_key(&connection)
    }

    /// Answers without a question so far.
    pub(super) fn strays(&self) -> u64 {
        self.strays
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ConnectionId = ConnectionId(1);
    const B: ConnectionId = ConnectionId(2);

    #[test]
    fn answers_count_only_on_their_own_connection() {
        let mut pending = Pending::new();
        assert!(pending.insert("r".into(), A, 'w'));
        assert_eq!(pending.answer(&"r".into(), B), None);
        assert_eq!(pending.answer(&"x".into(), A), None);
        assert_eq!(pending.strays(), 2);
        assert!(pending.is_busy(A) && !pending.is_busy(B));
        assert_eq!(pending.answer(&"r".into(), A), Some('w'));
        assert_eq!(pending.answer(&"r".into(), A), None);
        assert!(!pending.is_busy(A));
    }

    #[test]
    fn a_lost_connection_gives_back_all_its_waiters() {
        let mut pending = Pending::new();
        for (id, connection) in [("a", A), ("b", B), ("c", A)] {
            assert!(pending.insert(id.into(), connection, id));
        }
        assert_eq!(pending.drain(A), ["a", "c"]);
        assert!(pending.drain(A).is_empty());
        assert!(!pending.is_busy(A) && pending.is_busy(B));
        assert_eq!(pending.remove(&"b".into()), Some("b"));
        assert!(!pending.is_busy(B));
    }
}
