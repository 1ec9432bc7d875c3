//! Who is measured: our node or tailscaled, started and stopped in the same way.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use crate::lab::{
    Device, Host, MeshPeer, MeshPeerOptions, Process, Role, Sandd, SanddOptions, SanddPath, TailscalePath, Tailscaled,
    TailscaledOptions, eventually, forget_state,
};

/// A program that can be a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Contestant {
    /// Ours.
    Sandd,
    /// Tailscale's.
    Tailscaled,
    /// The mesh inside a program of a few lines.
    Embedded,
}

/// How a node is started.
#[derive(Debug, Clone, Copy)]
pub struct NodeOptions<'a> {
    /// Interface or none.
    pub device: Device,
    /// The coordinator.
    pub server: &'a str,
    /// Given at a first join only.
    pub key: Option<&'a str>,
    /// Its UDP port, when not the usual one.
    pub port: Option<u16>,
    /// More arguments of `sandd`.
    pub arguments: &'a [String],
}

impl<'a> NodeOptions<'a> {
    /// A node with a kernel interface that joins `server`.
    #[must_use]
    pub fn new(server: &'a str, key: Option<&'a str>) -> Self {
        Self {
            device: Device::Tun,
            server,
            key,
            port: None,
            arguments: &[],
        }
    }
}

/// A node under measurement; it ends when dropped.
#[derive(Debug)]
pub enum Running<'lab> {
    /// Ours.
    Sandd(Sandd<'lab>),
    /// Tailscale's.
    Tailscaled(Tailscaled<'lab>),
    /// The mesh inside a program.
    Embedded(MeshPeer),
}

/// Which way a node says it reaches a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathSeen {
    /// Straight to this address.
    Direct(SocketAddr),
    /// Through a relay.
    Relayed,
    /// It has none, or says nothing of it.
    None,
}

impl Contestant {
    /// Starts it on `host`.
    pub fn start<'lab>(self, host: &'lab Host, options: &NodeOptions<'_>) -> Result<Running<'lab>> {
        match self {
            Self::Sandd => {
                let mut started = SanddOptions::new(options.server, options.key);
                started.device = options.device;
                started.arguments.extend_from_slice(options.arguments);
                if let Some(port) = options.port {
                    started.arguments.push(format!("--tunnel-port={port}"));
                }
                Ok(Running::Sandd(Sandd::spawn(host, Role::Node, &started)?))
            }
            Self::Tailscaled => {
                let usual = TailscaledOptions::default();
                let node = Tailscaled::spawn(
                    host,
                    &TailscaledOptions {
                        device: options.device,
                        port: options.port.unwrap_or(usual.port),
                        ..usual
                    },
                )?;
                if let Some(key) = options.key {
                    node.up(options.server, key)?;
                }
                Ok(Running::Tailscaled(node))
            }
            Self::Embedded => {
                let options = MeshPeerOptions {
                    server: options.server.to_owned(),
                    key: options.key.map(str::to_owned),
                    device: options.device,
                    keeps_state: true,
                };
                Ok(Running::Embedded(MeshPeer::spawn(host, &options, &["hold"])?))
            }
        }
    }

    /// Makes `host` a machine on which it never ran.
    pub fn forget(self, host: &Host) -> Result<()> {
        match self {
            Self::Sandd => forget_state(host, Role::Node),
            Self::Tailscaled => remove(&host.directory().join(format!("tailscaled-{}", host.name()))),
            Self::Embedded => remove(&MeshPeer::state_directory(host)),
        }
    }
}

impl Running<'_> {
    /// Which way it says that it reaches the peer with that mesh address.
    pub fn path(&self, peer: Ipv4Addr) -> Result<PathSeen> {
        match self {
            Self::Sandd(node) => Ok(match node.direct_address(peer) {
                Ok(address) => PathSeen::Direct(address),
                Err(_) if matches!(node.path(peer), Ok(SanddPath::Relayed)) => PathSeen::Relayed,
                Err(_) => PathSeen::None,
            }),
            Self::Tailscaled(node) => Ok(match node.path(peer)? {
                Some(TailscalePath::Direct(address)) => PathSeen::Direct(address),
                Some(TailscalePath::Relayed) => PathSeen::Relayed,
                None => PathSeen::None,
            }),
            Self::Embedded(_) => bail!("its answers are in its log"),
        }
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> &Process {
        match self {
            Self::Sandd(node) => node.process(),
            Self::Tailscaled(node) => node.process(),
            Self::Embedded(node) => node.process(),
        }
    }

    /// The moment at which its process was started.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.process().started()
    }

    /// Waits for its IPv4 address in the mesh.
    pub fn address(&mut self) -> Result<Ipv4Addr> {
        eventually(
            "an address in the mesh",
            std::time::Duration::from_secs(20),
            || match self {
                Self::Sandd(node) => node.address(),
                Self::Tailscaled(node) => node.address(),
                Self::Embedded(node) => node.address(),
            },
        )
    }

    /// Stops it as a service manager would.
    pub fn stop(self) -> Result<()> {
        match self {
            Self::Sandd(node) => node.stop(),
            Self::Tailscaled(node) => node.stop(),
            Self::Embedded(node) => node.stop(),
        }
    }
}

fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} could not be removed", directory.display()))
        }
        _ => Ok(()),
    }
}
