//! `sandd coordinator`: runs it.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use sandd_coordinator::{Coordinator, CoordinatorBuilder, Policy, WireGuardPeers};
use tracing::{error, info};

use super::CoordinatorHandler;
use crate::cli::error::CliError;
use crate::cli::signals::{ReloadSignal, StopSignals};
use crate::cli::state::{self, Role};
use crate::cli::{flags, output, runtime};
use crate::local::{COORDINATOR_SOCKET, LocalServer};

/// The port that STUN has everywhere.
const STUN_PORT: u16 = 3_478;

/// Flags of a coordinator that serves.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// TCP address for control and relay
    #[arg(long, default_value = "0.0.0.0:8080", value_name = "ADDR")]
    listen: SocketAddr,
    /// UDP address for STUN, or `off`; by default port 3478 beside --listen
    #[arg(long, value_name = "ADDR", value_parser = stun)]
    stun: Option<Stun>,
    /// URL that nodes are given, when it is not the listening address
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// SQLite file for keys, nodes and identity; by default in the state directory
    #[arg(long, value_name = "FILE", conflicts_with = "memory")]
    state: Option<PathBuf>,
    /// Keep nothing: a restart forgets all nodes
    #[arg(long)]
    memory: bool,
    /// Certificate chain (PEM), to speak https
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Speak https with a self-made certificate, which is written to this file for the nodes' --ca-file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["tls_cert", "tls_key"])]
    tls_self_made: Option<PathBuf>,
    /// Policy in Headscale's form; by default everybody may talk to everybody
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Plain WireGuard peers of the mesh (docs/coordinator.md); SIGHUP reads it and --policy again
    #[arg(long, value_name = "FILE")]
    wireguard_peers: Option<PathBuf>,
    /// Domain of the nodes' names
    #[arg(long, default_value = "sandd.local", value_name = "DOMAIN")]
    base_domain: String,
    /// How long an ephemeral node may stay away before it is forgotten
    #[arg(long, default_value = "120s", value_name = "TIME", value_parser = flags::duration)]
    ephemeral_timeout: Duration,
    /// Socket for `sandd coordinator key create` and the like; by default coordinator.sock in the state directory
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Where STUN is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stun {
    Off,
    At(SocketAddr),
}

fn stun(text: &str) -> Result<Stun, String> {
    if text == "off" {
        return Ok(Stun::Off);
    }
    text.parse()
        .map(Stun::At)
        .map_err(|_| "expected ADDRESS:PORT or off".to_owned())
}

impl ServeArgs {
    /// Serves until it is told to stop.
    pub(super) fn run(self) -> Result<ExitCode, CliError> {
        let builder = self.builder()?;
        let socket = self.socket()?;
        runtime()?.block_on(async {
            let mut stop = StopSignals::new()?;
            let mut reload = ReloadSignal::new(self.policy.is_some() || self.wireguard_peers.is_some())?;
            let coordinator = builder.start().await.map_err(explain)?;
            if let (Some(path), Some(pem)) = (&self.tls_self_made, coordinator.certificate_pem()) {
                let failed = |error| CliError::failed(format!("cannot write {}: {error}", path.display()));
                std::fs::write(path, pem).map_err(failed)?;
            }
            let local = LocalServer::start(&socket, Arc::new(CoordinatorHandler(coordinator.clone()))).await?;
            let stun = coordinator.stun_addr().map(|address| address.to_string());
            info!(url = %coordinator.url(), listen = %coordinator.listen_addr(), stun, "coordinator listens");
            output::print_line(&format!("coordinator ready at {}", coordinator.url()));
            loop {
                tokio::select! {
                    () = stop.received() => break,
                    () = reload.received() => self.reload(&coordinator).await,
                }
            }
            drop(local);
            coordinator.shutdown().await;
            Ok(ExitCode::SUCCESS)
        })
    }

    fn builder(&self) -> Result<CoordinatorBuilder, CliError> {
        let mut builder = Coordinator::builder()
            .listen(self.listen)
            .base_domain(&self.base_domain);
        builder = builder.ephemeral_timeout(self.ephemeral_timeout);
        builder = match self.stun {
            Some(Stun::Off) => builder,
            Some(Stun::At(address)) => builder.stun(address),
            None => builder.stun((self.listen.ip(), STUN_PORT).into()),
        };
        if let Some(url) = &self.url {
            builder = builder.url(url);
        }
        if !self.memory {
            builder = builder.state_file(self.state_file()?);
        }
        if let (Some(chain), Some(key)) = (&self.tls_cert, &self.tls_key) {
            builder = builder.tls_files(chain, key);
        }
        if self.tls_self_made.is_some() {
            builder = builder.tls_self_made();
        }
        if let Some(policy) = self.policy_file()? {
            builder = builder.policy(Policy::parse(&policy.text).map_err(|error| policy.failed(&error))?);
        }
        if let Some(peers) = self.peers_file()? {
            builder =
                builder.wireguard_peers(WireGuardPeers::parse(&peers.text).map_err(|error| peers.failed(&error))?);
        }
        Ok(builder)
    }

    fn policy_file(&self) -> Result<Option<Text>, CliError> {
        let path = self.policy.as_ref();
        path.map(|path| Text::read("the policy", path)).transpose()
    }

    fn peers_file(&self) -> Result<Option<Text>, CliError> {
        let path = self.wireguard_peers.as_ref();
        path.map(|path| Text::read("the WireGuard peers", path)).transpose()
    }

    /// Reads the files again. What cannot be used is told, and what was in force stays.
    async fn reload(&self, coordinator: &Coordinator) {
        for outcome in [
            self.reload_policy(coordinator).await,
            self.reload_peers(coordinator).await,
        ] {
            match outcome {
                Ok(Some(what)) => info!("{what} read again"),
                Ok(None) => {}
                Err(failed) => error!("{}; what was in force stays", failed.message()),
            }
        }
    }

    async fn reload_policy(&self, coordinator: &Coordinator) -> Result<Option<&'static str>, CliError> {
        let Some(policy) = self.policy_file()? else {
            return Ok(None);
        };
        let set = coordinator.set_policy(&policy.text).await;
        set.map_err(|error| policy.failed(&error))?;
        Ok(Some(policy.what))
    }

    async fn reload_peers(&self, coordinator: &Coordinator) -> Result<Option<&'static str>, CliError> {
        let Some(file) = self.peers_file()? else {
            return Ok(None);
        };
        let peers = WireGuardPeers::parse(&file.text).map_err(|error| file.failed(&error))?;
        let set = coordinator.set_wireguard_peers(&peers).await;
        set.map_err(|error| file.failed(&error))?;
        Ok(Some(file.what))
    }

    fn state_file(&self) -> Result<PathBuf, CliError> {
        if let Some(path) = &self.state {
            return Ok(path.clone());
        }
        let directory = state::directory(None, Role::Coordinator)?;
        state::ensure(&directory)?;
        Ok(directory.join("coordinator.db"))
    }

    /// The socket that was given, else beside the state file that was given, else in the state directory.
    fn socket(&self) -> Result<PathBuf, CliError> {
        if let Some(path) = &self.socket {
            return Ok(path.clone());
        }
        let directory = state::directory(None, Role::Coordinator)?;
        state::ensure(&directory)?;
        Ok(directory.join(COORDINATOR_SOCKET))
    }
}

/// A file that was read, and how its faults are told.
struct Text {
    what: &'static str,
    path: PathBuf,
    text: String,
}

impl Text {
    fn read(what: &'static str, path: &Path) -> Result<Self, CliError> {
        let mut file = Self {
            what,
            path: path.to_owned(),
            text: String::new(),
        };
        file.text = std::fs::read_to_string(path).map_err(|error| file.failed(&error))?;
        Ok(file)
    }

    fn failed(&self, why: &dyn std::error::Error) -> CliError {
        CliError::failed(format!("{} in {}: {why}", self.what, self.path.display()))
    }
}

/// The cause belongs to the sentence: a port that is taken differs from one that is not allowed.
pub(in crate::cli) fn explain(error: sandd_coordinator::StartError) -> CliError {
    use std::error::Error;

    match error.source() {
        Some(source) => CliError::failed(format!("{error} ({source})")),
        None => error.into(),
    }
}

/// An embedded coordinator's STUN address: the usual port, or any free one.
pub(in crate::cli) fn free_stun(ip: IpAddr) -> SocketAddr {
    let usual = SocketAddr::from((ip, STUN_PORT));
    match std::net::UdpSocket::bind(usual) {
        Ok(_) => usual,
        Err(_) => (ip, 0).into(),
    }
}
