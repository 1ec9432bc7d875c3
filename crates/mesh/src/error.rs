//! One error type for each thing an embedder asks of a node.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use sandd_control_client::{ControlError, dial::DialError};

/// Why a node could not join.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The coordinator refused, or cannot be spoken to.
    #[error("{0}")]
    Control(#[source] Arc<ControlError>),
    /// TLS roots cannot be read.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] DialError),
    /// No UDP socket.
    #[error("cannot open the mesh's UDP socket on port {port}: {source}; give --tunnel-port another port")]
    Udp {
        /// Port asked for.
        port: u16,
        /// Cause.
        source: io::Error,
    },
    /// The relay server for peers cannot be started.
    #[error("cannot carry for peers on UDP port {port}: {source}; give --peer-relay-port a free port")]
    PeerRelay {
        /// Port asked for.
        port: u16,
        /// Cause.
        source: io::Error,
    },
    /// The data plane's thread cannot be started.
    #[error("cannot start the mesh's thread: {0}; the system's limit of processes or files is likely reached")]
    Thread(io::Error),
    /// The TUN device cannot be made.
    #[error("{0}")]
    Tun(io::Error),
    /// The coordinator told the node that it has tailnet lock.
    #[error("tailnet lock is on in this tailnet and is not supported: ask its owner for a tailnet without it")]
    TailnetLock,
    /// The node was stopped while it joined.
    #[error("the node was stopped while it joined")]
    Stopped,
}

/// Why a connection over the mesh failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Nothing on the mesh has this name or address.
    #[error("no node of the mesh has the name or address `{0}`; `sandd status` lists them")]
    NoSuchPeer(String),
    /// The node has no address of that family.
    #[error("this node has no mesh address of the family of {0}")]
    NoAddress(IpAddr),
    /// The peer answered that nothing listens there.
    #[error("connection refused by {peer}: nothing listens on that port")]
    Refused {
        /// Name or address and port.
        peer: String,
    },
    /// No answer.
    #[error("no answer from {peer} in time; `sandd ping` tells whether it can be reached")]
    TimedOut {
        /// Name or address and port.
        peer: String,
    },
    /// Anything else.
    #[error("connection to {peer} failed: {source}")]
    Io {
        /// Name or address and port.
        peer: String,
        /// Cause.
        source: io::Error,
    },
    /// The node has stopped.
    #[error(transparent)]
    Stopped(#[from] MeshStopped),
}

impl ConnectError {
    pub(crate) fn from_io(peer: String, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::ConnectionRefused {
            Self::Refused { peer }
        } else if source.kind() == io::ErrorKind::TimedOut {
            Self::TimedOut { peer }
        } else {
            Self::Io { peer, source }
        }
    }
}

/// Why a port cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The port is taken, or the device refuses.
    #[error("cannot listen on port {port} of the mesh address: {source}")]
    Io {
        /// Port.
        port: u16,
        /// Cause.
        source: io::Error,
    },
    /// The node has no address yet.
    #[error("this node has no mesh address yet")]
    NoAddress,
    /// The node has stopped.
    #[error(transparent)]
    Stopped(#[from] MeshStopped),
}

/// Why a ping brought nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PingError {
    /// Nothing on the mesh has this name or address.
    #[error("no node of the mesh has the name or address `{0}`; `sandd status` lists them")]
    NoSuchPeer(String),
    /// No answer.
    #[error("no answer from {peer} within {waited_ms} ms ({path})")]
    TimedOut {
        /// Name.
        peer: String,
        /// How long.
        waited_ms: u128,
        /// The path tried.
        path: String,
    },
    /// The node has stopped.
    #[error(transparent)]
    Stopped(#[from] MeshStopped),
}

/// The node has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this mesh node has stopped")]
pub struct MeshStopped;
