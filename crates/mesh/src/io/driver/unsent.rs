//! What the kernel says when it does not take a datagram: of the destination, of the size, or of the socket itself.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use super::Driver;

/// Datagrams that the kernel did not take.
#[derive(Debug)]
pub(super) struct Unsent {
    pub(super) to: SocketAddr,
    pub(super) datagram: usize,
    pub(super) error: io::Error,
}

impl Driver {
    /// A destination that the kernel cannot reach is news for the peer's path.
    pub(super) fn note_unsent(&mut self, unsent: Vec<Unsent>, now: Instant) {
        for Unsent { to, datagram, error } in unsent {
            tracing::trace!(%error, %to, "datagrams not sent");
            if matches!(
                error.kind(),
                io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable
            ) {
                self.engine.handle_unreachable(to, now);
            } else if too_big(&error) {
                self.engine.handle_too_big(to, datagram, now);
            } else if unusable(&error) {
                self.reopen(to.is_ipv6(), now);
            }
        }
    }
}

/// `EMSGSIZE`, which the standard library has no stable name for.
fn too_big(error: &io::Error) -> bool {
    const EMSGSIZE: i32 = if cfg!(target_os = "linux") {
        90
    } else if cfg!(windows) {
        10_040
    } else {
        40
    };
    error.raw_os_error() == Some(EMSGSIZE)
}

/// The socket itself is of no use any more: `EPIPE`, `ENOTCONN`, `ENODEV`.
fn unusable(error: &io::Error) -> bool {
    const ENODEV: i32 = 19;
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected)
        || (cfg!(unix) && error.raw_os_error() == Some(ENODEV))
}
