//! TCP: what the owners of streams and listeners ask for, and how segments find their connection.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};

use smoltcp::wire::IpEndpoint;

use super::connection::{Connection, Origin};
use super::ingress::{FourTuple, SegmentFlags};
use super::listener::Listener;
use super::{ConnectionId, ListenerId, SocketError, Stack};

impl Stack {
    /// Begins to connect. `local` chooses between several addresses of ours; `None` takes the first of the family.
    pub(crate) fn tcp_connect(
        &mut self,
        local: Option<IpAddr>,
        remote: SocketAddr,
    ) -> Result<ConnectionId, SocketError> {
        if !Self::is_dialable(remote) {
            return Err(SocketError::Unreachable(remote));
        }
        let local = local.filter(|local| self.addresses.contains(local) && local.is_ipv4() == remote.is_ipv4());
        let source = local
            .or_else(|| self.source_for(remote.ip()))
            .ok_or(SocketError::NoAddress(remote))?;
        if self.connections.len() >= self.config.max_connections {
            return Err(SocketError::TooMany(self.config.max_connections));
        }
        let (by_tuple, time_wait, listening) = (&self.by_tuple, &self.time_wait, &self.listening);
        let tuple_of = |port| FourTuple {
            local: SocketAddr::new(source, port),
            remote,
        };
        let port = self
            .random
            .free_port(|port| {
                let tuple = tuple_of(port);
                !(listening.contains_key(&port) || by_tuple.contains_key(&tuple) || time_wait.contains(&tuple))
            })
            .ok_or(SocketError::NoFreePort)?;
        let tuple = tuple_of(port);
        let mut connection = Connection::new(tuple, Origin::Dialled, &self.config);
        let endpoint = IpEndpoint::from(remote);
        connection
            .socket_mut()
            .connect(self.interface.context(), endpoint, IpEndpoint::from(tuple.local))
            .map_err(|_refused| SocketError::Unreachable(remote))?;
        let id = self.insert(connection);
        self.request_turn(id);
        Ok(id)
    }

    /// Ready when the handshake ended, well or not.
    pub(crate) fn poll_connected(&mut self, id: ConnectionId, context: &Context<'_>) -> Poll<Result<(), SocketError>> {
        let Some(connection) = self.connections.get_mut(&id) else {
            return Poll::Ready(Err(SocketError::Closed));
        };
        if connection.opened {
            return Poll::Ready(Ok(()));
        }
        if connection.end.is_some() || connection.detached {
            return Poll::Ready(Err(connection.end.unwrap_or(SocketError::Closed)));
        }
        connection.wait_to_write(context);
        Poll::Pending
    }

    /// Both ends of a connection: ours, the peer's.
    pub(crate) fn tcp_addresses(&self, id: ConnectionId) -> Option<(SocketAddr, SocketAddr)> {
        self.connections
            .get(&id)
            .map(|connection| (connection.tuple.local, connection.tuple.remote))
    }

    /// Takes received bytes; 0 is the end of the stream (or an empty `buffer`).
    pub(crate) fn poll_read(
        &mut self,
        id: ConnectionId,
        context: &Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Some(connection) = self.connections.get_mut(&id) else {
            return Poll::Ready(Ok(0));
        };
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if let Some(end) = connection.read_end() {
            return Poll::Ready(end.map(|()| 0).map_err(io::Error::from));
        }
        let count = connection.socket_mut().recv_slice(buffer).unwrap_or(0);
        if count == 0 {
            connection.wait_to_read(context);
            return Poll::Pending;
        }
        // Only a window that grew much is worth a turn of the driver.
        let now = self.clock.inner(self.now);
        let due = !connection.detached
            && self
                .interface
                .poll_at(now, &connection.sockets)
                .is_some_and(|at| at <= now);
        if due {
            self.request_turn(id);
        }
        Poll::Ready(Ok(count))
    }

    /// Buffers bytes to be sent, as many as there is room for.
    pub(crate) fn poll_write(
        &mut self,
        id: ConnectionId,
        context: &Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Some(connection) = self.connections.get_mut(&id) else {
            return Poll::Ready(Err(SocketError::Closed.into()));
        };
        if let Some(end) = connection.write_end() {
            return Poll::Ready(Err(end.into()));
        }
        let count = connection.socket_mut().send_slice(bytes).unwrap_or(0);
        if count == 0 && !bytes.is_empty() {
            connection.wait_to_write(context);
            return Poll::Pending;
        }
        // As long as the window is full, or a turn was asked for, the driver has nothing to do.
        connection.busy = true;
        let now = self.clock.inner(self.now);
        let due = self
            .interface
            .poll_at(now, &connection.sockets)
            .is_some_and(|at| at <= now);
        if due {
            self.request_turn(id);
        }
        Poll::Ready(Ok(count))
    }

    /// Closes our half: FIN follows what is buffered.
    pub(crate) fn tcp_shutdown(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if connection.opened && !connection.detached {
            connection.close();
            self.request_turn(id);
        }
    }

    /// The owner is gone: says goodbye in the background, within bounds, or resets when that is impossible.
    pub(crate) fn tcp_release(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.orphan = true;
        // smoltcp mistakes the answer to its SYN for one to its FIN when it is closed in between.
        if connection.opened && !connection.socket().can_recv() {
            connection.close();
        } else {
            connection.abort();
        }
        if connection.detached {
            self.remove(id);
        } else {
            self.request_turn(id);
        }
    }

    /// Takes connections on a port of all our addresses; port 0 takes a free one.
    pub(crate) fn tcp_listen(&mut self, port: u16, backlog: usize) -> Result<(ListenerId, u16), SocketError> {
        let listening = &self.listening;
        let port = match port {
            0 => self
                .random
                .free_port(|port| !listening.contains_key(&port))
                .ok_or(SocketError::NoFreePort)?,
            taken if listening.contains_key(&taken) => return Err(SocketError::PortInUse(taken)),
            free => free,
        };
        let id = ListenerId(self.next_id());
        self.listening.insert(port, id);
        self.listeners.insert(id, Listener::new(port, backlog.max(1)));
        Ok((id, port))
    }

    /// The next connection that completed its handshake.
    pub(crate) fn poll_accept(&mut self, id: ListenerId, context: &Context<'_>) -> Poll<Option<ConnectionId>> {
        let Some(listener) = self.listeners.get_mut(&id) else {
            return Poll::Ready(None);
        };
        let Some(accepted) = listener.take() else {
            listener.wait(context);
            return Poll::Pending;
        };
        if let Some(connection) = self.connections.get_mut(&accepted) {
            connection.origin = Origin::Accepted;
        }
        Poll::Ready(Some(accepted))
    }

    /// Ends a listener; what nobody accepted is reset.
    pub(crate) fn tcp_unlisten(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners.remove(&id) else {
            return;
        };
        self.listening.remove(&listener.port);
        for pending in listener.into_pending() {
            if let Some(connection) = self.connections.get_mut(&pending) {
                connection.origin = Origin::Accepted;
                connection.orphan = true;
                connection.abort();
                self.request_turn(pending);
            }
        }
    }

    pub(super) fn handle_segment(&mut self, packet: &[u8], verified: bool, tuple: FourTuple, flags: SegmentFlags) {
        let SegmentFlags {
            opens,
            resets,
            occupies,
            ..
        } = flags;
        if self.time_wait.contains(&tuple) {
            if !opens {
                if let Some(answer) = self.time_wait.answer(&tuple).filter(|_| occupies && !resets) {
                    self.device.send(answer);
                }
                return;
            }
            // The peer reuses the ports already (RFC 6191): the old connection has nothing more to expect.
            self.time_wait.remove(&tuple);
        }
        let mut known = self.by_tuple.get(&tuple).copied();
        if let Some(id) = known.filter(|_| opens)
            && self.connections.get(&id).is_some_and(Connection::is_in_time_wait)
        {
            // The same, though its owner still has it.
            self.detach(id);
            if self.connections.get(&id).is_some_and(|connection| connection.orphan) {
                self.remove(id);
            }
            known = None;
        }
        if let Some(id) = known {
            return self.feed(id, packet, verified, flags);
        }
        match self.listening.get(&tuple.local.port()).copied() {
            Some(listener) if opens => {
                if let Some(id) = self.begin_passive(listener, tuple) {
                    self.feed(id, packet, verified, flags);
                } else {
                    self.metrics.dropped_backlog += 1;
                }
            }
            _ => self.answer_for_nobody(packet, verified),
        }
    }

    /// A connection ready to be fed the SYN; `None` when there is no room.
    fn begin_passive(&mut self, id: ListenerId, tuple: FourTuple) -> Option<ConnectionId> {
        let room = self.connections.len() < self.config.max_connections;
        self.listeners
            .get(&id)
            .filter(|listener| room && listener.has_room_for(tuple.remote.ip()))?;
        let mut connection = Connection::new(tuple, Origin::Listener(id), &self.config);
        connection.socket_mut().listen(IpEndpoint::from(tuple.local)).ok()?;
        let connection = self.insert(connection);
        if let Some(listener) = self.listeners.get_mut(&id) {
            listener.begin(connection, tuple.remote.ip());
        }
        Some(connection)
    }

    fn insert(&mut self, connection: Connection) -> ConnectionId {
        let id = ConnectionId(self.next_id());
        self.by_tuple.insert(connection.tuple, id);
        self.connections.insert(id, connection);
        id
    }

    pub(super) fn handshake_ended(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        if let Origin::Listener(listener) = connection.origin
            && let Some(listener) = self.listeners.get_mut(&listener)
        {
            listener.complete(id, &mut self.wakeups);
        }
    }

    /// Takes a connection out of the traffic; its owner may still read.
    pub(super) fn detach(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if std::mem::replace(&mut connection.detached, true) {
            return;
        }
        self.by_tuple.remove(&connection.tuple);
        self.schedule.forget(id, &mut connection.place);
        // One that is ready to be accepted stays: its owner will find what was sent, and the end.
        if let (Origin::Listener(listener), false) = (connection.origin, connection.opened) {
            connection.orphan = true;
            if let Some(listener) = self.listeners.get_mut(&listener) {
                listener.forget(id);
            }
        }
    }

    /// Ends the connections whose address we no longer have. Nobody could be told by a packet.
    pub(super) fn end_foreign_connections(&mut self) {
        let gone: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, connection)| !self.addresses.contains(&connection.tuple.local.ip()) && !connection.detached)
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            let Some(connection) = self.connections.get_mut(&id) else {
                continue;
            };
            connection.end.get_or_insert(SocketError::AddressGone);
            connection.abort();
            self.detach(id);
            let Some(connection) = self.connections.get_mut(&id) else {
                continue;
            };
            connection.take_wakers(&mut self.wakeups);
            if connection.orphan {
                self.remove(id);
            }
        }
    }

    /// Asks the driver for a turn of this connection.
    fn request_turn(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id)
            && !connection.detached
        {
            self.schedule.set_ready(id, &mut connection.place);
            self.driver_due = true;
        }
    }

    /// For tests: a connection that waits for its peer, but for which smoltcp would never do anything again.
    #[cfg(test)]
    pub(super) fn stalled(&mut self) -> Option<ConnectionId> {
        let now = self.clock.inner(self.now);
        let interface = &mut self.interface;
        let mut waiting = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.needs_timer());
        waiting
            .find(|(_, connection)| interface.poll_at(now, &connection.sockets).is_none())
            .map(|(id, _)| *id)
    }
}
