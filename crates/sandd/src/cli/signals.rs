//! SIGTERM and SIGINT: the polite request to stop. SIGHUP: the request to read files again.

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

/// SIGHUP, caught from now on; never when nothing is there to be read again, so that it ends the process as ever.
pub(super) struct ReloadSignal(Option<Signal>);

impl ReloadSignal {
    /// Starts catching it if there is anything to read again.
    pub(super) fn new(wanted: bool) -> Result<Self, CliError> {
        let hangup = wanted.then(|| signal(SignalKind::hangup())).transpose()?;
        Ok(Self(hangup))
    }

    /// Waits for the next one.
    pub(super) async fn received(&mut self) {
        let next = match &mut self.0 {
            Some(hangup) => hangup.recv().await,
            None => None,
        };
        if next.is_none() {
            std::future::pending().await
        }
    }
}
