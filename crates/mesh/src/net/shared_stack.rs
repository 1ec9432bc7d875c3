//! What of a shared stack needs a clock: to open it, and one ICMP echo with a time limit.

use std::future::poll_fn;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::netstack::{EchoId, SharedStack, SocketError, Stack, StackConfig, WakeDriver};

/// Why there is no round-trip time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PingError {
    /// No reply came in time.
    #[error("no reply from {address} within {} ms", .timeout.as_millis())]
    TimedOut {
        /// Who was asked.
        address: IpAddr,
        /// How long it was waited for.
        timeout: Duration,
    },
    /// The request could not be sent.
    #[error(transparent)]
    Socket(#[from] SocketError),
}

impl SharedStack {
    /// A stack that starts now and takes its random numbers from the system. `wake_driver` is called, unlocked, when an
    /// owner's operation gave the driver work.
    #[must_use]
    pub fn new(mut config: StackConfig, wake_driver: WakeDriver) -> Self {
        getrandom::fill(&mut config.seed).expect("the system has a source of random numbers");
        Self::sharing(Stack::new(config, Instant::now()), wake_driver)
    }

    /// Sends one ICMP echo request and waits for its reply. The time is from the driver's turn that sent the request
    /// to the one that took the reply in.
    ///
    /// # Errors
    ///
    /// [`PingError::TimedOut`] without a reply, [`PingError::Socket`] when this node cannot ask `address` at all.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future forgets the request.
    pub async fn ping(&self, address: IpAddr, timeout: Duration) -> Result<Duration, PingError> {
        let id = self.lock().echo_begin(address)?;
        let request = Request { stack: self, id };
        let reply = poll_fn(|context| request.stack.lock().poll_echo(request.id, context));
        match tokio::time::timeout(timeout, reply).await {
            Ok(time) => Ok(time?),
            Err(_elapsed) => Err(PingError::TimedOut { address, timeout }),
        }
    }
}

/// Forgets the request whichever way the wait ends.
struct Request<'a> {
    stack: &'a SharedStack,
    id: EchoId,
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        self.stack.lock().echo_end(self.id);
    }
}
