//! The local API of a running controller or node (S-20): how `sandd exec`, `daemons`, `status` and `ping` ask it.
//!
//! A Unix socket of mode 0600 in the process's state directory; whoever connects must be the same user, or root. One
//! connection carries one question and one answer, each as a 32-bit big-endian length and that much JSON.

mod client;
mod pieces;
mod server;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub use client::{AskError, ask};
pub use server::{Handler, HandlerFuture, LocalServer, ServeError};

use pieces::Pieces;
use sandd_mesh::MeshStatus;

use crate::controller::{CommandOutput, CommandRequest, DaemonInfo, ExecError};

/// File name of the controller's socket.
pub const CONTROLLER_SOCKET: &str = "controller.sock";

/// File name of a coordinator's socket.
pub const COORDINATOR_SOCKET: &str = "coordinator.sock";

/// File name of the socket of any mesh node.
pub const NODE_SOCKET: &str = "node.sock";

/// The largest question or answer: an output of 16 MiB, each character escaped.
const MAX_FRAME: usize = 64 * 1024 * 1024;

/// What may be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Request {
    /// At a controller: who is there.
    Daemons {
        /// All of these must match.
        labels: BTreeMap<String, String>,
    },
    /// At a controller: run a command.
    Exec {
        /// On this daemon.
        daemon: String,
        /// This one.
        command: CommandRequest,
    },
    /// At a node: addresses, peers and their paths.
    Status,
    /// At a node: is this peer there, and which way.
    Ping {
        /// Name or address.
        peer: String,
        /// How long to wait.
        timeout: Duration,
    },
    /// At a node: what the network lets through.
    Netcheck,
    /// At a node: leave the mesh for good.
    Logout,
    /// At a coordinator.
    Coordinator {
        /// What is to be done there.
        order: CoordinatorOrder,
    },
}

/// What a coordinator may be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
#[non_exhaustive]
pub enum CoordinatorOrder {
    /// Make a pre-auth key; the answer holds its text.
    CreateKey {
        /// For more than one node.
        reusable: bool,
        /// Its nodes are forgotten when they go.
        ephemeral: bool,
        /// How long it can be used; none = until revoked.
        expiry: Option<Duration>,
        /// Owner of its nodes.
        user: Option<String>,
        /// Tags of its nodes.
        tags: Vec<String>,
    },
    /// The keys, without their secrets.
    Keys,
    /// Make a key useless.
    RevokeKey {
        /// Its number.
        id: i64,
    },
    /// The nodes.
    Nodes,
    /// Forget a node.
    RemoveNode {
        /// Its number.
        id: i64,
    },
    /// End a node's key.
    ExpireNode {
        /// Its number.
        id: i64,
    },
    /// Logins that wait for a person.
    Logins,
    /// Let one in.
    Approve {
        /// Its id or its URL.
        login: String,
        /// Owner of the node.
        user: String,
    },
    /// Turn one away.
    Reject {
        /// Its id or its URL.
        login: String,
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Response {
    /// To [`Request::Daemons`].
    Daemons {
        /// By id.
        daemons: Vec<DaemonInfo>,
    },
    /// To [`Request::Exec`]: it ran.
    Output {
        /// How it went.
        output: CommandOutput,
    },
    /// To [`Request::Exec`]: it ran out of time.
    TimedOut {
        /// What happened.
        message: String,
        /// What it had written.
        stdout: String,
        /// What it had written.
        stderr: String,
    },
    /// To [`Request::Status`].
    Status {
        /// How the node stands.
        status: Box<MeshStatus>,
    },
    /// To the other questions at a node.
    Value {
        /// A document that depends on the question.
        value: serde_json::Value,
    },
    /// There is no answer but this sentence.
    Failed {
        /// What went wrong.
        message: String,
    },
}

impl Response {
    /// The answer to a command.
    #[must_use]
    pub fn of_exec(outcome: Result<CommandOutput, ExecError>) -> Self {
        match outcome {
            Ok(output) => Self::Output { output },
            Err(ExecError::TimedOut {
                message,
                stdout,
                stderr,
            }) => Self::TimedOut {
                message,
                stdout,
                stderr,
            },
            Err(error) => Self::failed(error),
        }
    }

    /// Anything that can be written as JSON.
    #[must_use]
    pub fn of_value(value: &impl Serialize) -> Self {
        match serde_json::to_value(value) {
            Ok(value) => Self::Value { value },
            Err(error) => Self::failed(error),
        }
    }

    /// A sentence.
    #[must_use]
    pub fn failed(why: impl std::fmt::Display) -> Self {
        Self::Failed {
            message: why.to_string(),
        }
    }
}

async fn write_frame(stream: &mut (impl AsyncWrite + Unpin), document: &impl Serialize) -> std::io::Result<()> {
    let mut body = Pieces::default();
    serde_json::to_writer(&mut body, document)?;
    if body.len() > MAX_FRAME {
        return Err(std::io::Error::other("answer too long"));
    }
    let length = u32::try_from(body.len()).map_err(std::io::Error::other)?;
    stream.write_all(&length.to_be_bytes()).await?;
    for piece in body.into_iter() {
        stream.write_all(&piece).await?;
    }
    stream.flush().await
}

async fn read_frame<T: serde::de::DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<T> {
    let length = usize::try_from(stream.read_u32().await?).map_err(std::io::Error::other)?;
    if length > MAX_FRAME {
        return Err(std::io::Error::other("frame too long"));
    }
    // Memory follows what arrives, not what is announced (S-33).
    let mut body = Vec::new();
    stream.take(length as u64).read_to_end(&mut body).await?;
    if body.len() < length {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_slice(&body).map_err(std::io::Error::other)
}
