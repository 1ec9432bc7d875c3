//! `sandd status`, `ip`, `ping`, `logout`: questions to the node that runs on this host.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use sandd_mesh::{MeshStatus, PingReply};
use serde::de::DeserializeOwned;

use super::daemons::unexpected;
use super::error::CliError;
use super::state::{self, Role};
use super::{output, small_runtime};
use crate::escape::Escaped;
use crate::local::{self, Request, Response};

/// Which node is asked.
#[derive(Debug, Args)]
pub(super) struct NodeArgs {
    /// State directory of the node to ask; by default the one that runs
    #[arg(long, value_name = "DIR")]
    tunnel_state_dir: Option<PathBuf>,
    /// Ask the node of this role, when several run
    #[arg(long, value_enum, conflicts_with = "tunnel_state_dir")]
    role: Option<Role>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl NodeArgs {
    /// JSON is wanted.
    pub(super) fn json(&self) -> bool {
        self.json
    }

    /// Asks the one node that is meant.
    pub(super) fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T, CliError> {
        small_runtime()?.block_on(async { ask(&self.socket().await?, request).await })
    }

    fn status(&self) -> Result<MeshStatus, CliError> {
        small_runtime()?.block_on(async { status(&self.socket().await?).await })
    }

    /// State directories that may be meant, whether a node runs there or not.
    pub(super) fn directories(&self) -> Result<Vec<(Role, PathBuf)>, CliError> {
        if let Some(directory) = &self.tunnel_state_dir {
            return Ok(vec![(self.role.unwrap_or(Role::Node), directory.clone())]);
        }
        let roles = self
            .role
            .map_or(vec![Role::Node, Role::Controller, Role::Daemon], |role| vec![role]);
        let directories = roles.into_iter().map(|role| Ok((role, state::directory(None, role)?)));
        directories.collect()
    }

    /// Where the one node that is meant answers.
    pub(super) async fn socket(&self) -> Result<PathBuf, CliError> {
        if let Some(directory) = &self.tunnel_state_dir {
            return Ok(state::node_socket(directory));
        }
        let mut running = Vec::new();
        for (role, directory) in self.directories()? {
            let socket = state::node_socket(&directory);
            if tokio::net::UnixStream::connect(&socket).await.is_ok() {
                running.push((role, socket));
            }
        }
        match &running[..] {
            [] => Err(CliError::failed(
                "no mesh node of this user runs here; give its directory with --tunnel-state-dir",
            )),
            [(_, socket)] => Ok(socket.clone()),
            several => {
                let names: Vec<_> = several.iter().map(|(role, _)| role.folder()).collect();
                let names = names.join(", ");
                Err(CliError::failed(format!(
                    "several mesh nodes run here ({names}), say which with --role"
                )))
            }
        }
    }
}

/// Asks the node at this socket.
pub(super) async fn ask<T: DeserializeOwned>(socket: &Path, request: &Request) -> Result<T, CliError> {
    let response = local::ask(socket, request).await?;
    let Response::Value { value } = response else {
        return Err(unexpected(response));
    };
    serde_json::from_value(value)
        .map_err(|_| CliError::failed("the answer makes no sense, are both programs of the same version?"))
}

/// The status of the node at this socket.
pub(super) async fn status(socket: &Path) -> Result<MeshStatus, CliError> {
    let response = local::ask(socket, &Request::Status).await?;
    let Response::Status { status } = response else {
        return Err(unexpected(response));
    };
    Ok(*status)
}

/// Flags of `sandd status`.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    node: NodeArgs,
}

impl StatusArgs {
    /// Asks and prints.
    pub(super) fn run(self) -> Result<ExitCode, CliError> {
        let status = self.node.status()?;
        if self.node.json {
            output::print_json(&status);
        } else {
            output::print(&status_text(&status));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn status_text(status: &MeshStatus) -> String {
    let addresses: Vec<String> = status.addresses.iter().map(ToString::to_string).collect();
    let mut text = format!(
        "name         {}\naddresses    {}\ncoordinator  {}\n",
        Escaped(status.name.as_deref().unwrap_or("none yet")),
        if addresses.is_empty() {
            "none yet".to_owned()
        } else {
            addresses.join(" ")
        },
        Escaped(&status.control.state),
    );
    let mut line = |name: &str, value: &str| text.push_str(&format!("{name:<13}{}\n", Escaped(value)));
    if let Some(error) = &status.control.error {
        line("last error", error);
    }
    if let Some(url) = &status.control.login_url {
        line("log in at", url);
    }
    match status.home_region {
        Some(region) if status.relay_connected => line("home relay", &format!("region {region}, connected")),
        Some(region) => line("home relay", &format!("region {region}, not connected")),
        None => line("home relay", "none"),
    }
    line("device", &format!("{}, UDP port {}", status.device, status.port));
    if let Some(relay) = &status.peer_relay {
        let (port, bound) = (relay.port, relay.bound);
        line(
            "peer relay",
            &format!("UDP port {port}, {bound} pairs, {} carried", size(relay.bytes)),
        );
    }
    if status.peers.is_empty() {
        text.push_str("no peers\n");
        return text;
    }
    let rows: Vec<Vec<String>> = status.peers.iter().map(peer_row).collect();
    text.push('\n');
    text.push_str(&output::table(
        &["PEER", "ADDRESS", "ONLINE", "PATH", "SINCE", "RTT", "SENT", "RECEIVED"],
        &rows,
    ));
    text
}

fn peer_row(peer: &sandd_mesh::PeerStatus) -> Vec<String> {
    let since = peer
        .path_for_ms
        .map(|ms| super::daemons::age(ms / 1_000))
        .unwrap_or_default();
    let online = match peer.online {
        _ if peer.expired => "expired",
        Some(true) => "yes",
        Some(false) => "no",
        None => "?",
    };
    vec![
        peer.name.clone(),
        peer.addresses.first().map(ToString::to_string).unwrap_or_default(),
        online.to_owned(),
        path_text(peer),
        since,
        peer.rtt_ms.map(|ms| format!("{ms:.1}ms")).unwrap_or_default(),
        size(peer.tx_bytes),
        size(peer.rx_bytes),
    ]
}

/// A plain WireGuard peer has an address in use, and nothing that probes it.
fn path_text(peer: &sandd_mesh::PeerStatus) -> String {
    if !peer.wireguard_only {
        return peer.path.to_string();
    }
    if let sandd_mesh::PeerPath::Direct(addr) = peer.path {
        format!("wireguard-only {addr}")
    } else {
        "wireguard-only, has not called yet".to_owned()
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..=9_999 => format!("{bytes}B"),
        10_000..=9_999_999 => format!("{}kB", bytes / 1_000),
        _ => format!("{}MB", bytes / 1_000_000),
    }
}

/// Flags of `sandd ip`.
#[derive(Debug, Args)]
pub(super) struct IpArgs {
    /// Only the IPv4 address
    #[arg(short = '4', conflicts_with = "v6")]
    v4: bool,
    /// Only the IPv6 address
    #[arg(short = '6')]
    v6: bool,
    #[command(flatten)]
    node: NodeArgs,
}

impl IpArgs {
    /// Asks and prints, one address a line.
    pub(super) fn run(self) -> Result<ExitCode, CliError> {
        let status = self.node.status()?;
        let wanted = |ip: &IpAddr| {
            if self.v4 {
                ip.is_ipv4()
            } else {
                !self.v6 || ip.is_ipv6()
            }
        };
        let addresses: Vec<IpAddr> = status.addresses.into_iter().filter(wanted).collect();
        if addresses.is_empty() {
            return Err(CliError::failed(
                "this node has no such address (yet), see sandd status",
            ));
        }
        if self.node.json {
            output::print_json(&addresses);
        } else {
            addresses.iter().for_each(|ip| output::print_line(&ip.to_string()));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Flags of `sandd ping`.
#[derive(Debug, Args)]
pub(super) struct PingArgs {
    /// Name or mesh address of the peer
    peer: String,
    /// How often
    #[arg(short, long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    /// Time between two pings
    #[arg(short, long, default_value_t = 1.0, value_name = "SECONDS", value_parser = seconds)]
    interval: f64,
    /// Go on until the path is direct, at most --count times
    #[arg(long)]
    until_direct: bool,
    /// How long to wait for each answer
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS", value_parser = seconds)]
    timeout: f64,
    #[command(flatten)]
    node: NodeArgs,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    if (0.001..=86_400.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("expected 0.001 to 86400 seconds".to_owned())
    }
}

impl PingArgs {
    /// Asks and prints each answer.
    pub(super) fn run(self) -> Result<ExitCode, CliError> {
        let request = Request::Ping {
            peer: self.peer.clone(),
            timeout: Duration::from_secs_f64(self.timeout),
        };
        let mut failures = 0;
        for number in 0..self.count {
            if number > 0 {
                std::thread::sleep(Duration::from_secs_f64(self.interval));
            }
            match self.node.ask::<PingReply>(&request) {
                Ok(reply) => {
                    self.print(&reply);
                    if self.until_direct && matches!(reply.path, sandd_mesh::PeerPath::Direct(_)) {
                        return Ok(ExitCode::SUCCESS);
                    }
                }
                Err(error) if number + 1 == self.count && failures == number => return Err(error),
                Err(error) => {
                    failures += 1;
                    eprintln!("sandd: {}", error.message());
                }
            }
        }
        let missed = failures > 0 || self.until_direct;
        Ok(if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    fn print(&self, reply: &PingReply) {
        if self.node.json {
            output::print_json(reply);
        } else {
            let line = format!(
                "{} ({}) in {:.2} ms, {}",
                Escaped(&reply.name),
                reply.address,
                reply.rtt_ms,
                reply.path
            );
            output::print_line(&line);
        }
    }
}

/// Flags of `sandd logout`.
#[derive(Debug, Args)]
pub(super) struct LogoutArgs {
    #[command(flatten)]
    node: NodeArgs,
}

impl LogoutArgs {
    /// Asks the running node to leave for good.
    pub(super) fn run(self) -> Result<ExitCode, CliError> {
        let _: serde_json::Value = self.node.ask(&Request::Logout)?;
        output::print_line("logged out; the next start needs a key");
        Ok(ExitCode::SUCCESS)
    }
}
