//! The tunnel flags, alike on every command that joins, and what joining means for a process (S-03, S-05).

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use sandd_control_client::keys::NodePublicKey;
use sandd_mesh::{AeadKernel, AuthKey, ControlUrl, FileStore, Mesh, MeshEvent, MeshHost, StateStore, set_aead_kernel};
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use super::error::CliError;
use super::state::{self, Role};
use super::{auth_key, output};
use crate::escape::Escaped;
use crate::local::{Handler, HandlerFuture, LocalServer, Request, Response};

/// How long leaving the mesh may take.
const LEAVE_WITHIN: Duration = Duration::from_secs(3);

/// What it gets when everything else took its time.
const LEAVE_AT_LEAST: Duration = Duration::from_millis(300);

/// Flags of every command that joins a mesh.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Tunnel")]
pub(super) struct TunnelArgs {
    /// Key that lets this node join; needed once. A literal key warns: better a file, stdin or SANDD_TUNNEL_AUTH_KEY
    #[arg(long, value_name = "KEY|file:PATH|-")]
    tunnel_authkey: Option<String>,
    /// The coordinator: http://host:port or https://host
    #[arg(long, env = "SANDD_TUNNEL_SERVER", value_name = "URL")]
    tunnel_server: Option<ControlUrl>,
    /// Name of this node on the mesh
    #[arg(long, value_name = "NAME", value_parser = hostname)]
    tunnel_hostname: Option<String>,
    /// Where this node keeps its identity; by default a folder a role
    #[arg(long, value_name = "DIR")]
    tunnel_state_dir: Option<PathBuf>,
    /// Kernel device for other programs (needs NET_ADMIN and /dev/net/tun) instead of userspace
    #[arg(long, value_name = "NAME", value_parser = device)]
    tunnel_tun: Option<String>,
    /// UDP port to try first; any free one when it is taken
    #[arg(long, value_name = "PORT", default_value_t = sandd_mesh::DEFAULT_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    tunnel_port: u16,
    /// Largest packet through --tunnel-tun; paths start with 1280 and are raised as far as they prove to carry
    #[arg(long, value_name = "BYTES", default_value_t = u16::try_from(sandd_mesh::DEFAULT_MTU).unwrap_or(u16::MAX), value_parser = clap::value_parser!(u16).range(1280..=8900))]
    tunnel_mtu: u16,
    /// Never guess ports (up to 1,024 small packets at once) to get past a NAT that gives each destination another port
    #[arg(long)]
    no_port_guessing: bool,
    /// Never ask the router for a port (PCP, NAT-PMP, UPnP)
    #[arg(long)]
    no_port_mapping: bool,
    /// Carry, on this UDP port, what pairs of peers send each other that find no direct path; the policy says for whom
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    peer_relay_port: Option<u16>,
    /// Keep no state and be forgotten after the end; a key is needed at each start
    #[arg(long)]
    tunnel_ephemeral: bool,
    /// Certificates to trust besides the system's, for https:// and wss://
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Accept that the coordinator has another key than before
    #[arg(long)]
    accept_new_control_key: bool,
}

pub(super) fn hostname(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let edge = text.starts_with('-') || text.ends_with('-');
    if text.is_empty() || text.len() > 63 || edge || !text.chars().all(allowed) {
        return Err("a node's name has 1 to 63 letters, digits and `-`, and no `-` at its ends".to_owned());
    }
    Ok(text.to_ascii_lowercase())
}

fn device(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.is_empty() || text.len() > 15 || text.starts_with(['-', '.']) || !text.chars().all(allowed) {
        return Err("a device's name has 1 to 15 letters, digits and `-_.`".to_owned());
    }
    Ok(text.to_owned())
}

/// Whether a node without a key and without state may wait for a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Login {
    /// Somebody opens an address in a browser.
    ByPerson,
    /// Nobody looks: a key is needed.
    ByKey,
}

/// `SANDD_AEAD` names another implementation of the cipher than the fastest one: to compare, or to rule it out.
fn choose_aead() -> Result<(), CliError> {
    let Some(name) = std::env::var_os("SANDD_AEAD") else {
        return Ok(());
    };
    let kernel = match name.to_str() {
        Some("auto") => AeadKernel::Auto,
        Some("ring") => AeadKernel::Ring,
        Some("avx2") => AeadKernel::Avx2,
        Some("avx512") => AeadKernel::Avx512,
        Some(_) | None => {
            return Err(CliError::failed(format!(
                "SANDD_AEAD is {}; it can be auto, ring, avx2 or avx512",
                name.display()
            )));
        }
    };
    set_aead_kernel(kernel);
    Ok(())
}

/// `SANDD_LANES` says how many threads seal and open for the node's own; none without it.
fn lanes() -> Result<Option<usize>, CliError> {
    let Some(text) = std::env::var_os("SANDD_LANES") else {
        return Ok(None);
    };
    let number = text.to_str().and_then(|text| text.parse().ok());
    let wrong = || CliError::failed(format!("SANDD_LANES is {}; it can be a number from 0", text.display()));
    number.map(Some).ok_or_else(wrong)
}

impl TunnelArgs {
    /// The certificates file.
    pub(super) fn ca_file(&self) -> Option<&Path> {
        self.ca_file.as_deref()
    }

    /// The state directory, if one was given.
    pub(super) fn state_dir(&self) -> Option<&Path> {
        self.tunnel_state_dir.as_deref()
    }

    /// The coordinator, if one was given.
    pub(super) fn server(&self) -> Option<&ControlUrl> {
        self.tunnel_server.as_ref()
    }

    /// True when no state is kept.
    pub(super) fn is_ephemeral(&self) -> bool {
        self.tunnel_ephemeral
    }

    /// The public node key in the state directory, if this node has joined before.
    pub(super) fn own_key(&self, role: Role) -> Result<Option<NodePublicKey>, CliError> {
        let store = self.store(&state::directory(self.state_dir(), role)?)?;
        let state = store.map_or(Ok(None), |store| store.load())?;
        Ok(state.and_then(|state| state.node_key).map(|key| key.public()))
    }

    /// Puts in what an embedded coordinator knows.
    pub(super) fn set_server(&mut self, server: ControlUrl) {
        self.tunnel_server = Some(server);
    }

    /// Finds what is missing before anything is started.
    pub(super) fn check(&self) -> Result<(), CliError> {
        if self.tunnel_server.is_none() {
            return Err(CliError::failed(
                "--tunnel-server URL (or SANDD_TUNNEL_SERVER) is missing, it is needed to join",
            ));
        }
        Ok(())
    }

    /// The key of flag, file or variable.
    pub(super) fn key(&self) -> Result<Option<AuthKey>, CliError> {
        auth_key::read(self.tunnel_authkey.as_deref())
    }

    /// Starts the node and its local API; it may still be joining.
    pub(super) async fn start(
        &self,
        role: Role,
        default_name: Option<&str>,
        key: Option<AuthKey>,
        login: Login,
    ) -> Result<Node, CliError> {
        self.check()?;
        let Some(server) = self.tunnel_server.clone() else {
            return Err(CliError::failed("--tunnel-server is missing"));
        };
        let directory = state::directory(self.state_dir(), role)?;
        let store = self.store(&directory)?;
        let known = match &store {
            Some(store) => store.load()?.is_some_and(|state| state.node_key.is_some()),
            None => false,
        };
        if key.is_none() && !known && login == Login::ByKey {
            return Err(CliError::failed(
                "--tunnel-authkey KEY (or a file, stdin, SANDD_TUNNEL_AUTH_KEY) is missing, this node has not joined yet",
            ));
        }
        let is_loopback = server.host().parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if server.is_plain_http() && !is_loopback {
            warn!(%server, "the coordinator is spoken to over plain http; its key is remembered all the same");
        }
        choose_aead()?;
        let mut builder = Mesh::builder()
            .ephemeral(self.tunnel_ephemeral)
            .port(self.tunnel_port)
            .mtu(self.tunnel_mtu.into())
            .port_guessing(!self.no_port_guessing)
            .port_mapping(!self.no_port_mapping);
        builder = builder.accept_new_control_key(self.accept_new_control_key);
        if let Some(lanes) = lanes()? {
            builder = builder.lanes(lanes);
        }
        if let Some(name) = self.tunnel_hostname.as_deref().or(default_name) {
            builder = builder.hostname(name);
        }
        if let Some(store) = store {
            builder = builder.store(store);
        }
        if let Some(path) = &self.ca_file {
            builder = builder.ca_file(path);
        }
        if let Some(port) = self.peer_relay_port {
            builder = builder.peer_relay(port);
        }
        if let Some(device) = &self.tunnel_tun {
            builder = builder.tun(device);
        }
        let mesh = builder.start(server, key).await?;
        Node::new(mesh, &directory, self.tunnel_ephemeral).await
    }

    /// Identity on disk, or none for an ephemeral node.
    fn store(&self, directory: &Path) -> Result<Option<Arc<FileStore>>, CliError> {
        if self.tunnel_ephemeral {
            return Ok(None);
        }
        state::ensure(directory)?;
        Ok(Some(Arc::new(FileStore::open(directory)?)))
    }
}

/// A mesh node in this process, with its local API and its events in the log.
#[derive(Debug)]
pub(super) struct Node {
    pub mesh: Mesh,
    ephemeral: bool,
    _local: Option<LocalServer>,
    log: JoinHandle<()>,
}

impl Node {
    async fn new(mesh: Mesh, directory: &Path, ephemeral: bool) -> Result<Self, CliError> {
        let log = tokio::spawn(log_events(mesh.clone()));
        let handler = Arc::new(NodeHandler(mesh.clone()));
        let local = match state::ensure(directory) {
            Ok(()) => LocalServer::start(&state::node_socket(directory), handler)
                .await
                .map_err(CliError::from),
            Err(error) => Err(error),
        };
        let local = match local {
            Ok(local) => Some(local),
            // An ephemeral node needs no directory; without one nobody can ask it, and that is all.
            Err(error) if ephemeral => {
                warn!(
                    reason = error.message(),
                    "this node cannot be asked with `sandd status`"
                );
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Self {
            mesh,
            ephemeral,
            _local: local,
            log,
        })
    }

    /// Waits until the node is on the mesh.
    pub(super) async fn joined(&self) -> Result<(), CliError> {
        self.mesh.joined().await?;
        let addresses: Vec<String> = self.mesh.addresses().iter().map(ToString::to_string).collect();
        info!(name = %self.mesh.name().unwrap_or_default(), addresses = %addresses.join(" "), "joined the mesh");
        Ok(())
    }

    /// Leaves the mesh; an ephemeral node is forgotten at once.
    pub(super) async fn shutdown(self) {
        self.shutdown_until(Instant::now() + LEAVE_WITHIN).await;
    }

    /// The same with a time by which the process is to be gone.
    pub(super) async fn shutdown_until(self, until: Instant) {
        let leave = async {
            if self.ephemeral {
                let _ = self.mesh.logout().await;
            }
            self.mesh.shutdown().await;
        };
        let until = until.max(Instant::now() + LEAVE_AT_LEAST);
        let _ = tokio::time::timeout_at(until.into(), leave).await;
        self.log.abort();
    }
}

/// Writes what happens to the node into the log: changes, not states.
async fn log_events(mesh: Mesh) {
    let mut events = mesh.events();
    // The task must not keep the node alive.
    drop(mesh);
    while let Some(event) = events.next().await {
        match event {
            MeshEvent::LoginRequired { url } => {
                warn!(%url, "a person must log this node in");
                output::print_line(&format!("To log this node in, open: {}", Escaped(&url)));
            }
            MeshEvent::ControlConnected => info!("coordinator connected"),
            MeshEvent::ControlDisconnected { reason, retry_in } => {
                warn!(reason = %Escaped(&reason), retry_in_ms = %retry_in.as_millis(), "no connection to the coordinator, what is known of the mesh stays");
            }
            MeshEvent::NetmapApplied { peers, cached, took } => {
                tracing::debug!(peers, cached, ?took, "network map applied")
            }
            MeshEvent::PeerAdded { name, .. } => info!(peer = %Escaped(&name), "peer added"),
            MeshEvent::PeerRemoved { name, .. } => info!(peer = %Escaped(&name), "peer removed"),
            MeshEvent::PeerConnected { name, .. } => info!(peer = %Escaped(&name), "peer connected"),
            MeshEvent::RelayDisconnected { region, reason } => {
                info!(region, reason = %Escaped(&reason), "relay lost");
            }
            MeshEvent::NeedsAttention { reason } => error!(reason = %Escaped(&reason), "this node needs attention"),
            MeshEvent::Lagged(count) => warn!(count, "events were missed"),
            // Paths and relays are logged by the node itself.
            MeshEvent::PathChanged { .. } | MeshEvent::RelayConnected { .. } | _ => {}
        }
    }
}

/// Answers `sandd status`, `ip`, `ping`, `netcheck` and `logout`.
struct NodeHandler(Mesh);

impl Handler for NodeHandler {
    fn handle(&self, request: Request) -> HandlerFuture<'_> {
        Box::pin(async move {
            match request {
                Request::Status => match self.0.status().await {
                    Ok(status) => Response::Status {
                        status: Box::new(status),
                    },
                    Err(error) => Response::failed(error),
                },
                Request::Ping { peer, timeout } => match peer.parse::<MeshHost>() {
                    Ok(host) => match self.0.ping(host, timeout).await {
                        Ok(reply) => Response::of_value(&reply),
                        Err(error) => Response::failed(error),
                    },
                    Err(error) => Response::failed(error),
                },
                Request::Netcheck => match self.0.netcheck().await {
                    Ok(report) => Response::of_value(&report),
                    Err(error) => Response::failed(error),
                },
                Request::Logout => match self.0.logout().await {
                    Ok(()) => Response::of_value(&"logged out"),
                    Err(error) => Response::failed(error),
                },
                Request::Daemons { .. } | Request::Exec { .. } | Request::Coordinator { .. } => {
                    Response::failed("this is the socket of a mesh node, it knows its peers only")
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_nodes_and_devices() {
        assert_eq!(hostname("Worker-1").unwrap(), "worker-1");
        for text in ["", "-a", "a-", "a.b", "a b", "ä", &"x".repeat(64)] {
            assert!(hostname(text).is_err(), "{text}");
        }
        assert!(device("sandd0").is_ok());
        for text in ["", "-a", "a/b", "..", &"x".repeat(16)] {
            assert!(device(text).is_err(), "{text}");
        }
    }
}
