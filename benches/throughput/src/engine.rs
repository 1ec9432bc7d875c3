//! The engines: what carries the streams that are measured, each as a pair of processes on two hosts of a lab.

pub mod mesh;
pub mod stream;
pub mod wireguard;

use std::{fs, net::Ipv4Addr, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use e2e::lab::{Host, Process, peers_directory, run, sandd_binary};
use serde_json::Value;

/// The inner packet size of every engine that lets itself be told.
pub const MTU: u16 = 1420;

/// Something that carries packets between two hosts, or nothing: the plain wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// No tunnel: the ceiling.
    None,
    /// Ours.
    Sandd,
    /// WireGuard's own in Go.
    WireguardGo,
    /// Tailscale's node.
    Tailscaled,
    /// Mullvad's fork of boringtun.
    Gotatun,
    /// Cloudflare's.
    Boringtun,
    /// Tailscale as a library, for userspace streams.
    Tsnet,
    /// The kernel's TCP without any tunnel, over the emulated link.
    Kernel,
}

/// Those with a kernel interface, in the order of the table.
pub const WITH_INTERFACE: [Engine; 6] = [
    Engine::None,
    Engine::Sandd,
    Engine::WireguardGo,
    Engine::Tailscaled,
    Engine::Gotatun,
    Engine::Boringtun,
];

impl Engine {
    /// Its name in tables and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Sandd => "sandd",
            Self::WireguardGo => "wireguard-go",
            Self::Tailscaled => "tailscaled",
            Self::Gotatun => "gotatun",
            Self::Boringtun => "boringtun",
            Self::Tsnet => "tsnet",
            Self::Kernel => "kernel",
        }
    }

    /// The file that runs it; `None` for the plain wire.
    #[must_use]
    pub fn program(self) -> Option<PathBuf> {
        let file = match self {
            Self::None | Self::Kernel => return None,
            Self::Sandd => return Some(sandd_binary()),
            Self::WireguardGo => "wireguard-go",
            Self::Tailscaled => "tailscaled",
            Self::Gotatun => "gotatun",
            Self::Boringtun => "boringtun-cli",
            Self::Tsnet => "tsnet-stream",
        };
        Some(peers_directory().join(file))
    }

    /// Which version it is of, as the stamp beside it says.
    #[must_use]
    pub fn version(self) -> String {
        match self.program() {
            None => "–".to_owned(),
            Some(program) if self == Self::Sandd => {
                let text = run(std::process::Command::new(program).arg("--version")).unwrap_or_default();
                text.trim().to_owned()
            }
            Some(program) => {
                let stamp = fs::read_to_string(program.with_extension("version")).unwrap_or_default();
                stamp.split_whitespace().next().unwrap_or("unknown version").to_owned()
            }
        }
    }

    /// Why it cannot be measured here.
    #[must_use]
    pub fn missing(self) -> Option<String> {
        let program = self.program()?;
        (!program.exists()).then(|| {
            format!(
                "{}: not measured, {} is missing (`cargo xtask bench` builds it)",
                self.name(),
                program.display()
            )
        })
    }
}

/// Two ends that reach each other.
#[derive(Debug)]
pub struct Pair<'lab> {
    /// The host that asks.
    pub a: &'lab Host,
    /// The host that answers.
    pub b: &'lab Host,
    /// Where `b` is reached.
    pub address: Ipv4Addr,
    /// The interface on `a` that leads there.
    pub device: String,
    ends: Ends<'lab>,
}

#[derive(Debug)]
enum Ends<'lab> {
    None,
    WireGuard(Box<wireguard::Tunnel>),
    Mesh(Box<mesh::Ends<'lab>>),
}

impl<'lab> Pair<'lab> {
    /// The plain wire.
    #[must_use]
    pub fn plain(a: &'lab Host, b: &'lab Host) -> Self {
        Self {
            a,
            b,
            address: b.address(),
            device: "eth0".to_owned(),
            ends: Ends::None,
        }
    }

    /// The processes of both ends; none on the plain wire.
    #[must_use]
    pub fn processes(&self) -> Vec<&Process> {
        match &self.ends {
            Ends::None => Vec::new(),
            Ends::WireGuard(ends) => ends.processes(),
            Ends::Mesh(ends) => ends.processes(),
        }
    }

    /// What both ends say of themselves, if they are ours.
    pub fn statuses(&self) -> Result<[Value; 2]> {
        match &self.ends {
            Ends::Mesh(ends) => ends.statuses(),
            Ends::None | Ends::WireGuard(_) => bail!("they have no status"),
        }
    }

    /// The inner packet size that is in force.
    pub fn mtu(&self) -> Result<f64> {
        let mut command = self.a.namespace().command("cat");
        let text = run(command.arg(format!("/sys/class/net/{}/mtu", self.device)))?;
        text.trim().parse().context("odd MTU")
    }
}
