//! UDP: bounded queues of received datagrams, and datagrams made and sent at once.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll, Waker};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpProtocol, IpRepr, UDP_HEADER_LEN, UdpPacket, UdpRepr};

use super::ingress::FourTuple;
use super::{SocketError, Stack};
use crate::packet::PacketBuf;

/// Datagrams that wait to be read.
const QUEUE_LEN: usize = 512;
/// Their bytes.
const QUEUE_BYTES: usize = 1 << 20;
const HOP_LIMIT: u8 = 64;

/// Names a UDP socket of one stack; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct UdpId(u64);

/// One UDP socket: a port on all our addresses.
#[derive(Debug)]
pub(super) struct Datagrams {
    port: u16,
    queue: VecDeque<(SocketAddr, Box<[u8]>)>,
    queued_bytes: usize,
    waiters: Vec<Waker>,
}

impl Stack {
    /// Takes a port; 0 takes a free one.
    pub(crate) fn udp_bind(&mut self, port: u16) -> Result<(UdpId, u16), SocketError> {
        let bound = &self.bound;
        let port = match port {
            0 => self
                .random
                .free_port(|port| !bound.contains_key(&port))
                .ok_or(SocketError::NoFreePort)?,
            taken if bound.contains_key(&taken) => return Err(SocketError::PortInUse(taken)),
            free => free,
        };
        let id = UdpId(self.next_id());
        self.bound.insert(port, id);
        self.datagrams.insert(
            id,
            Datagrams {
                port,
                queue: VecDeque::new(),
                queued_bytes: 0,
                waiters: Vec::new(),
            },
        );
        Ok((id, port))
    }

    /// Frees the port; what was not read is lost.
    pub(crate) fn udp_close(&mut self, id: UdpId) {
        if let Some(socket) = self.datagrams.remove(&id) {
            self.bound.remove(&socket.port);
        }
    }

    /// Sends one datagram; waits while the queue to the engine is full.
    pub(crate) fn poll_send_to(
        &mut self,
        id: UdpId,
        context: &Context<'_>,
        payload: &[u8],
        remote: SocketAddr,
    ) -> Poll<Result<usize, SocketError>> {
        let Some(socket) = self.datagrams.get(&id) else {
            return Poll::Ready(Err(SocketError::Closed));
        };
        let port = socket.port;
        if !Self::is_dialable(remote) {
            return Poll::Ready(Err(SocketError::Unreachable(remote)));
        }
        let Some(source) = self.source_for(remote.ip()) else {
            return Poll::Ready(Err(SocketError::NoAddress(remote)));
        };
        let ip_header = if remote.is_ipv4() {
            smoltcp::wire::IPV4_HEADER_LEN
        } else {
            smoltcp::wire::IPV6_HEADER_LEN
        };
        let limit = self.config.mtu.saturating_sub(ip_header + UDP_HEADER_LEN);
        if payload.len() > limit {
            return Poll::Ready(Err(SocketError::TooLarge {
                size: payload.len(),
                limit,
            }));
        }
        if !self.device.has_room() {
            self.wait_for_room(context);
            return Poll::Pending;
        }
        self.device
            .send(datagram(SocketAddr::new(source, port), remote, payload));
        self.driver_due = true;
        Poll::Ready(Ok(payload.len()))
    }

    /// The next received datagram; what does not fit into `buffer` is cut off.
    pub(crate) fn poll_recv_from(
        &mut self,
        id: UdpId,
        context: &Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        let Some(socket) = self.datagrams.get_mut(&id) else {
            return Poll::Ready(Err(SocketError::Closed.into()));
        };
        let Some((remote, payload)) = socket.queue.pop_front() else {
            if !socket.waiters.iter().any(|waker| waker.will_wake(context.waker())) {
                socket.waiters.push(context.waker().clone());
            }
            return Poll::Pending;
        };
        socket.queued_bytes -= payload.len();
        let count = payload.len().min(buffer.len());
        buffer[..count].copy_from_slice(&payload[..count]);
        Poll::Ready(Ok((count, remote)))
    }

    /// False when no socket has the port.
    pub(super) fn handle_datagram(&mut self, tuple: FourTuple, payload: &[u8]) -> bool {
        let Some(socket) = self
            .bound
            .get(&tuple.local.port())
            .and_then(|id| self.datagrams.get_mut(id))
        else {
            return false;
        };
        if socket.queue.len() >= QUEUE_LEN || socket.queued_bytes + payload.len() > QUEUE_BYTES {
            self.metrics.dropped_datagrams += 1;
            return true;
        }
        socket.queued_bytes += payload.len();
        socket.queue.push_back((tuple.remote, payload.into()));
        self.wakeups.append(&mut socket.waiters);
        true
    }

    /// The waker is woken when the queue to the engine is half empty.
    pub(super) fn wait_for_room(&mut self, context: &Context<'_>) {
        if !self.room_waiters.iter().any(|waker| waker.will_wake(context.waker())) {
            self.room_waiters.push(context.waker().clone());
        }
    }
}

/// A whole IP packet around a payload. The caller checked that it fits.
fn datagram(local: SocketAddr, remote: SocketAddr, payload: &[u8]) -> PacketBuf {
    let (source, destination) = (local.ip().into(), remote.ip().into());
    let udp = UdpRepr {
        src_port: local.port(),
        dst_port: remote.port(),
    };
    let udp_len = UDP_HEADER_LEN + payload.len();
    let ip = IpRepr::new(source, destination, IpProtocol::Udp, udp_len, HOP_LIMIT);
    let checksums = ChecksumCapabilities::default();
    let mut packet = PacketBuf::zeroed(ip.buffer_len());
    ip.emit(&mut packet[..], &checksums);
    let mut body = UdpPacket::new_unchecked(&mut packet[ip.header_len()..]);
    udp.emit(
        &mut body,
        &source,
        &destination,
        payload.len(),
        |body| body.copy_from_slice(payload),
        &checksums,
    );
    packet
}

/// The local address that a socket reports: our first address, or unspecified before there is one.
pub(crate) fn reported_address(addresses: &[IpAddr], port: u16) -> SocketAddr {
    let first = addresses
        .first()
        .copied()
        .unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
    SocketAddr::new(first, port)
}
