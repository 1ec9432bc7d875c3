//! `sandd daemon`, and the original's flags without a command.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use tracing::warn;

use super::error::CliError;
use super::join::{self, Login, TunnelArgs};
use super::signals::StopSignals;
use super::state::{self, KeptId, Role};
use super::{flags, runtime};
use crate::daemon::{Daemon, DaemonConfig, reaper};
use crate::escape::Escaped;
use crate::transport::tunnel::MeshDialer;
use crate::transport::{DirectDialer, ServerUrl, Transport};
use crate::wire::ids::DaemonId;

/// From the signal to the end.
const STOP_WITHIN: Duration = Duration::from_millis(4_700);

/// Flags of the daemon.
#[derive(Debug, Args)]
pub(super) struct DaemonArgs {
    /// Controller to dial: ws://HOST:PORT/ws or wss://...; in tunnel mode a mesh name or address
    #[arg(short, long, env = "SERVER_URL", value_name = "URL")]
    server_url: ServerUrl,
    /// Name in the controller's list; kept in the state directory when not given
    #[arg(short, long, env = "DAEMON_ID", value_name = "ID", value_parser = flags::daemon_id())]
    daemon_id: Option<DaemonId>,
    /// Longest pause between two attempts to connect
    #[arg(short, long, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=86_400))]
    reconnect_interval: u64,
    /// Time between heartbeats
    #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3_600))]
    heartbeat_interval: u64,
    /// Label to be selected by, repeatable
    #[arg(short, long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Commands that run at the same time; 1 keeps strict order
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4_096))]
    max_commands: u16,
    /// Time that commands go on after the controller was lost
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=86_400))]
    keep_after_loss: u64,
    /// Join the mesh first and dial through it
    #[arg(long)]
    tunnel: bool,
    #[command(flatten)]
    join: TunnelArgs,
}

impl DaemonArgs {
    /// Runs the daemon until it is told to stop.
    pub(super) fn run(self, flat: bool) -> Result<ExitCode, CliError> {
        let labels = self.labels(flat)?;
        let key = if self.tunnel {
            self.join.check()?;
            self.join.key()?
        } else {
            None
        };
        let direct = DirectDialer::new(self.join.ca_file())?;
        reaper::adopt_orphans();
        runtime()?.block_on(async {
            let mut stop = StopSignals::new()?;
            let mut node = None;
            let mut transport = Transport::Direct(direct.clone());
            if self.tunnel {
                let started = self
                    .join
                    .start(Role::Daemon, self.mesh_name().as_deref(), key, Login::ByKey)
                    .await?;
                let joined = tokio::select! {
                    joined = started.joined() => joined.map(|()| true),
                    () = stop.received() => Ok(false),
                };
                if !matches!(joined, Ok(true)) {
                    started.shutdown().await;
                    return joined.map(|_| ExitCode::SUCCESS);
                }
                transport = Transport::Tunnel(MeshDialer::new(started.mesh.clone(), direct));
                node = Some(started);
            }
            let kept = self.id()?;
            let daemon = Daemon::start(self.config(kept.id().clone(), labels, transport));
            tokio::select! {
                () = stop.received() => {}
                () = async { reaper::reap_as_init().await; std::future::pending().await } => {}
            }
            let until = Instant::now() + STOP_WITHIN;
            daemon.shutdown().await;
            if let Some(node) = node {
                node.shutdown_until(until).await;
            }
            Ok(ExitCode::SUCCESS)
        })
    }

    fn config(&self, id: DaemonId, labels: BTreeMap<String, String>, transport: Transport) -> DaemonConfig {
        let mut config = DaemonConfig::new(self.server_url.clone(), id, transport);
        config.labels = labels;
        config.reconnect_ceiling = Duration::from_secs(self.reconnect_interval);
        config.heartbeat = Duration::from_secs(self.heartbeat_interval);
        config.max_commands = usize::from(self.max_commands);
        config.keep_after_loss = Duration::from_secs(self.keep_after_loss);
        config
    }

    /// The daemon's id where it can be a host name: people look for it in the list of nodes.
    fn mesh_name(&self) -> Option<String> {
        self.daemon_id.as_ref().and_then(|id| join::hostname(id.as_str()).ok())
    }

    /// A word without `=` stops `sandd daemon`; scripts for the original rely on its being skipped (D44).
    fn labels(&self, flat: bool) -> Result<BTreeMap<String, String>, CliError> {
        let mut labels = Vec::new();
        for word in &self.label {
            match flags::pair(word) {
                Ok(pair) => labels.push(pair),
                Err(_) if flat => warn!(label = %Escaped(word), "a label without `=` is skipped"),
                Err(reason) => {
                    return Err(CliError::usage(format!(
                        "invalid value '{}' for '--label': {reason}",
                        Escaped(word)
                    )));
                }
            }
        }
        if labels.len() > 64 || labels.iter().any(|pair| pair.key.len() > 256 || pair.value.len() > 256) {
            return Err(CliError::usage(
                "at most 64 labels, each key and value at most 256 bytes",
            ));
        }
        Ok(flags::to_map(&labels))
    }

    /// The id of the flag, of the state directory, or a random one when that cannot be had: the original's behaviour.
    fn id(&self) -> Result<Id, CliError> {
        if let Some(id) = &self.daemon_id {
            return Ok(Id::Given(id.clone()));
        }
        if self.tunnel && self.join.is_ephemeral() {
            return Ok(Id::Given(DaemonId::random()));
        }
        let given = self.join.state_dir();
        let kept = state::directory(given, Role::Daemon).and_then(|directory| {
            state::ensure(&directory)?;
            Ok(state::kept_id(&directory)?)
        });
        match kept {
            Ok(kept) => Ok(Id::Kept(kept)),
            Err(error) if given.is_some() || self.tunnel => Err(error),
            Err(error) => {
                let reason = error.message();
                warn!(%reason, "the daemon gets a random id for this run; --daemon-id gives it one for good");
                Ok(Id::Given(DaemonId::random()))
            }
        }
    }
}

enum Id {
    Given(DaemonId),
    Kept(KeptId),
}

impl Id {
    fn id(&self) -> &DaemonId {
        match self {
            Self::Given(id) => id,
            Self::Kept(kept) => &kept.id,
        }
    }
}
