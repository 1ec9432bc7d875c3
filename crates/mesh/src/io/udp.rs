//! [`UdpSockets`]: one IPv4 and one IPv6 socket on one port, with GRO on receive and GSO on send (quinn-udp).
//!
//! First and last stop of a datagram. quinn-udp sets "don't fragment" throughout and falls back by itself where the
//! kernel refuses segmentation.

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Asked for; the system's cap may be lower.
const SOCKET_BUFFER: usize = 7 << 20;
const RECV_BUFFER: usize = 64 << 10;
/// Receive buffers a family: with GRO each holds dozens of datagrams.
const RECV_SLOTS: usize = if BATCH_SIZE < 4 { BATCH_SIZE } else { 4 };
/// Most bytes in one segmented send (UDP over IPv4).
const MAX_GSO_BYTES: usize = 65_000;

struct Family {
    socket: UdpSocket,
    state: UdpSocketState,
}

/// See the module's text.
pub(crate) struct UdpSockets {
    v4: Family,
    v6: Option<Family>,
    port: u16,
    batch: Batch,
    buffers: Vec<Vec<u8>>,
}

/// Datagrams that the kernel did not take.
#[derive(Debug)]
pub(crate) struct Unsent {
    pub(crate) to: SocketAddr,
    pub(crate) error: io::Error,
}

/// Datagrams of one size for one destination that go out in one call.
#[derive(Default)]
struct Batch {
    to: Option<SocketAddr>,
    segment: usize,
    count: usize,
    closed: bool,
    bytes: Vec<u8>,
}

impl UdpSockets {
    /// Opens both sockets on `port`, or on any free port when it is taken or 0. A system without IPv6 has one socket.
    pub(crate) fn bind(port: u16) -> io::Result<Self> {
        let v4 = match open(Domain::IPV4, port) {
            Err(error) if port != 0 && error.kind() == io::ErrorKind::AddrInUse => open(Domain::IPV4, 0)?,
            other => other?,
        };
        let port = v4.socket.local_addr()?.port();
        // The same number for both families where it is free; peers are told each address with its own port anyway.
        let v6 = open(Domain::IPV6, port).or_else(|_| open(Domain::IPV6, 0)).ok();
        let buffers = (0..RECV_SLOTS).map(|_| vec![0u8; RECV_BUFFER]).collect();
        Ok(Self {
            v4,
            v6,
            port,
            batch: Batch::default(),
            buffers,
        })
    }

    /// IPv4 port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// IPv6 port, where there is IPv6.
    pub(crate) fn port_v6(&self) -> Option<u16> {
        self.v6
            .as_ref()
            .and_then(|family| family.socket.local_addr().ok())
            .map(|addr| addr.port())
    }

    /// Waits until one of the sockets has something to read.
    ///
    /// # Cancel safety
    /// Nothing is read here, so nothing is lost.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match &self.v6 {
            Some(v6) => tokio::select! {
                ready = self.v4.socket.readable() => ready,
                ready = v6.socket.readable() => ready,
            },
            None => self.v4.socket.readable().await,
        }
    }

    /// Reads what is there, at most one call a family, and gives each datagram to `handle`.
    pub(crate) fn receive(&mut self, mut handle: impl FnMut(SocketAddr, &mut [u8])) {
        for family in [Some(&self.v4), self.v6.as_ref()].into_iter().flatten() {
            let mut metas = [RecvMeta::default(); RECV_SLOTS];
            let read = {
                let mut slices: Vec<IoSliceMut<'_>> = self.buffers.iter_mut().map(|buf| IoSliceMut::new(buf)).collect();
                family.socket.try_io(Interest::READABLE, || {
                    family
                        .state
                        .recv(UdpSockRef::from(&family.socket), &mut slices, &mut metas)
                })
            };
            let Ok(count) = read else { continue };
            for (meta, buffer) in metas.iter().zip(self.buffers.iter_mut()).take(count) {
                let from = unmapped(meta.addr);
                let stride = if meta.stride == 0 { meta.len.max(1) } else { meta.stride };
                for datagram in buffer[..meta.len].chunks_mut(stride) {
                    handle(from, datagram);
                }
            }
        }
    }

    /// Queues a datagram; it leaves with [`Self::flush`] at the latest. Waits while the kernel's buffer is full. An error
    /// is that of an earlier destination, which it names.
    pub(crate) async fn send(&mut self, to: SocketAddr, payload: &[u8]) -> Result<(), Unsent> {
        let fits = self.batch.to == Some(to)
            && !self.batch.closed
            && payload.len() <= self.batch.segment
            && self.batch.bytes.len() + payload.len() <= MAX_GSO_BYTES
            && self.batch.count < self.max_segments(to);
        let result = if fits { Ok(()) } else { self.flush().await };
        if self.batch.to.is_none() {
            self.batch.to = Some(to);
            self.batch.segment = payload.len();
        }
        self.batch.closed = payload.len() < self.batch.segment;
        self.batch.count += 1;
        self.batch.bytes.extend_from_slice(payload);
        result
    }

    /// Sends what is queued.
    pub(crate) async fn flush(&mut self) -> Result<(), Unsent> {
        let Some(to) = self.batch.to.take() else { return Ok(()) };
        let segment_size = (self.batch.count > 1).then_some(self.batch.segment);
        let bytes = std::mem::take(&mut self.batch.bytes);
        self.batch.count = 0;
        self.batch.closed = false;
        let result = self.send_now(to, &bytes, segment_size).await;
        self.batch.bytes = bytes;
        self.batch.bytes.clear();
        result.map_err(|error| Unsent { to, error })
    }

    async fn send_now(&self, to: SocketAddr, contents: &[u8], segment_size: Option<usize>) -> io::Result<()> {
        let Some(family) = self.family(to) else {
            return Err(io::Error::from(io::ErrorKind::NetworkUnreachable));
        };
        let transmit = Transmit {
            destination: to,
            ecn: None,
            contents,
            segment_size,
            src_ip: None,
        };
        loop {
            let sent = family.socket.try_io(Interest::WRITABLE, || {
                family.state.try_send(UdpSockRef::from(&family.socket), &transmit)
            });
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => family.socket.writable().await?,
                other => return other,
            }
        }
    }

    fn max_segments(&self, to: SocketAddr) -> usize {
        self.family(to).map_or(1, |family| family.state.max_gso_segments())
    }

    fn family(&self, to: SocketAddr) -> Option<&Family> {
        if to.is_ipv4() { Some(&self.v4) } else { self.v6.as_ref() }
    }
}

fn open(domain: Domain, port: u16) -> io::Result<Family> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    let addr = if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))
    } else {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
    };
    // Best effort: small buffers cost throughput, not correctness.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.bind(&addr.into())?;
    let socket = UdpSocket::from_std(socket.into())?;
    let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
    Ok(Family { socket, state })
}

fn unmapped(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

impl std::fmt::Debug for UdpSockets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "UdpSockets(port {})", self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn batches_arrive_as_single_datagrams_in_order() {
        let mut sender = UdpSockets::bind(0).unwrap();
        let mut receiver = UdpSockets::bind(0).unwrap();
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, receiver.port()));
        let sizes = [100usize, 100, 100, 40, 100, 7];
        for (number, size) in sizes.iter().enumerate() {
            sender
                .send(to, &vec![u8::try_from(number).unwrap(); *size])
                .await
                .unwrap();
        }
        sender.flush().await.unwrap();
        let mut got = Vec::new();
        while got.len() < sizes.len() {
            receiver.readable().await.unwrap();
            receiver.receive(|from, datagram| {
                assert_eq!(from.port(), sender.port());
                got.push((usize::from(datagram[0]), datagram.len()));
            });
        }
        let expected: Vec<_> = sizes.iter().copied().enumerate().collect();
        assert_eq!(got, expected);
    }
}
