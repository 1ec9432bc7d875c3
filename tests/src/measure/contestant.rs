//! Who is measured: our node or tailscaled, started and stopped in the same way.

use std::{fs, net::Ipv4Addr, path::Path, time::Instant};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::lab::{
    Device, Host, MeshPeer, MeshPeerOptions, Process, Role, Sandd, SanddOptions, Tailscaled, TailscaledOptions,
    eventually, forget_state,
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

/// A node under measurement; it ends when dropped.
#[derive(Debug)]
pub(crate) enum Running<'lab> {
    Sandd(Sandd<'lab>),
    Tailscaled(Tailscaled<'lab>),
    Embedded(MeshPeer),
}

impl Contestant {
    /// Starts it on `host`; `key` is given at a first join only.
    pub(crate) fn start<'lab>(
        self,
        host: &'lab Host,
        device: Device,
        server: &str,
        key: Option<&str>,
    ) -> Result<Running<'lab>> {
        match self {
            Self::Sandd => {
                let mut options = SanddOptions::new(server, key);
                options.device = device;
                Ok(Running::Sandd(Sandd::spawn(host, Role::Node, &options)?))
            }
            Self::Tailscaled => {
                let node = Tailscaled::spawn(
                    host,
                    &TailscaledOptions {
                        device,
                        accept_dns: false,
                        mtu: None,
                    },
                )?;
                if let Some(key) = key {
                    node.up(server, key)?;
                }
                Ok(Running::Tailscaled(node))
            }
            Self::Embedded => {
                let options = MeshPeerOptions {
                    server: server.to_owned(),
                    key: key.map(str::to_owned),
                    device,
                    keeps_state: true,
                };
                Ok(Running::Embedded(MeshPeer::spawn(host, &options, &["hold"])?))
            }
        }
    }

    /// Makes `host` a machine on which it never ran.
    pub(crate) fn forget(self, host: &Host) -> Result<()> {
        match self {
            Self::Sandd => forget_state(host, Role::Node),
            Self::Tailscaled => remove(&host.directory().join(format!("tailscaled-{}", host.name()))),
            Self::Embedded => remove(&MeshPeer::state_directory(host)),
        }
    }
}

impl Running<'_> {
    pub(crate) fn process(&self) -> &Process {
        match self {
            Self::Sandd(node) => node.process(),
            Self::Tailscaled(node) => node.process(),
            Self::Embedded(node) => node.process(),
        }
    }

    pub(crate) fn started(&self) -> Instant {
        self.process().started()
    }

    pub(crate) fn address(&mut self) -> Result<Ipv4Addr> {
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

    pub(crate) fn stop(self) -> Result<()> {
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
