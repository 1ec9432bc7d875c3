//! [`DialError`]: why a connection did not come to be.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a connection did not come to be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The CA file cannot be used.
    #[error("ca file {} cannot be used: give a file with PEM certificates", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No roots to verify against.
    #[error("no trusted roots: the system has none that can be read, give a ca file or set SSL_CERT_FILE")]
    NoRoots,
    /// The name did not resolve.
    #[error("cannot resolve {host}")]
    Resolve {
        /// The name.
        host: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The name has no address.
    #[error("{host} has no address")]
    NoAddress {
        /// The name.
        host: String,
    },
    /// No address accepted the connection; the last refusal.
    #[error("cannot connect to {address}")]
    Connect {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No address answered; a firewall drops what goes there, or nothing is there.
    #[error("no answer from {host} to tcp within 4 seconds")]
    Unanswered {
        /// The host dialled.
        host: String,
    },
    /// The proxy of the environment refuses.
    #[error("the proxy {proxy} answered {status}: {text}")]
    Proxy {
        /// The proxy.
        proxy: String,
        /// HTTP status.
        status: u16,
        /// Beginning of the body, without control characters.
        text: String,
    },
    /// TLS failed: most often the certificate.
    #[error("tls with {host} failed: {source}")]
    Tls {
        /// The host dialled.
        host: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A name that no certificate can have.
    #[error("{name} is not a valid host name")]
    Name {
        /// The name.
        name: String,
    },
    /// The ten seconds are over.
    #[error("no connection to {host} within 10 seconds")]
    TimedOut {
        /// The host dialled.
        host: String,
    },
    /// The connection broke or closed.
    #[error("connection broke during the http exchange")]
    Io(#[source] io::Error),
    /// Not HTTP, or more of it than is sensible.
    #[error("server answered something that is not http: {0}")]
    NotHttp(&'static str),
    /// The server answers, but does not upgrade.
    #[error("server answered {status} instead of switching protocols: {text}")]
    Status {
        /// HTTP status.
        status: u16,
        /// Beginning of the body, without control characters.
        text: String,
    },
}

impl DialError {
    /// Somebody answered in TLS, but with a certificate that does not prove the right one.
    #[must_use]
    pub fn is_certificate(&self) -> bool {
        let Self::Tls { source, .. } = self else { return false };
        let cause = source.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        matches!(cause, Some(rustls::Error::InvalidCertificate(_)))
    }
}
