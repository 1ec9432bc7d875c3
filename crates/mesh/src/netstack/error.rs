//! [`SocketError`]: why a socket operation failed, as a sentence and as the standard library's error kind.

use std::io;
use std::net::SocketAddr;

/// Why an operation on a mesh socket failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// The peer answered the first segment with a reset.
    #[error("connection refused: nothing listens on that port of the peer")]
    Refused,
    /// The peer reset an open connection.
    #[error("connection reset by the peer")]
    Reset,
    /// The peer stopped answering, or never did.
    #[error("the peer did not answer in time")]
    TimedOut,
    /// This node lost the address that the connection was bound to.
    #[error("this node no longer has the mesh address that the connection used; connect again")]
    AddressGone,
    /// The sending side was closed before.
    #[error("the connection is closed for sending")]
    Closed,
    /// This node has no address of the needed family.
    #[error("this node has no mesh address that could reach {0}")]
    NoAddress(SocketAddr),
    /// Another socket has the port.
    #[error("port {0} is already in use on this mesh node")]
    PortInUse(u16),
    /// All ports of the dynamic range are taken.
    #[error("no free port is left on this mesh node")]
    NoFreePort,
    /// Port 0, or an unspecified, loopback, multicast or broadcast address.
    #[error("{0} is not an address that can be reached over the mesh")]
    Unreachable(SocketAddr),
    /// Datagrams are never split over several packets.
    #[error("a datagram of {size} bytes does not fit into one mesh packet (at most {limit})")]
    TooLarge {
        /// Bytes that were to be sent.
        size: usize,
        /// Bytes that fit.
        limit: usize,
    },
    /// The bound on connections is reached.
    #[error("this mesh node already holds {0} connections, its limit")]
    TooMany(usize),
}

impl SocketError {
    /// The nearest kind of the standard library.
    #[must_use]
    pub const fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Refused => io::ErrorKind::ConnectionRefused,
            Self::Reset => io::ErrorKind::ConnectionReset,
            Self::TimedOut => io::ErrorKind::TimedOut,
            Self::AddressGone => io::ErrorKind::ConnectionAborted,
            Self::Closed => io::ErrorKind::BrokenPipe,
            Self::NoAddress(_) => io::ErrorKind::AddrNotAvailable,
            Self::PortInUse(_) => io::ErrorKind::AddrInUse,
            Self::NoFreePort | Self::TooMany(_) => io::ErrorKind::QuotaExceeded,
            Self::Unreachable(_) | Self::TooLarge { .. } => io::ErrorKind::InvalidInput,
        }
    }
}

impl From<SocketError> for io::Error {
    fn from(error: SocketError) -> Self {
        Self::new(error.kind(), error)
    }
}
