//! [`TcpListener`]: a port of this node, on all its mesh addresses.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};

use super::TcpStream;
use crate::net::claim;
use crate::netstack::{ListenerId, SharedStack, SocketError, reported_address};

/// Connections that may wait to be accepted; further ones are asked to come again by silence.
const BACKLOG: u16 = 1024;

/// Takes connections of peers. Dropping it frees the port and resets what nobody accepted.
#[derive(Debug)]
pub struct TcpListener(Inner);

#[derive(Debug)]
enum Inner {
    Stack(StackListener),
    Kernel(Vec<tokio::net::TcpListener>),
}

/// Owns a listener of the stack.
#[derive(Debug)]
struct StackListener {
    stack: SharedStack,
    id: ListenerId,
    port: u16,
}

impl TcpListener {
    /// Waits for the next connection: the stream, and who it is from. Several tasks may wait at once.
    ///
    /// # Errors
    ///
    /// Over a kernel device what the system says (a connection that broke before it was taken: try again); over the
    /// stack never, as long as the listener lives.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no connection.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        poll_fn(|context| self.poll_accept(context)).await
    }

    /// The first mesh address of this node (unspecified before it has one), and the port.
    ///
    /// # Errors
    ///
    /// Only over a kernel device: what the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Inner::Stack(listener) => Ok(reported_address(listener.stack.lock().addresses(), listener.port)),
            Inner::Kernel(listeners) => listeners.first().ok_or_else(no_address)?.local_addr(),
        }
    }

    /// The port.
    ///
    /// # Errors
    ///
    /// As [`local_addr`](Self::local_addr).
    pub fn port(&self) -> io::Result<u16> {
        self.local_addr().map(|address| address.port())
    }

    /// Polls for the next connection, see [`accept`](Self::accept).
    ///
    /// # Errors
    ///
    /// As [`accept`](Self::accept).
    pub fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        match &self.0 {
            Inner::Stack(listener) => {
                let mut stack = listener.stack.lock();
                let Some(id) = std::task::ready!(stack.poll_accept(listener.id, context)) else {
                    return Poll::Ready(Err(SocketError::Closed.into()));
                };
                let Some((local, remote)) = stack.tcp_addresses(id) else {
                    return Poll::Ready(Err(SocketError::Reset.into()));
                };
                drop(stack);
                Poll::Ready(Ok((TcpStream::accepted(&listener.stack, id, local, remote), remote)))
            }
            Inner::Kernel(listeners) => {
                for listener in listeners {
                    if let Poll::Ready(accepted) = listener.poll_accept(context) {
                        let accepted = accepted
                            .and_then(|(stream, remote)| TcpStream::from_kernel(stream).map(|stream| (stream, remote)));
                        return Poll::Ready(accepted);
                    }
                }
                Poll::Pending
            }
        }
    }

    /// Listens on the stack; port 0 takes a free one.
    ///
    /// # Errors
    ///
    /// `AddrInUse`, or `QuotaExceeded` when no port is free; inside is a [`SocketError`].
    pub fn bind_userspace(stack: &SharedStack, port: u16) -> io::Result<Self> {
        let (id, port) = stack.lock().tcp_listen(port, usize::from(BACKLOG))?;
        Ok(Self(Inner::Stack(StackListener {
            stack: stack.clone(),
            id,
            port,
        })))
    }

    /// Listens on kernel sockets, one for each of the mesh addresses; port 0 takes one that is free on all of them.
    ///
    /// # Errors
    ///
    /// `AddrNotAvailable` without an address, else what the system says.
    pub fn bind_kernel(addresses: &[IpAddr], port: u16) -> io::Result<Self> {
        let mut listeners: Vec<tokio::net::TcpListener> = Vec::with_capacity(addresses.len());
        let mut port = port;
        for address in addresses {
            let socket = match address {
                IpAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
                IpAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
            };
            #[cfg(unix)]
            socket.set_reuseaddr(true)?;
            claim::claim(socket2::SockRef::from(&socket), *address)?;
            socket.bind(SocketAddr::new(*address, port))?;
            let listener = socket.listen(u32::from(BACKLOG))?;
            port = listener.local_addr()?.port();
            listeners.push(listener);
        }
        if listeners.is_empty() {
            return Err(no_address());
        }
        Ok(Self(Inner::Kernel(listeners)))
    }
}

impl Drop for StackListener {
    fn drop(&mut self) {
        self.stack.lock().tcp_unlisten(self.id);
    }
}

fn no_address() -> io::Error {
    io::Error::new(
        io::ErrorKind::AddrNotAvailable,
        "this node has no mesh address to listen on yet",
    )
}
