//! [`UdpSocket`]: datagrams over the mesh.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::ReadBuf;

use super::claim;
use crate::netstack::{SharedStack, SocketError, UdpId, reported_address};

/// A UDP port of this node, on all its mesh addresses. Dropping it frees the port.
///
/// A datagram must fit into one packet of the mesh: at its MTU of 1280 that is 1252 bytes over IPv4, 1232 over IPv6.
#[derive(Debug)]
pub struct UdpSocket(Inner);

#[derive(Debug)]
enum Inner {
    Stack(StackSocket),
    Kernel(Vec<tokio::net::UdpSocket>),
}

/// Owns a UDP socket of the stack.
#[derive(Debug)]
struct StackSocket {
    stack: SharedStack,
    id: UdpId,
    port: u16,
}

impl UdpSocket {
    /// Sends one datagram; waits while packets cannot leave this node. Nobody tells whether it arrived.
    ///
    /// # Errors
    ///
    /// `InvalidInput` when it is too large or `remote` is no address of a peer, `AddrNotAvailable` when this node has no
    /// address of that family.
    ///
    /// # Cancel safety
    ///
    /// A dropped future has sent the datagram whole or not at all.
    pub async fn send_to(&self, payload: &[u8], remote: SocketAddr) -> io::Result<usize> {
        match &self.0 {
            Inner::Stack(socket) => {
                let sent = poll_fn(|context| socket.stack.lock().poll_send_to(socket.id, context, payload, remote));
                Ok(sent.await?)
            }
            Inner::Kernel(sockets) => {
                let of_family = |socket: &&tokio::net::UdpSocket| {
                    socket
                        .local_addr()
                        .is_ok_and(|local| local.is_ipv4() == remote.is_ipv4())
                };
                let socket = sockets.iter().find(of_family).ok_or(SocketError::NoAddress(remote))?;
                socket.send_to(payload, remote).await
            }
        }
    }

    /// Waits for a datagram: how long it is, and who it is from. What does not fit into `buffer` is cut off.
    ///
    /// # Errors
    ///
    /// Only over a kernel device: what the system says.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no datagram.
    pub async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        match &self.0 {
            Inner::Stack(socket) => {
                poll_fn(|context| socket.stack.lock().poll_recv_from(socket.id, context, buffer)).await
            }
            Inner::Kernel(sockets) => poll_fn(|context| recv_any(sockets, context, buffer)).await,
        }
    }

    /// The first mesh address of this node (unspecified before it has one), and the port.
    ///
    /// # Errors
    ///
    /// Only over a kernel device: what the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Inner::Stack(socket) => Ok(reported_address(socket.stack.lock().addresses(), socket.port)),
            Inner::Kernel(sockets) => sockets.first().ok_or_else(no_address)?.local_addr(),
        }
    }

    /// Binds on the stack; port 0 takes a free one.
    ///
    /// # Errors
    ///
    /// `AddrInUse`, or `QuotaExceeded` when no port is free; inside is a [`SocketError`].
    pub fn bind_userspace(stack: &SharedStack, port: u16) -> io::Result<Self> {
        let (id, port) = stack.lock().udp_bind(port)?;
        Ok(Self(Inner::Stack(StackSocket {
            stack: stack.clone(),
            id,
            port,
        })))
    }

    /// Binds kernel sockets, one for each of the mesh addresses; port 0 takes one that is free on all of them.
    ///
    /// # Errors
    ///
    /// `AddrNotAvailable` without an address, else what the system says.
    pub fn bind_kernel(addresses: &[IpAddr], port: u16) -> io::Result<Self> {
        let mut sockets = Vec::with_capacity(addresses.len());
        let mut port = port;
        for address in addresses {
            let bound = SocketAddr::new(*address, port);
            let socket = Socket::new(Domain::for_address(bound), Type::DGRAM, Some(Protocol::UDP))?;
            claim::claim(SockRef::from(&socket), *address)?;
            socket.bind(&bound.into())?;
            socket.set_nonblocking(true)?;
            let socket = std::net::UdpSocket::from(socket);
            port = socket.local_addr()?.port();
            sockets.push(tokio::net::UdpSocket::from_std(socket)?);
        }
        if sockets.is_empty() {
            return Err(no_address());
        }
        Ok(Self(Inner::Kernel(sockets)))
    }
}

impl Drop for StackSocket {
    fn drop(&mut self) {
        self.stack.lock().udp_close(self.id);
    }
}

fn recv_any(
    sockets: &[tokio::net::UdpSocket],
    context: &mut Context<'_>,
    buffer: &mut [u8],
) -> Poll<io::Result<(usize, SocketAddr)>> {
    for socket in sockets {
        let mut read = ReadBuf::new(buffer);
        if let Poll::Ready(received) = socket.poll_recv_from(context, &mut read) {
            return Poll::Ready(received.map(|remote| (read.filled().len(), remote)));
        }
    }
    Poll::Pending
}

fn no_address() -> io::Error {
    io::Error::new(
        io::ErrorKind::AddrNotAvailable,
        "this node has no mesh address to bind to yet",
    )
}
