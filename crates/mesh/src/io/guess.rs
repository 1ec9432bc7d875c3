//! The sockets of port guessing: many, for seconds, each opening one port of a hard NAT towards one address.
//!
//! The pure half is `engine/guess.rs`. What arrives here is shown to the engine; the socket at which the right peer knocks
//! becomes one of [`UdpSockets`](super::udp::UdpSockets), the others close.

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::task::Poll;
use std::time::Duration;

use tokio::net::UdpSocket;

use super::or_never::or_never;
use crate::engine::OpenGuess;

/// Sockets of one attempt. Fewer where the system allows no more.
const SOCKETS: usize = 256;
/// A lost opening packet is sent again after this.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// More than a disco ping is nothing that we wait for.
const MAX_DATAGRAM: usize = 2_048;

/// See the module's text.
pub(crate) struct GuessSockets {
    sockets: Vec<UdpSocket>,
    order: OpenGuess,
    again: Option<tokio::time::Instant>,
}

/// A datagram, the socket it came to, and where from.
pub(crate) struct Knock {
    pub(crate) at: usize,
    pub(crate) from: SocketAddr,
    pub(crate) datagram: Vec<u8>,
}

impl GuessSockets {
    /// Opens them and sends what opens the NAT's ports.
    pub(crate) fn open(order: OpenGuess) -> Self {
        let mut sockets = Vec::with_capacity(SOCKETS);
        for _ in 0..SOCKETS {
            match bind(&order) {
                Ok(socket) => sockets.push(socket),
                Err(error) => {
                    tracing::debug!(%error, opened = sockets.len(), "fewer sockets for port guessing");
                    break;
                }
            }
        }
        tracing::debug!(to = %order.to, sockets = sockets.len(), "guessing ports with a peer");
        Self {
            sockets,
            order,
            again: Some(tokio::time::Instant::now() + AGAIN_AFTER),
        }
    }

    fn knock(&self) {
        for socket in &self.sockets {
            // A full buffer or an unreachable network costs one chance.
            let _ = socket.try_send_to(&self.order.datagram, self.order.to);
        }
    }

    /// The next datagram that came to any of them.
    ///
    /// # Cancel safety
    /// What is read is returned at once: nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Knock {
        loop {
            tokio::select! {
                () = or_never(self.again.map(tokio::time::sleep_until)) => {
                    self.again = None;
                    self.knock();
                }
                at = self.readable() => {
                    let mut datagram = vec![0; MAX_DATAGRAM];
                    if let Some(socket) = self.sockets.get(at)
                        && let Ok((len, from)) = socket.try_recv_from(&mut datagram)
                    {
                        datagram.truncate(len);
                        return Knock { at, from, datagram };
                    }
                }
            }
        }
    }

    async fn readable(&self) -> usize {
        poll_fn(|context| {
            let ready = self
                .sockets
                .iter()
                .position(|socket| socket.poll_recv_ready(context).is_ready());
            ready.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Takes one out; the others close.
    pub(crate) fn take(mut self, at: usize) -> UdpSocket {
        self.sockets.swap_remove(at)
    }
}

/// A socket whose opening packet has left: tokio would not send before it has seen the socket writable.
fn bind(order: &OpenGuess) -> std::io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_nonblocking(true)?;
    // A full buffer or an unreachable network costs one chance.
    let _ = socket.send_to(&order.datagram, order.to);
    UdpSocket::from_std(socket)
}
