//! The worker side: dials its controller, runs what it is asked to run, answers.
//!
//! A command's way: `connection` reads a message, `dispatch` says which verb it is, `commands` gives it a turn,
//! `exec` runs it through the re-executed helper in [`child`], `output` bounds what it wrote, and the answer goes
//! back on the connection that asked. [`reconnect`] decides when to dial again; commands do not notice a reconnect
//! unless it takes longer than a minute.

pub mod child;
mod commands;
mod connection;
mod dispatch;
mod exec;
mod jobs;
mod output;
pub mod policy;
pub mod reaper;
pub mod reconnect;
mod tree;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

pub use exec::HelperProgram;

use crate::escape::Escaped;
use crate::transport::{ServerUrl, Transport};
use crate::wire::ids::DaemonId;
use commands::Commands;
use connection::{ConnectionEnd, Identity};
use reconnect::Reconnect;

/// How long a daemon that stops waits for its commands to end.
const STOP_WITHIN: Duration = Duration::from_millis(3_800);

/// What a daemon is made of.
#[derive(Debug, Clone)]
pub struct DaemonConfig {
    /// Its controller.
    pub url: ServerUrl,
    /// Its name there.
    pub id: DaemonId,
    /// Its labels there.
    pub labels: BTreeMap<String, String>,
    /// How to reach the controller.
    pub transport: Transport,
    /// The longest pause between two attempts to connect.
    pub reconnect_ceiling: Duration,
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// Commands that run at once.
    pub max_commands: usize,
    /// How long commands go on after their controller was lost.
    pub keep_after_loss: Duration,
    /// The program whose hidden mode runs each command.
    pub helper: HelperProgram,
}

impl DaemonConfig {
    /// The defaults that users know from the flags.
    #[must_use]
    pub fn new(url: ServerUrl, id: DaemonId, transport: Transport) -> Self {
        Self {
            url,
            id,
            labels: BTreeMap::new(),
            transport,
            reconnect_ceiling: Duration::from_secs(5),
            heartbeat: Duration::from_secs(5),
            max_commands: policy::DEFAULT_MAX_COMMANDS,
            keep_after_loss: policy::DEFAULT_KEEP_AFTER_LOSS,
            helper: HelperProgram::this(),
        }
    }
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    stop: watch::Sender<bool>,
    registered: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Daemon {
    /// Starts it on the current runtime; it dials until [`Self::shutdown`].
    #[must_use]
    pub fn start(config: DaemonConfig) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (registered_sender, registered) = watch::channel(false);
        let task = tokio::spawn(run(config, stopped, registered_sender));
        Self { stop, registered, task }
    }

    /// Waits until the controller has taken the registration.
    pub async fn registered(&self) {
        let mut registered = self.registered.clone();
        let _ = registered.wait_for(|registered| *registered).await;
    }

    /// Says goodbye to the controller and ends all commands; done within 5 s.
    pub async fn shutdown(mut self) {
        let _ = self.stop.send(true);
        let _ = (&mut self.task).await;
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(config: DaemonConfig, mut stop: watch::Receiver<bool>, registered: watch::Sender<bool>) {
    let commands = Commands::new(&config);
    let identity = Identity::new(&config);
    let mut reconnect = Reconnect::new(config.reconnect_ceiling);
    info!(daemon_id = %Escaped(config.id.as_str()), labels = ?config.labels, url = %config.url, "daemon started");
    loop {
        let end = connection::run(&config, &identity, &commands, &registered, &mut reconnect, stop.clone()).await;
        registered.send_replace(false);
        let now = Instant::now();
        match end {
            ConnectionEnd::Stopped => break,
            ConnectionEnd::Lost(reason) => warn!(reason = %reason, "connection to the controller ended"),
        }
        let pause = reconnect.handle_ended(now, random());
        info!(
            pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
            "reconnecting"
        );
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    let _ = tokio::time::timeout(STOP_WITHIN, commands.stop()).await;
    info!("daemon stopped");
}

fn random() -> u32 {
    // Jitter only: without randomness the pause is just its middle.
    getrandom::u32().unwrap_or(u32::MAX / 2)
}
