//! [`TcpStream`]: one TCP connection over the mesh.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::netstack::{ConnectionId, SharedStack};

/// A connection to a peer.
///
/// Writes return when the bytes are buffered and wait while the buffer is full; flushing has nothing to wait for.
/// `shutdown` sends FIN and leaves the other direction open. Dropping the stream says goodbye in the background: what
/// was written is still delivered, within half a minute of the peer's last sign of life; if received bytes were left
/// unread, the peer gets a reset instead.
#[derive(Debug)]
pub struct TcpStream(Inner);

#[derive(Debug)]
enum Inner {
    Stack(StackStream),
    Kernel(tokio::net::TcpStream),
}

/// Owns a connection of the stack.
#[derive(Debug)]
struct StackStream {
    stack: SharedStack,
    id: ConnectionId,
    local: SocketAddr,
    remote: SocketAddr,
}

impl TcpStream {
    /// Our end.
    ///
    /// # Errors
    ///
    /// Only over a kernel device: what the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Inner::Stack(stream) => Ok(stream.local),
            Inner::Kernel(stream) => stream.local_addr(),
        }
    }

    /// The peer's end.
    ///
    /// # Errors
    ///
    /// Only over a kernel device: what the system says.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Inner::Stack(stream) => Ok(stream.remote),
            Inner::Kernel(stream) => stream.peer_addr(),
        }
    }

    /// Connects through the stack. It gives up by itself after the stack's `connect_timeout`; dropping the future gives
    /// up at once. `local` chooses between the addresses of this node; one that it does not have counts as any.
    ///
    /// # Errors
    ///
    /// The kinds `ConnectionRefused`, `TimedOut`, `AddrNotAvailable` (no mesh address of that family), `InvalidInput` (not
    /// the address of a peer), `QuotaExceeded`; inside is a [`SocketError`](crate::netstack::SocketError).
    pub async fn connect_userspace(stack: &SharedStack, local: IpAddr, remote: SocketAddr) -> io::Result<Self> {
        let stream = {
            let mut locked = stack.lock();
            let id = locked.tcp_connect(Some(local), remote)?;
            let (local, remote) = locked.tcp_addresses(id).unwrap_or((remote, remote));
            StackStream {
                stack: stack.clone(),
                id,
                local,
                remote,
            }
        };
        poll_fn(|context| stream.stack.lock().poll_connected(stream.id, context)).await?;
        Ok(Self(Inner::Stack(stream)))
    }

    /// Connects through the kernel, from a mesh address.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub async fn connect_kernel(local: IpAddr, remote: SocketAddr) -> io::Result<Self> {
        let socket = match local {
            IpAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
            IpAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
        };
        socket.bind(SocketAddr::new(local, 0))?;
        socket.connect(remote).await.and_then(Self::from_kernel)
    }

    /// A connection that a listener of the stack accepted.
    pub(super) fn accepted(stack: &SharedStack, id: ConnectionId, local: SocketAddr, remote: SocketAddr) -> Self {
        Self(Inner::Stack(StackStream {
            stack: stack.clone(),
            id,
            local,
            remote,
        }))
    }

    pub(super) fn from_kernel(stream: tokio::net::TcpStream) -> io::Result<Self> {
        // As over the stack: small messages leave at once.
        stream.set_nodelay(true)?;
        Ok(Self(Inner::Kernel(stream)))
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Inner::Stack(stream) => {
                let result = stream
                    .stack
                    .lock()
                    .poll_read(stream.id, context, buffer.initialize_unfilled());
                result.map_ok(|count| buffer.advance(count))
            }
            Inner::Kernel(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Inner::Stack(stream) => stream.stack.lock().poll_write(stream.id, context, bytes),
            Inner::Kernel(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Inner::Stack(_) => Poll::Ready(Ok(())),
            Inner::Kernel(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Inner::Stack(stream) => {
                stream.stack.lock().tcp_shutdown(stream.id);
                Poll::Ready(Ok(()))
            }
            Inner::Kernel(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

impl Drop for StackStream {
    fn drop(&mut self) {
        self.stack.lock().tcp_release(self.id);
    }
}
