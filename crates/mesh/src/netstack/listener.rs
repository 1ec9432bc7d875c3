//! [`Listener`]: a port that takes connections, with its two bounded queues.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::task::{Context, Waker};

use super::ConnectionId;

/// Names a listener of one stack; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ListenerId(pub(super) u64);

#[derive(Debug)]
pub(super) struct Listener {
    pub(super) port: u16,
    backlog: usize,
    half_open: Vec<(ConnectionId, IpAddr)>,
    ready: VecDeque<ConnectionId>,
    waiters: Vec<Waker>,
}

impl Listener {
    pub(super) const fn new(port: u16, backlog: usize) -> Self {
        Self {
            port,
            backlog,
            half_open: Vec::new(),
            ready: VecDeque::new(),
            waiters: Vec::new(),
        }
    }

    /// False when a further SYN must be dropped: the peer repeats it, and finds room if we get on meanwhile. One peer
    /// alone cannot take all of it by never answering.
    pub(super) fn has_room_for(&self, peer: IpAddr) -> bool {
        let unanswered = self.half_open.iter().filter(|(_, other)| *other == peer).count();
        self.half_open.len() + self.ready.len() < self.backlog && unanswered < self.backlog.div_ceil(2)
    }

    pub(super) fn begin(&mut self, id: ConnectionId, peer: IpAddr) {
        self.half_open.push((id, peer));
    }

    /// The handshake ended well.
    pub(super) fn complete(&mut self, id: ConnectionId, wakeups: &mut Vec<Waker>) {
        self.half_open.retain(|(other, _)| *other != id);
        self.ready.push_back(id);
        // All of them: a waiter may have been dropped since, and one that finds nothing just waits again.
        wakeups.append(&mut self.waiters);
    }

    /// The connection ended before anybody took it.
    pub(super) fn forget(&mut self, id: ConnectionId) {
        self.half_open.retain(|(other, _)| *other != id);
        self.ready.retain(|other| *other != id);
    }

    pub(super) fn take(&mut self) -> Option<ConnectionId> {
        self.ready.pop_front()
    }

    pub(super) fn wait(&mut self, context: &Context<'_>) {
        if !self.waiters.iter().any(|waker| waker.will_wake(context.waker())) {
            self.waiters.push(context.waker().clone());
        }
    }

    /// Everything that was not accepted.
    pub(super) fn into_pending(self) -> impl Iterator<Item = ConnectionId> {
        self.half_open.into_iter().map(|(id, _)| id).chain(self.ready)
    }
}
