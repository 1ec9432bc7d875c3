//! [`Connection`]: one smoltcp socket in a set of its own, and what smoltcp does not remember about it.
//!
//! ```text
//!              opened                  eof, then a FIN of ours            nothing left to send
//! Opening ───────────────► Open ─────────────────────────────► Closing ─────────────────────► detached
//!    │ refused, timed out    │ reset, stalled, address gone       │
//!    └───────────────────────┴──────────────── end = why ─────────┴─────────────────────────► detached
//! ```
//!
//! A detached connection gets no packets and no turns any more; it lives on only for what its owner has not read yet.

use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use smoltcp::iface::{SocketHandle, SocketSet, SocketStorage};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};

use super::ingress::FourTuple;
use super::schedule::Place;
use super::{ListenerId, SocketError, StackConfig};
use crate::packet::PacketBuf;

/// Names a connection of one stack; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConnectionId(pub(super) u64);

/// Acknowledgements wait this long for company.
const ACK_DELAY: smoltcp::time::Duration = smoltcp::time::Duration::from_millis(10);
/// How long a connection that is over stays in smoltcp's hands when its owner keeps it; then `time_wait.rs` takes over.
/// smoltcp's own timer has the same length, and would throw away what was not read yet: so ours fires first.
const TIME_WAIT: Duration = Duration::from_secs(10);
/// How long the buffers of a connection keep their memory when nothing is in them.
const KEEP_BUFFERS: Duration = Duration::from_secs(5);
/// Memory that is not worth the trouble.
const LEAN: usize = 8 * 1024;
/// Free bytes that are worth waking a writer for.
const WORTH_WRITING: usize = 64 * 1024;
/// How long a connection without owner may take to say goodbye, without progress.
const LINGER: Duration = Duration::from_secs(30);

/// Who began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Dialled,
    /// By a SYN; the listener keeps it until it is accepted.
    Listener(ListenerId),
    Accepted,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) sockets: SocketSet<'static>,
    handle: SocketHandle,
    pub(super) tuple: FourTuple,
    pub(super) origin: Origin,
    pub(super) place: Place,
    pub(super) end: Option<SocketError>,
    pub(super) opened: bool,
    pub(super) detached: bool,
    pub(super) orphan: bool,
    /// Our half was closed by its owner.
    close_wanted: bool,
    /// In time-wait: the acknowledgement of the peer's FIN.
    pub(super) last_ack: Option<PacketBuf>,
    eof: bool,
    /// When the peer must have answered at last: set as long as something is outstanding.
    patience_ends: Option<Instant>,
    linger_ends: Option<Instant>,
    time_wait_ends: Option<Instant>,
    /// When the buffers lose their memory, if nothing happens till then.
    shrinks_at: Option<Instant>,
    /// Something happened since.
    pub(super) busy: bool,
    /// What its buffers may hold beyond what they began with.
    pub(super) granted: usize,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// How long to wait for a peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) handshake: Duration,
    pub(super) data: Duration,
}

impl Connection {
    /// The buffers have memory for what is in them, so an idle connection costs little.
    pub(super) fn new(tuple: FourTuple, origin: Origin, config: &StackConfig) -> Self {
        let mut socket = Socket::new(
            SocketBuffer::growing(StackConfig::FIRST_BUFFER, config.receive_buffer),
            SocketBuffer::growing(StackConfig::FIRST_BUFFER, config.send_buffer),
        );
        socket.set_path_mtu(Some(config.mtu_for(tuple.remote.ip())));
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(Some(ACK_DELAY));
        let mut sockets = SocketSet::new(vec![SocketStorage::EMPTY]);
        let handle = sockets.add(socket);
        Self {
            sockets,
            handle,
            tuple,
            origin,
            place: Place::default(),
            end: None,
            opened: false,
            detached: false,
            orphan: false,
            close_wanted: false,
            last_ack: None,
            eof: false,
            patience_ends: None,
            linger_ends: None,
            time_wait_ends: None,
            shrinks_at: None,
            busy: false,
            granted: 0,
            reader: None,
            writer: None,
        }
    }

    pub(super) fn socket(&self) -> &Socket<'static> {
        self.sockets.get(self.handle)
    }

    pub(super) fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// For tests: something is outstanding, so that smoltcp must have a timer.
    #[cfg(test)]
    pub(super) fn needs_timer(&self) -> bool {
        !self.detached && self.is_waiting()
    }

    /// Looks at what a packet did to the socket. `reset`: the packet carried RST.
    pub(super) fn after_packet(&mut self, before: State, reset: bool) {
        let state = self.socket().state();
        let gone = matches!(state, State::Closed | State::Listen);
        if reset && gone && !matches!(before, State::Closed) {
            let refused = self.origin == Origin::Dialled && !self.opened;
            self.end.get_or_insert(if refused {
                SocketError::Refused
            } else {
                SocketError::Reset
            });
        }
        if state == State::Listen {
            self.socket_mut().close();
        }
        // A peer that speaks is alive; only what we still wait for starts anew. FIN-WAIT-2 is not prolonged: there the
        // peer could hold an ownerless connection for ever.
        if self.opened {
            self.patience_ends = None;
            if self.socket().send_queue() > 0 {
                self.linger_ends = None;
            }
        }
    }

    /// Brings the record up to date with the socket. True when the handshake ended just now.
    pub(super) fn observe(&mut self, now: Instant) -> bool {
        let state = self.socket().state();
        self.eof |= matches!(
            state,
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait
        );
        if state == State::TimeWait {
            self.time_wait_ends.get_or_insert(now + TIME_WAIT);
        }
        let open = !matches!(
            state,
            State::Closed | State::Listen | State::SynSent | State::SynReceived
        );
        let opened_now = open && !self.opened;
        if opened_now {
            self.opened = true;
            self.patience_ends = None;
        }
        // Nobody will ever read it: the peer must hear that (RFC 9293 §3.6.1).
        if self.orphan && self.socket().can_recv() && !self.detached {
            self.abort();
        }
        opened_now
    }

    /// Ends what took too long.
    pub(super) fn expire(&mut self, now: Instant, patience: Patience) {
        if self.detached {
            return;
        }
        let limit = if self.opened { patience.data } else { patience.handshake };
        if self.is_waiting() {
            if now >= *self.patience_ends.get_or_insert(now + limit) {
                self.end.get_or_insert(SocketError::TimedOut);
                self.abort();
            }
        } else {
            self.patience_ends = None;
        }
        if self.orphan && now >= *self.linger_ends.get_or_insert(now + LINGER) {
            self.abort();
        }
    }

    /// Gives the memory of buffers back in which nothing has been for a while.
    pub(super) fn keep_lean(&mut self, now: Instant) {
        let (_, stored) = self.socket().buffer_sizes();
        if stored <= LEAN && self.granted == 0 {
            self.shrinks_at = None;
            return;
        }
        let due = *self.shrinks_at.get_or_insert(now + KEEP_BUFFERS);
        if now < due {
            return;
        }
        self.shrinks_at = None;
        let holds = self.socket().send_queue() > 0 || self.socket().recv_queue() > 0;
        if std::mem::take(&mut self.busy) || holds {
            self.shrinks_at = Some(now + KEEP_BUFFERS);
        } else {
            self.socket_mut().shrink_buffers(StackConfig::FIRST_BUFFER);
        }
    }

    /// What its buffers may hold beyond what they began with.
    pub(super) fn extra(&self) -> usize {
        let (limits, _) = self.socket().buffer_sizes();
        limits.saturating_sub(2 * StackConfig::FIRST_BUFFER)
    }

    /// The time-wait is over; smoltcp must not get another turn, see [`TIME_WAIT`].
    pub(super) fn is_past_time_wait(&self, now: Instant) -> bool {
        self.time_wait_ends.is_some_and(|end| now >= end)
    }

    pub(super) fn is_in_time_wait(&self) -> bool {
        self.time_wait_ends.is_some()
    }

    /// True when smoltcp has nothing to do with the peer any more.
    pub(super) fn is_over(&self) -> bool {
        self.socket().state() == State::Closed && self.socket().remote_endpoint().is_none()
    }

    /// Our own deadlines, beside smoltcp's.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let ends = [
            self.patience_ends,
            self.linger_ends,
            self.time_wait_ends,
            self.shrinks_at,
        ];
        ends.into_iter().flatten().min()
    }

    /// Closes our half: FIN follows the last byte.
    pub(super) fn close(&mut self) {
        self.close_wanted = true;
        self.socket_mut().close();
    }

    /// Closes at once; the next turn sends RST when there is a peer to hear it.
    pub(super) fn abort(&mut self) {
        self.socket_mut().abort();
    }

    /// What a reader is told when there is nothing to read: the end of the stream, or why it broke.
    pub(super) fn read_end(&self) -> Option<Result<(), SocketError>> {
        if self.socket().can_recv() {
            return None;
        }
        if self.eof {
            return Some(Ok(()));
        }
        self.end
            .map(Err)
            .or_else(|| (self.detached || self.socket().state() == State::Closed).then_some(Ok(())))
    }

    /// Why nothing can be written any more.
    pub(super) fn write_end(&self) -> Option<SocketError> {
        ((!self.socket().may_send() || self.close_wanted) && (self.opened || self.end.is_some() || self.detached))
            .then(|| self.end.unwrap_or(SocketError::Closed))
    }

    pub(super) fn wait_to_read(&mut self, context: &Context<'_>) {
        remember(&mut self.reader, context);
    }

    pub(super) fn wait_to_write(&mut self, context: &Context<'_>) {
        remember(&mut self.writer, context);
    }

    /// Takes the wakers of those who would now get an answer.
    pub(super) fn take_wakers(&mut self, wakeups: &mut Vec<Waker>) {
        if self.reader.is_some() && (self.socket().can_recv() || self.read_end().is_some()) {
            wakeups.extend(self.reader.take());
        }
        if self.writer.is_some() && (self.is_worth_writing() || self.write_end().is_some()) {
            wakeups.extend(self.writer.take());
        }
    }

    fn is_worth_writing(&self) -> bool {
        let socket = self.socket();
        let capacity = socket.send_capacity();
        socket.can_send() && capacity.saturating_sub(socket.send_queue()) >= WORTH_WRITING.min(capacity / 4)
    }

    fn is_waiting(&self) -> bool {
        let socket = self.socket();
        socket.send_queue() > 0
            || matches!(
                socket.state(),
                State::SynSent | State::SynReceived | State::FinWait1 | State::Closing | State::LastAck
            )
    }
}

fn remember(slot: &mut Option<Waker>, context: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(context.waker()),
        None => *slot = Some(context.waker().clone()),
    }
}
