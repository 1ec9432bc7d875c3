//! The controlling side: daemons dial in, and this runs commands on them.
//!
//! [`accept`] answers the port, `connection` is one task per daemon, [`registry`] knows who is there (pure),
//! [`identity`] who may be whom (pure), `pending` ties answers to their requests (pure), [`exec`] is what callers use.

pub mod accept;
mod connection;
pub mod exec;
pub mod identity;
mod limits;
pub mod members;
mod pending;
pub mod registry;
mod state;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tracing::{info, warn};

pub use exec::{CommandOutput, CommandRequest, ExecError};
pub use registry::{DaemonInfo, Stats};

use crate::transport::Listener;
use identity::IdentityRule;
use state::Shared;

/// How long a controller that stops waits for close frames to leave.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// What a controller is made of.
#[derive(Debug)]
pub struct ControllerConfig {
    /// Who may register as whom.
    pub identity: Arc<dyn IdentityRule>,
}

/// A running controller; cheap to clone, stops when told to or with its last handle.
#[derive(Debug, Clone)]
pub struct Controller {
    shared: Arc<Shared>,
    serving: Arc<Serving>,
    local: SocketAddr,
}

#[derive(Debug)]
struct Serving {
    task: JoinHandle<()>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Controller {
    /// Starts serving what the listener accepts, on the current runtime.
    #[must_use]
    pub fn start(config: ControllerConfig, listener: Listener) -> Self {
        let local = listener.local_addr();
        let shared = Arc::new(Shared::new(config.identity));
        let task = tokio::spawn(accept::serve(Arc::clone(&shared), listener));
        if shared.identity.is_open() {
            warn!("open mode: whoever reaches this port may register as a daemon; for trusted networks only");
        }
        info!(address = %local, "controller listens");
        Self {
            shared,
            serving: Arc::new(Serving { task }),
            local,
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The daemons that have all of `labels`, by id.
    #[must_use]
    pub fn daemons(&self, labels: &BTreeMap<String, String>) -> Vec<DaemonInfo> {
        self.shared.with(|state| state.daemons(labels, Instant::now()))
    }

    /// One daemon.
    #[must_use]
    pub fn daemon(&self, id: &str) -> Option<DaemonInfo> {
        self.shared.with(|state| state.daemon(id, Instant::now()))
    }

    /// Numbers over all daemons.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.with(|state| state.stats(Instant::now()))
    }

    /// Waits until a daemon of this id is there; `false` when the time is up.
    pub async fn wait_for_daemon(&self, id: &str, timeout: Duration) -> bool {
        let mut changes = self.shared.changes.subscribe();
        let there = async {
            while self.daemon(id).is_none() {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(timeout, there).await.is_ok()
    }

    /// Says goodbye to the daemons and stops listening.
    pub async fn shutdown(&self) {
        self.shared.stop.send_replace(true);
        let mut changes = self.shared.changes.subscribe();
        let gone = changes.wait_for(|_| self.shared.with(|state| state.connection_count()) == 0);
        let _ = tokio::time::timeout(STOP_WITHIN, gone).await;
        self.serving.task.abort();
    }
}
