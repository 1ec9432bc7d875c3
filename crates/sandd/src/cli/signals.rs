//! SIGTERM and SIGINT: the polite request to stop.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::CliError;

/// Both signals, caught from now on.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Starts catching them, before anything that takes time begins.
    pub(super) fn new() -> Result<Self, CliError> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for either.
    pub(super) async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
