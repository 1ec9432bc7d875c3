//! `mesh-peer`, a program that embeds the mesh: our node without a kernel interface, with something to say.

use std::{net::IpAddr, net::Ipv4Addr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use sandd_control_client::keys::NodePublicKey;
use serde_json::Value;

use super::{eventually, headscale::ipv4_of, process::Process, sandd::built_beside, tailscaled::Device, world::Host};

/// How to start it.
#[derive(Debug, Clone)]
pub struct MeshPeerOptions {
    /// The coordinator.
    pub server: String,
    /// The pre-auth key, if one is given.
    pub key: Option<String>,
    /// Interface or none.
    pub device: Device,
    /// Keeps its identity on disk.
    pub keeps_state: bool,
}

impl MeshPeerOptions {
    /// A node without interface that keeps nothing.
    #[must_use]
    pub fn new(server: &str, key: &str) -> Self {
        Self {
            server: server.to_owned(),
            key: Some(key.to_owned()),
            device: Device::Userspace,
            keeps_state: false,
        }
    }
}

/// A running `mesh-peer`. All its answers are lines of JSON in its log.
#[derive(Debug)]
pub struct MeshPeer {
    process: Process,
}

impl MeshPeer {
    /// Where it keeps its identity on `host`.
    #[must_use]
    pub fn state_directory(host: &Host) -> PathBuf {
        host.directory().join(format!("mesh-peer-{}", host.name()))
    }

    /// Starts it on `host`; `verb` is what it shall do.
    pub fn spawn(host: &Host, options: &MeshPeerOptions, verb: &[&str]) -> Result<Self> {
        let mut command = host.command(built_beside("mesh-peer"));
        command.env(
            "RUST_LOG",
            std::env::var("SANDD_LAB_LOG").unwrap_or_else(|_| "info".to_owned()),
        );
        command.arg(&options.server).arg(host.name()).args(verb);
        if let Some(key) = &options.key {
            command.env("SANDD_TUNNEL_AUTH_KEY", key);
        }
        if options.device == Device::Tun {
            command.env("MESH_PEER_TUN", "sandd0");
        }
        if options.keeps_state {
            command.env("MESH_PEER_STATE", Self::state_directory(host));
        }
        let name = format!("mesh-peer-{}", host.name());
        Ok(Self {
            process: Process::start(&name, host.directory(), &mut command)?,
        })
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Stops it as a service manager would.
    pub fn stop(mut self) -> Result<()> {
        self.process.terminate(Duration::from_secs(10)).map(drop)
    }

    /// Waits for an answer with the field `field` and returns its value.
    pub fn answer(&mut self, field: &str, deadline: Duration) -> Result<Value> {
        eventually(&format!("{field} of mesh-peer"), deadline, || {
            let log = self.process.log();
            let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            if let Some(value) = lines.find_map(|line| line.get(field).cloned()) {
                return Ok(value);
            }
            if !self.process.is_running() {
                bail!("it ended:\n{log}");
            }
            bail!("no such answer yet")
        })
    }

    /// Its public key.
    pub fn key(&mut self) -> Result<NodePublicKey> {
        let key = self.answer("node_key", Duration::from_secs(20))?;
        Ok(serde_json::from_value(key)?)
    }

    /// Its IPv4 address in the mesh.
    pub fn address(&mut self) -> Result<Ipv4Addr> {
        let addresses = self.answer("addresses", Duration::from_secs(20))?;
        let addresses: Vec<IpAddr> = serde_json::from_value(addresses)?;
        ipv4_of(&addresses).context("no IPv4 address in the mesh")
    }
}
