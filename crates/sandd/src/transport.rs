//! How bytes get from a daemon to its controller: over the host's own network or through the mesh.
//!
//! Everything above this module sees a [`ByteStream`] and does not know which of the two it is. [`direct`] dials TCP and,
//! for `wss`, TLS; [`tunnel`] dials and listens inside the mesh; [`websocket`] puts `sandd.v1` messages on either.

pub mod direct;
pub mod server_url;
pub mod tunnel;
pub mod websocket;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

pub use direct::{DirectDialer, TlsFiles};
pub use server_url::{ServerUrl, ServerUrlError};

/// Time for TCP, TLS and the WebSocket upgrade together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Anything that carries bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send + std::fmt::Debug {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + std::fmt::Debug> Duplex for T {}

/// A connection of either kind.
pub type ByteStream = Box<dyn Duplex>;

/// Why a connection could not be made or accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// No TCP connection.
    #[error("cannot connect to {to}: {source}")]
    Connect {
        /// Host and port.
        to: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// No TCP connection over the mesh.
    #[error("cannot connect to {to} over the mesh: {source}")]
    Mesh {
        /// Host and port.
        to: String,
        /// What the mesh said.
        source: sandd_mesh::ConnectError,
    },
    /// The mesh address cannot be listened on.
    #[error("{source}")]
    MeshListen {
        /// What the mesh said.
        source: sandd_mesh::ListenError,
    },
    /// TCP is there, TLS is not.
    #[error("TLS with {to} failed: {source}")]
    Tls {
        /// Host and port.
        to: String,
        /// What went wrong.
        source: std::io::Error,
    },
    /// Certificates or keys that cannot be used.
    #[error("{path}: {reason}")]
    Certificates {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// TCP (and TLS) is there, the WebSocket upgrade is not.
    #[error("WebSocket upgrade refused by {to}: {reason}")]
    Upgrade {
        /// Host and port.
        to: String,
        /// What the server answered.
        reason: String,
    },
    /// Nothing went wrong, but it took too long.
    #[error("{step} with {to} took longer than 10 s")]
    TimedOut {
        /// What was being done.
        step: &'static str,
        /// Host and port.
        to: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {at}: {source}")]
    Listen {
        /// Host and port.
        at: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Makes connections of one kind.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Transport {
    /// The host's own network.
    Direct(DirectDialer),
    /// Through the mesh.
    Tunnel(tunnel::MeshDialer),
}

impl Transport {
    /// Connects to the controller, up to the byte stream that the WebSocket upgrade goes over.
    ///
    /// # Errors
    /// [`TransportError`], which names the step that failed.
    pub async fn dial(&self, url: &ServerUrl) -> Result<ByteStream, TransportError> {
        match self {
            Self::Direct(dialer) => dialer.dial(url).await,
            Self::Tunnel(dialer) => dialer.dial(url).await,
        }
    }
}

/// Takes connections of one kind.
#[derive(Debug)]
#[non_exhaustive]
pub enum Listener {
    /// The host's own network, with or without TLS.
    Direct(direct::DirectListener),
    /// The mesh addresses of a node.
    Tunnel(tunnel::MeshListener),
}

impl Listener {
    /// The next connection and where it comes from. TLS, if any, is still to be done: see [`Accepted::secure`].
    ///
    /// # Errors
    /// What the system said; the listener may be asked again.
    pub async fn accept(&self) -> std::io::Result<(Accepted, SocketAddr)> {
        match self {
            Self::Direct(listener) => listener.accept().await,
            Self::Tunnel(listener) => {
                let (stream, from) = listener.accept().await?;
                Ok((Accepted::Tunnel(stream), from))
            }
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        match self {
            Self::Direct(listener) => listener.local_addr(),
            Self::Tunnel(listener) => listener.local_addr(),
        }
    }
}

/// An accepted connection before its TLS handshake, which must not hold up the next accept.
#[derive(Debug)]
#[non_exhaustive]
pub enum Accepted {
    /// The host's own network.
    Direct(direct::DirectAccepted),
    /// The mesh, which is encrypted already.
    Tunnel(ByteStream),
}

impl Accepted {
    /// Does the TLS handshake where there is one.
    ///
    /// # Errors
    /// What TLS said.
    pub async fn secure(self) -> std::io::Result<ByteStream> {
        match self {
            Self::Direct(accepted) => accepted.secure().await,
            Self::Tunnel(stream) => Ok(stream),
        }
    }
}
