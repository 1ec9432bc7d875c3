//! [`UdpSockets`]: one IPv4 and one IPv6 socket on one port, with GRO on receive and GSO on send (quinn-udp).
//!
//! Sockets won by port guessing stand beside them, each for the one address it has an open port towards. First and last
//! stop of a datagram. quinn-udp sets "don't fragment" throughout and falls back by itself where the
//! kernel refuses segmentation.

#[cfg_attr(target_os = "linux", path = "udp/buffers_linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "udp/buffers_other.rs")]
mod buffers;

use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::Poll;

use quinn_udp::{BATCH_SIZE, EcnCodepoint, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::or_never::or_never;
use crate::engine::SendBatch;

/// Asked for; the system's cap may be lower.
const SOCKET_BUFFER: usize = 7 << 20;
/// Sockets won by port guessing.
const MAX_WON: usize = 32;
const RECV_BUFFER: usize = 64 << 10;
/// Receive buffers a family: with GRO each holds dozens of datagrams.
const RECV_SLOTS: usize = if BATCH_SIZE < 4 { BATCH_SIZE } else { 4 };

struct Family {
    socket: UdpSocket,
    state: UdpSocketState,
}

/// See the module's text.
pub(crate) struct UdpSockets {
    v4: Family,
    v6: Option<Family>,
    /// Sockets for one address each, oldest first.
    won: Vec<(SocketAddr, Family)>,
    port: u16,
    buffers: [Vec<u8>; RECV_SLOTS],
    /// An address of each family whose socket took no more: IPv4, IPv6.
    full: [Option<SocketAddr>; 2],
    /// Segmented sends arrive as they were written.
    sound: bool,
}

impl UdpSockets {
    /// Opens both sockets on `port`, or on any free port when it is taken or 0. A system without IPv6 has one socket.
    pub(crate) fn bind(port: u16) -> io::Result<Self> {
        let v4 = match open(Domain::IPV4, port) {
            Err(error) if port != 0 && error.kind() == io::ErrorKind::AddrInUse => open(Domain::IPV4, 0)?,
            other => other?,
        };
        let port = v4.socket.local_addr()?.port();
        Ok(Self {
            v4,
            v6: open_v6(port),
            won: Vec::new(),
            port,
            buffers: std::array::from_fn(|_| vec![0; RECV_BUFFER]),
            full: [None; 2],
            sound: buffers::segments_soundly(),
        })
    }

    /// Opens the socket of a family that the system did not have before.
    pub(crate) fn open_missing(&mut self) {
        if self.v6.is_none() {
            self.v6 = open_v6(self.port);
        }
    }

    /// Opens the socket of a family anew, on the same port where it is still to be had.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn reopen(&mut self, v6: bool) -> io::Result<()> {
        let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
        let port = if v6 {
            self.port_v6().unwrap_or(self.port)
        } else {
            self.port
        };
        // The old one has to go before its port is free.
        let mut replace = |family| if v6 { self.v6 = Some(family) } else { self.v4 = family };
        replace(open(domain, 0)?);
        if let Ok(same) = open(domain, port) {
            replace(same);
        }
        self.port = self.v4.socket.local_addr()?.port();
        Ok(())
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

    /// From now on this socket alone carries what goes to `peer`.
    ///
    /// # Errors
    /// What the system says when its options are set.
    pub(crate) fn adopt(&mut self, peer: SocketAddr, socket: UdpSocket) -> io::Result<()> {
        buffers::enlarge(&socket2::SockRef::from(&socket), SOCKET_BUFFER);
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        self.won.retain(|(known, _)| *known != peer);
        if self.won.len() >= MAX_WON {
            self.won.remove(0);
        }
        self.won.push((peer, Family { socket, state }));
        Ok(())
    }

    /// Our network is another one: what was won in the old one is worth nothing.
    pub(crate) fn release_won(&mut self) {
        self.won.clear();
    }

    fn families(&self) -> impl Iterator<Item = &Family> {
        let won = self.won.iter().map(|(_, family)| family);
        std::iter::once(&self.v4).chain(&self.v6).chain(won)
    }

    /// Waits until one of the sockets has something to read.
    ///
    /// # Cancel safety
    /// Nothing is read here, so nothing is lost.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        poll_fn(|context| {
            let mut ready = self.families().map(|family| family.socket.poll_recv_ready(context));
            ready.find(Poll::is_ready).unwrap_or(Poll::Pending)
        })
        .await
    }

    /// Waits until a family that refused a batch takes datagrams again.
    ///
    /// # Cancel safety
    /// Nothing is written here.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        let [v4, v6] = self.full;
        tokio::select! {
            ready = self.writable_to(v4) => ready,
            ready = self.writable_to(v6) => ready,
        }
    }

    async fn writable_to(&self, to: Option<SocketAddr>) -> io::Result<()> {
        let family = to.and_then(|to| self.family(to));
        or_never(family.map(|family| family.socket.writable())).await
    }

    /// Reads what is there, at most one call a family, and gives what came from one source in one piece: the source, its
    /// ECN bits, the buffer, how many bytes of datagrams stand in it and how many each but the last has. Another buffer of
    /// that size may be left in its place. False when there is nothing more.
    pub(crate) fn receive(&mut self, mut handle: impl FnMut(SocketAddr, u8, &mut Vec<u8>, usize, usize)) -> bool {
        let mut any = false;
        let won = self.won.iter().map(|(_, family)| family);
        for family in std::iter::once(&self.v4).chain(&self.v6).chain(won) {
            let mut metas = [RecvMeta::default(); RECV_SLOTS];
            let mut slices = self.buffers.each_mut().map(|buffer| IoSliceMut::new(buffer));
            let mut count = 0;
            let more = family.socket.try_io(Interest::READABLE, || {
                let read = family
                    .state
                    .recv(UdpSockRef::from(&family.socket), &mut slices, &mut metas);
                match read {
                    Ok(read) => count = read,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => tracing::debug!(%error, "a receive failed"),
                }
                // Nothing, or one datagram where there was room for more: the socket is empty, and what comes later is
                // told anew. After an error the next arrival is waited for, too.
                let lone = count == 1 && BATCH_SIZE > 1 && metas.first().is_some_and(|meta| meta.len <= meta.stride);
                if count == 0 || lone {
                    Err(io::ErrorKind::WouldBlock.into())
                } else {
                    Ok(())
                }
            });
            any |= more.is_ok();
            for (meta, buffer) in metas.iter().zip(self.buffers.iter_mut()).take(count) {
                let stride = if meta.stride == 0 { meta.len.max(1) } else { meta.stride };
                let len = meta.len.min(buffer.len());
                let ecn = meta.ecn.map_or(0, |ecn| ecn as u8);
                handle(unmapped(meta.addr), ecn, buffer, len, stride);
            }
        }
        any
    }

    /// Sends what is left of a batch. True when all of it has left; false when the kernel's buffer is full: then
    /// [`Self::writable`] says when to go on.
    ///
    /// # Errors
    /// What the system says of the destination. What is left of the batch is of no use then.
    pub(crate) fn try_send(&mut self, to: SocketAddr, batch: &mut SendBatch) -> io::Result<bool> {
        self.full[usize::from(to.is_ipv6())] = None;
        while batch.count() > 0 {
            let Some(family) = self.family(to) else {
                return Err(io::Error::from(io::ErrorKind::NetworkUnreachable));
            };
            let segments = if self.sound { family.state.max_gso_segments() } else { 1 };
            let segments = segments.max(1).min(batch.count());
            let contents = batch.contents();
            let transmit = Transmit {
                destination: to,
                ecn: EcnCodepoint::from_bits(batch.ecn()),
                contents: &contents[..(segments * batch.stride()).min(contents.len())],
                segment_size: (segments > 1).then_some(batch.stride()),
                src_ip: None,
            };
            let sent = family.socket.try_io(Interest::WRITABLE, || {
                family.state.try_send(UdpSockRef::from(&family.socket), &transmit)
            });
            match sent {
                Ok(()) => batch.advance(segments),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.full[usize::from(to.is_ipv6())] = Some(to);
                    return Ok(false);
                }
                // Segmentation was refused, and quinn-udp has noted it: the next round goes out one by one.
                Err(_) if segments > 1 && family.state.max_gso_segments() < segments => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn family(&self, to: SocketAddr) -> Option<&Family> {
        if let Some((_, won)) = self.won.iter().find(|(peer, _)| *peer == to) {
            return Some(won);
        }
        if to.is_ipv4() { Some(&self.v4) } else { self.v6.as_ref() }
    }
}

/// The same number for both families where it is free; peers are told each address with its own port anyway.
fn open_v6(port: u16) -> Option<Family> {
    open(Domain::IPV6, port).or_else(|_| open(Domain::IPV6, 0)).ok()
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
    buffers::enlarge(&socket, SOCKET_BUFFER);
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
    use crate::engine::{SendQueue, Underlay};

    #[tokio::test]
    async fn batches_arrive_as_single_datagrams_in_order() {
        let mut sender = UdpSockets::bind(0).unwrap();
        let mut receiver = UdpSockets::bind(0).unwrap();
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, receiver.port()));
        let sizes = [100usize, 100, 100, 40, 100, 7];
        let mut queue = SendQueue::default();
        for (number, size) in sizes.iter().enumerate() {
            queue.push(Underlay::Udp(to), &vec![u8::try_from(number).unwrap(); *size]);
        }
        while let Some(batch) = queue.front() {
            while !sender.try_send(to, batch).unwrap() {
                sender.writable().await.unwrap();
            }
            queue.pop();
        }
        let mut got = Vec::new();
        while got.len() < sizes.len() {
            receiver.readable().await.unwrap();
            receiver.receive(|from, _, buffer, len, stride| {
                assert_eq!(from.port(), sender.port());
                got.extend(
                    buffer[..len]
                        .chunks(stride)
                        .map(|datagram| (usize::from(datagram[0]), datagram.len())),
                );
            });
        }
        let expected: Vec<_> = sizes.iter().copied().enumerate().collect();
        assert_eq!(got, expected);
    }
}
