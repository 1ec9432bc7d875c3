//! What can go wrong for whoever runs a coordinator. What a node is refused with is text on the wire instead.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a coordinator did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The TCP address cannot be had.
    #[error("cannot listen on {address}: give another address, or stop what uses it")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The UDP address cannot be had.
    #[error("cannot open the STUN socket on {address}: give another address, or turn STUN off")]
    Stun {
        /// The address asked for.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The URL given is not one that nodes could use.
    #[error("`{url}` is no url for nodes: write http://host:port or https://host:port")]
    Url {
        /// The text.
        url: String,
    },
    /// The certificate or its key is of no use.
    #[error("cannot use the certificate: {reason}")]
    Certificate {
        /// What is wrong with it.
        reason: String,
    },
    /// The state file is of no use.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The policy is of no use.
    #[error(transparent)]
    Policy(#[from] crate::policy::PolicyError),
    /// The plain WireGuard peers are of no use.
    #[error("the WireGuard peers: {0}")]
    WireGuardPeers(#[source] crate::membership::WireGuardPeersError),
}

/// What can be wrong with the state file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Others may read it.
    #[error("{path} is open to others (mode {mode:o}), and it holds private keys: run `chmod 600 {path}`", path = .path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Not a regular file.
    #[error("{path} is no regular file", path = .path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Another process holds it.
    #[error("{path} is in use by another coordinator{holder}: stop it, or choose another file", path = .path.display(), holder = .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    InUse {
        /// The file.
        path: PathBuf,
        /// Who holds it, where that is known.
        pid: Option<u32>,
    },
    /// Opening or creating failed.
    #[error("cannot open {path}", path = .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is in it cannot be read.
    #[error("{path} cannot be read as a coordinator's state: restore it from a copy, or start with a new file and new keys", path = .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A later version wrote it.
    #[error("{path} was written by a later version (schema {found}): use that version", path = .path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its schema number.
        found: i64,
    },
    /// Writing failed; nothing is acknowledged until it works again.
    #[error("cannot write the state file: {reason}")]
    Write {
        /// Why.
        reason: String,
    },
    /// The coordinator has been shut down.
    #[error("the coordinator has stopped")]
    Stopped,
}
