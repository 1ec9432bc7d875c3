//! Runs a command on a daemon, or on many at once.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::Controller;
use super::state::Shared;
use crate::escape::Escaped;
use crate::transport::websocket::SendError;
use crate::wire::ids::RequestId;
use crate::wire::v1::Message;

/// How much longer than the command the controller waits for the daemon's own word.
const GRACE: Duration = Duration::from_secs(5);

/// Daemons that a broadcast asks at the same time.
const BROADCAST_WIDTH: usize = 512;

/// A command for a daemon's shell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandRequest {
    /// What `sh -c` gets.
    pub command: String,
    /// How long it may run; whole seconds count.
    pub timeout: Duration,
    /// Laid over the daemon's own environment.
    pub env: BTreeMap<String, String>,
    /// Working directory, the daemon's own when there is none.
    pub cwd: Option<String>,
}

impl CommandRequest {
    /// A command with the original's default of 300 s.
    #[must_use]
    pub fn new(command: impl Into<String>) -> Self {
        Self {
            command: command.into(),
            timeout: Duration::from_secs(300),
            env: BTreeMap::new(),
            cwd: None,
        }
    }
}

/// How a command went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandOutput {
    /// What it wrote.
    pub stdout: String,
    /// What it wrote as errors.
    pub stderr: String,
    /// Its exit code, -1 when a signal ended it.
    pub exit_code: i32,
    /// How long it ran.
    pub duration_ms: u64,
    /// The middle of an output is missing.
    pub truncated: bool,
    /// How much it wrote in all, when output is missing.
    pub stdout_bytes: Option<u64>,
    /// How much it wrote in all, when output is missing.
    pub stderr_bytes: Option<u64>,
    /// The signal, when the daemon told it.
    pub signal: Option<i32>,
}

/// Why a command has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// No daemon of this id is registered.
    #[error("daemon '{}' not found, `sandd daemons` lists those that are connected", Escaped(.0))]
    NoSuchDaemon(String),
    /// It ran for too long, or the daemon did not answer in time.
    #[error("{message}")]
    TimedOut {
        /// What the daemon said, or that it said nothing.
        message: String,
        /// What had been written before.
        stdout: String,
        /// What had been written before.
        stderr: String,
    },
    /// The daemon could not run it.
    #[error("{}", Escaped(.0))]
    Failed(String),
    /// The daemon's connection ended first.
    #[error("daemon '{}' was lost ({reason}); {}", Escaped(id), if *may_have_run { "the command may have run" } else { "the command did not run" })]
    DaemonLost {
        /// Its id.
        id: String,
        /// What happened to the connection.
        reason: String,
        /// It had been sent.
        may_have_run: bool,
    },
    /// The command does not fit into a frame.
    #[error("command, environment and directory together are too long: {0}")]
    TooLong(String),
    /// Too many commands wait at this controller.
    #[error("too many commands wait for an answer already")]
    TooMany,
}

/// Forgets a waiter whose caller has gone away.
struct Waiting<'a> {
    shared: &'a Shared,
    id: RequestId,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.with(|state| state.pending.remove(&self.id));
    }
}

impl Controller {
    /// Runs a command on one daemon and waits for its end.
    ///
    /// # Errors
    /// [`ExecError`]; a command that ran and failed is no error but an exit code.
    pub async fn exec(&self, daemon: &str, request: CommandRequest) -> Result<CommandOutput, ExecError> {
        let shared = &*self.shared;
        let id = RequestId::random();
        let (waiter, answer) = oneshot::channel();
        let handle = shared.with(|state| {
            let entry = state
                .registry
                .get(daemon)
                .ok_or_else(|| ExecError::NoSuchDaemon(daemon.to_owned()))?;
            let (connection, handle) = (entry.connection, entry.handle.clone());
            if !state.pending.insert(id.clone(), connection, waiter) {
                return Err(ExecError::TooMany);
            }
            Ok(handle)
        })?;
        let waiting = Waiting { shared, id: id.clone() };
        let timeout_secs = request.timeout.as_secs() + u64::from(request.timeout.subsec_nanos() > 0);
        let message = Message::ExecuteCommand {
            request_id: id,
            command: request.command,
            timeout_secs,
            env: request.env,
            cwd: request.cwd,
        };
        let limit = Duration::from_secs(timeout_secs).saturating_add(GRACE);
        let mut sent = false;
        let exchange = async {
            match handle.outbox.send(&message).await {
                Ok(()) => sent = true,
                Err(SendError::Gone) => return Err(lost(daemon, "the connection ended", false)),
                Err(SendError::Wire(error)) => return Err(ExecError::TooLong(error.to_string())),
            }
            match answer.await {
                Ok(Ok(answer)) => result(answer),
                Ok(Err(reason)) => Err(lost(daemon, &reason, true)),
                Err(_) => Err(lost(daemon, "the controller stops", true)),
            }
        };
        let outcome = match tokio::time::timeout(limit, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(no_answer(daemon, timeout_secs, sent)),
        };
        drop(waiting);
        outcome
    }

    /// Runs a command on all daemons that have all of `labels`, at the same time.
    pub async fn broadcast(
        &self,
        labels: &BTreeMap<String, String>,
        request: &CommandRequest,
    ) -> BTreeMap<String, Result<CommandOutput, ExecError>> {
        let ids = self.shared.with(|state| state.registry.matching(labels));
        futures_util::stream::iter(ids)
            .map(|id| async move {
                let outcome = self.exec(id.as_str(), request.clone()).await;
                (id.as_str().to_owned(), outcome)
            })
            .buffer_unordered(BROADCAST_WIDTH)
            .collect()
            .await
    }
}

fn lost(id: &str, reason: &str, may_have_run: bool) -> ExecError {
    ExecError::DaemonLost {
        id: id.to_owned(),
        reason: reason.to_owned(),
        may_have_run,
    }
}

fn no_answer(daemon: &str, timeout_secs: u64, sent: bool) -> ExecError {
    let what = if sent {
        "did not answer"
    } else {
        "did not take the command"
    };
    ExecError::TimedOut {
        message: format!(
            "command timed out: daemon '{}' {what} within {timeout_secs} s and 5 s more",
            Escaped(daemon)
        ),
        stdout: String::new(),
        stderr: String::new(),
    }
}

fn result(answer: Message) -> Result<CommandOutput, ExecError> {
    if let Message::CommandOutput {
        stdout,
        stderr,
        exit_code,
        duration_ms,
        truncated,
        stdout_bytes,
        stderr_bytes,
        signal,
        ..
    } = answer
    {
        let output = CommandOutput {
            stdout,
            stderr,
            exit_code,
            duration_ms,
            truncated,
            stdout_bytes,
            stderr_bytes,
            signal,
        };
        return Ok(output);
    }
    if let Message::CommandError {
        error, stdout, stderr, ..
    } = answer
    {
        if error.contains("timed out") {
            let (stdout, stderr) = (stdout.unwrap_or_default(), stderr.unwrap_or_default());
            return Err(ExecError::TimedOut {
                message: Escaped(&error).to_string(),
                stdout,
                stderr,
            });
        }
        return Err(ExecError::Failed(error));
    }
    Err(ExecError::Failed(format!(
        "the daemon answered a command with {}",
        answer.kind()
    )))
}
