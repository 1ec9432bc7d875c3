//! A real tailscaled: the peer that our node must get along with, and the one it is measured against.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{
    eventually,
    headscale::{ipv4_of, peers_directory},
    process::{Process, Run, run},
    world::Host,
};

/// How a node meets the programs of its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// A kernel interface with the mesh address.
    Tun,
    /// No interface: sockets inside the process, a SOCKS5 port for others.
    Userspace,
}

/// Which way a tailscaled says it reaches a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TailscalePath {
    /// By UDP to this address.
    Direct(SocketAddr),
    /// Through a relay.
    Relayed,
}

/// How to run tailscaled.
#[derive(Debug, Clone)]
pub struct TailscaledOptions {
    /// Interface or none.
    pub device: Device,
    /// Whether it takes over name resolution, which its MagicDNS needs.
    pub accept_dns: bool,
    /// The packet size of its interface, when not its own choice.
    pub mtu: Option<u16>,
    /// Its UDP port.
    pub port: u16,
}

impl Default for TailscaledOptions {
    fn default() -> Self {
        Self {
            device: Device::Tun,
            accept_dns: false,
            mtu: None,
            port: 41641,
        }
    }
}

/// A running tailscaled.
#[derive(Debug)]
pub struct Tailscaled<'lab> {
    host: &'lab Host,
    directory: PathBuf,
    options: TailscaledOptions,
    process: Process,
}

/// Where a tailscaled without interface takes SOCKS5 connections, on its own host.
pub(crate) const SOCKS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1055);

impl<'lab> Tailscaled<'lab> {
    /// Starts it on `host`; with a state from before it joins by itself.
    pub fn spawn(host: &'lab Host, options: &TailscaledOptions) -> Result<Self> {
        let directory = host.directory().join(format!("tailscaled-{}", host.name()));
        fs::create_dir_all(&directory)?;
        let mtu = options.mtu.map(|mtu| ("TS_DEBUG_MTU", mtu.to_string()));
        let process = Process::start(
            &format!("tailscaled-{}", host.name()),
            host.directory(),
            host.command(peers_directory().join("tailscaled"))
                .env("TS_NO_LOGS_NO_SUPPORT", "true")
                .envs(mtu)
                .arg(format!("--state={}", directory.join("state").display()))
                .arg(format!("--statedir={}", directory.display()))
                .arg(format!("--socket={}", directory.join("ts.sock").display()))
                .arg(format!("--port={}", options.port))
                .arg(match options.device {
                    Device::Tun => "--tun=tailscale0",
                    Device::Userspace => "--tun=userspace-networking",
                })
                .args(match options.device {
                    Device::Tun => None,
                    Device::Userspace => Some(format!("--socks5-server={SOCKS}")),
                }),
        )?;
        Ok(Self {
            host,
            directory,
            options: options.clone(),
            process,
        })
    }

    /// Starts it and joins the mesh of the coordinator at `server`.
    pub fn join(host: &'lab Host, options: &TailscaledOptions, server: &str, key: &str) -> Result<Self> {
        let node = Self::spawn(host, options)?;
        node.up(server, key)?;
        Ok(node)
    }

    /// `tailscale up`, under the host's name.
    pub fn up(&self, server: &str, key: &str) -> Result<()> {
        eventually("tailscaled's socket", Duration::from_secs(10), || {
            self.directory
                .join("ts.sock")
                .exists()
                .then_some(())
                .context("not there")
        })?;
        run(self.cli(&["up", "--timeout=30s", "--netfilter-mode=off"]).args([
            &format!("--login-server={server}"),
            &format!("--auth-key={key}"),
            &format!("--hostname={}", self.host.name()),
            &format!("--accept-dns={}", self.options.accept_dns),
        ]))
        .map(drop)
    }

    /// A command of `tailscale` for this node.
    #[must_use]
    pub fn cli(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command(peers_directory().join("tailscale"));
        command
            .arg(format!("--socket={}", self.directory.join("ts.sock").display()))
            .args(arguments);
        command
    }

    /// Its host.
    #[must_use]
    pub fn host(&self) -> &'lab Host {
        self.host
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

    /// What `tailscale status --json` says.
    pub fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&run(&mut self.cli(&["status", "--json"]))?)?)
    }

    /// Its IPv4 address in the mesh.
    pub fn address(&self) -> Result<Ipv4Addr> {
        let status = self.status()?;
        let addresses: Vec<IpAddr> =
            serde_json::from_value(status.pointer("/Self/TailscaleIPs").cloned().unwrap_or_default())
                .context("no address yet")?;
        ipv4_of(&addresses).context("no IPv4 address in the mesh")
    }

    /// Sends one encrypted echo request to `peer` and returns the round trip's text.
    pub fn ping(&self, peer: &str) -> Result<String> {
        let ping = Run::of(&mut self.cli(&["ping", "--icmp", "--c=1", "--timeout=2s", peer]))?;
        if !ping.status.success() || !ping.stdout.contains("pong from") {
            bail!("tailscale ping {peer}: {}{}", ping.stdout, ping.stderr);
        }
        Ok(ping.stdout)
    }

    /// Which way it sends to the peer with that mesh address, `None` while it sends nothing.
    pub fn path(&self, peer: Ipv4Addr) -> Result<Option<TailscalePath>> {
        let status = self.status()?;
        let peers = status.get("Peer").and_then(Value::as_object).context("no peers")?;
        let peer = peers
            .values()
            .find(|candidate| {
                candidate
                    .get("TailscaleIPs")
                    .and_then(Value::as_array)
                    .is_some_and(|addresses| {
                        addresses
                            .iter()
                            .any(|address| address == &Value::from(peer.to_string()))
                    })
            })
            .with_context(|| format!("{peer} is no peer"))?;
        let direct = peer.get("CurAddr").and_then(Value::as_str).unwrap_or_default();
        if !direct.is_empty() {
            return Ok(Some(TailscalePath::Direct(direct.parse()?)));
        }
        let active = peer.get("Active").and_then(Value::as_bool).unwrap_or_default();
        Ok(active.then_some(TailscalePath::Relayed))
    }
}
