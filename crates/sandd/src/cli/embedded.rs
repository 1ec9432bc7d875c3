//! The coordinator inside a controller: for a mesh without a Headscale (`sandd controller --tunnel`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use sandd_coordinator::{Coordinator, KeyOptions};
use sandd_mesh::{AuthKey, ControlUrl};
use tracing::info;

use super::controller::OwnKey;
use super::coordinator::{CoordinatorHandler, explain, free_stun};
use super::error::CliError;
use super::join::TunnelArgs;
use super::state::{self, Role};
use crate::local::{COORDINATOR_SOCKET, LocalServer};

/// How long the key in the invitation is good.
const INVITATION: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the controller's own key is good: it is used at once.
const OWN_KEY: Duration = Duration::from_secs(10 * 60);

/// Flags of the embedded coordinator.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Coordinator inside (--tunnel without --tunnel-server)")]
pub(super) struct EmbeddedArgs {
    /// Address it listens on
    #[arg(long, default_value = "0.0.0.0:8080", value_name = "ADDR", requires = "tunnel")]
    coordinator_listen: SocketAddr,
    /// URL that nodes are given, when it is not the listening address
    #[arg(long, value_name = "URL")]
    coordinator_url: Option<String>,
    /// Certificate chain (PEM), to speak https
    #[arg(long, value_name = "FILE", requires = "coordinator_tls_key")]
    coordinator_tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "coordinator_tls_cert")]
    coordinator_tls_key: Option<PathBuf>,
}

/// A coordinator in this process, with its local API.
#[derive(Debug)]
pub(super) struct EmbeddedCoordinator {
    coordinator: Coordinator,
    socket: PathBuf,
    _local: LocalServer,
}

impl EmbeddedCoordinator {
    /// Starts it beside the controller's state, points `join` at it and makes a key where one is needed.
    pub(super) async fn start(args: &EmbeddedArgs, join: &mut TunnelArgs) -> Result<(Self, OwnKey), CliError> {
        let directory = state::directory(join.state_dir(), Role::Controller)?;
        state::ensure(&directory)?;
        let mut builder = Coordinator::builder().listen(args.coordinator_listen);
        builder = builder.stun(free_stun(args.coordinator_listen.ip()));
        if !join.is_ephemeral() {
            builder = builder.state_file(directory.join("coordinator.db"));
        }
        if let Some(url) = &args.coordinator_url {
            builder = builder.url(url);
        }
        let tls = args
            .coordinator_tls_cert
            .as_ref()
            .zip(args.coordinator_tls_key.as_ref());
        if let Some((chain, key)) = tls {
            builder = builder.tls_files(chain, key);
        }
        let coordinator = builder.start().await.map_err(explain)?;
        let handler = Arc::new(CoordinatorHandler(coordinator.clone()));
        let socket = directory.join(COORDINATOR_SOCKET);
        let local = LocalServer::start(&socket, handler).await?;
        info!(url = %coordinator.url(), listen = %coordinator.listen_addr(), "coordinator listens");
        join.set_server(own_url(&coordinator, tls.is_some())?);
        let known = join
            .own_key(Role::Controller)?
            .is_some_and(|own| coordinator.nodes().iter().any(|node| node.node_key == own));
        let key = if known {
            None
        } else {
            Some(make_key(&coordinator, false, OWN_KEY).await?)
        };
        Ok((
            Self {
                coordinator,
                socket,
                _local: local,
            },
            key.map(AuthKey::new),
        ))
    }

    /// What a person needs to know to add a daemon.
    pub(super) async fn invitation(&self, server_url: &str) -> Result<String, CliError> {
        let key = make_key(&self.coordinator, true, INVITATION).await?;
        let url = self.coordinator.url();
        Ok(format!(
            "coordinator ready at {url}\n\nOn each machine that is to run commands, with another id for each (the key is \
             good for 24 hours):\n\n  SANDD_TUNNEL_AUTH_KEY={key} sandd --server-url {server_url} --daemon-id worker-1 \
             --tunnel --tunnel-server {url}\n\nFurther keys: sandd coordinator key create --socket {}\n",
            self.socket.display()
        ))
    }

    /// Writes its state and ends.
    pub(super) async fn shutdown(self) {
        self.coordinator.shutdown().await;
    }
}

async fn make_key(coordinator: &Coordinator, reusable: bool, expiry: Duration) -> Result<String, CliError> {
    let options = KeyOptions {
        reusable,
        expiry: Some(expiry),
        ..KeyOptions::default()
    };
    Ok(coordinator.create_key(options).await?)
}

/// How this process itself reaches the coordinator: over loopback where that is possible, since the published address
/// may be one of a NAT, and plain http goes to private addresses only.
fn own_url(coordinator: &Coordinator, tls: bool) -> Result<ControlUrl, CliError> {
    if tls {
        return Ok(ControlUrl::parse(&coordinator.url())?);
    }
    let listen = coordinator.listen_addr();
    let ip = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    Ok(ControlUrl::parse(&format!(
        "http://{}",
        SocketAddr::new(ip, listen.port())
    ))?)
}
