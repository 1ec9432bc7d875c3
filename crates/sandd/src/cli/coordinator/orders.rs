//! `sandd coordinator key|node|login ...`: asks the coordinator that runs on this host.

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use serde_json::Value;

use super::AskArgs;
use crate::cli::daemons::unexpected;
use crate::cli::error::CliError;
use crate::cli::state::{self, Role};
use crate::cli::{flags, output, small_runtime};
use crate::local::{self, COORDINATOR_SOCKET, CoordinatorOrder, Request, Response};

/// About pre-auth keys.
#[derive(Debug, Subcommand)]
pub(super) enum KeyOrder {
    /// Make a key and print it
    Create {
        /// For more than one node
        #[arg(long)]
        reusable: bool,
        /// Its nodes are forgotten when they go
        #[arg(long)]
        ephemeral: bool,
        /// How long it can be used, for instance 24h
        #[arg(long, default_value = "1h", value_name = "TIME", value_parser = flags::duration)]
        expiry: Duration,
        /// Owner of its nodes
        #[arg(long)]
        user: Option<String>,
        /// Tag of its nodes, repeatable
        #[arg(long, value_name = "tag:NAME")]
        tag: Vec<String>,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// List keys, without their secrets
    List {
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Make a key useless; nodes that joined with it stay
    Revoke {
        /// Number of the key
        id: i64,
        #[command(flatten)]
        ask: AskArgs,
    },
}

/// About nodes.
#[derive(Debug, Subcommand)]
pub(super) enum NodeOrder {
    /// List nodes
    List {
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Forget a node: its peers drop it at once
    Remove {
        /// Number of the node
        id: i64,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// End a node's key: it must join again
    Expire {
        /// Number of the node
        id: i64,
        #[command(flatten)]
        ask: AskArgs,
    },
}

/// About nodes that wait for a person.
#[derive(Debug, Subcommand)]
pub(super) enum LoginOrder {
    /// List who waits
    List {
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Let a node in
    Approve {
        /// Its id, or the address that the node shows
        login: String,
        /// Owner of the node
        #[arg(long, default_value = "sandd")]
        user: String,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Turn a node away
    Reject {
        /// Its id, or the address that the node shows
        login: String,
        #[command(flatten)]
        ask: AskArgs,
    },
}

impl AskArgs {
    fn ask(&self, order: CoordinatorOrder) -> Result<Value, CliError> {
        let request = Request::Coordinator { order };
        let response = small_runtime()?.block_on(self.response(&request))?;
        match response {
            Response::Value { value } => Ok(value),
            other @ (Response::Daemons { .. }
            | Response::Output { .. }
            | Response::TimedOut { .. }
            | Response::Status { .. }
            | Response::Failed { .. }) => Err(unexpected(other)),
        }
    }

    async fn response(&self, request: &Request) -> Result<Response, CliError> {
        if let Some(socket) = &self.socket {
            return Ok(local::ask(socket, request).await?);
        }
        // A controller with an embedded coordinator has the same socket in its own directory.
        for role in [Role::Coordinator, Role::Controller] {
            match local::ask(&state::directory(None, role)?.join(COORDINATOR_SOCKET), request).await {
                Ok(response) => return Ok(response),
                Err(local::AskError::NotRunning { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CliError::failed(
            "no coordinator of this user runs here; name its socket with --socket",
        ))
    }

    fn print(&self, value: &Value, columns: &[(&str, &str)]) {
        if self.json {
            output::print_json(value);
            return;
        }
        let head: Vec<&str> = columns.iter().map(|(head, _)| *head).collect();
        let rows: Vec<Vec<String>> = value
            .as_array()
            .into_iter()
            .flatten()
            .map(|entry| columns.iter().map(|(_, field)| cell(&entry[*field])).collect())
            .collect();
        if rows.is_empty() {
            output::print_line("none");
        } else {
            output::print(&output::table(&head, &rows));
        }
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(","),
        Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

fn done(word: &str) -> Result<ExitCode, CliError> {
    output::print_line(word);
    Ok(ExitCode::SUCCESS)
}

impl KeyOrder {
    /// Asks and prints.
    pub(super) fn run(self) -> Result<ExitCode, CliError> {
        match self {
            Self::Create {
                reusable,
                ephemeral,
                expiry,
                user,
                tag,
                ask,
            } => {
                let expiry = Some(expiry);
                let key = ask.ask(CoordinatorOrder::CreateKey {
                    reusable,
                    ephemeral,
                    expiry,
                    user,
                    tags: tag,
                })?;
                if ask.json {
                    output::print_json(&serde_json::json!({ "key": key }));
                } else {
                    output::print_line(&cell(&key));
                }
            }
            Self::List { ask } => {
                let columns = [
                    ("ID", "id"),
                    ("KEY", "key"),
                    ("REUSABLE", "reusable"),
                    ("EPHEMERAL", "ephemeral"),
                    ("USED", "used"),
                    ("REVOKED", "revoked"),
                    ("USER", "user"),
                    ("TAGS", "tags"),
                ];
                ask.print(&ask.ask(CoordinatorOrder::Keys)?, &columns);
            }
            Self::Revoke { id, ask } => {
                ask.ask(CoordinatorOrder::RevokeKey { id })?;
                return done("revoked");
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl NodeOrder {
    /// Asks and prints.
    pub(super) fn run(self) -> Result<ExitCode, CliError> {
        match self {
            Self::List { ask } => {
                let columns = [
                    ("ID", "id"),
                    ("NAME", "name"),
                    ("ADDRESSES", "addresses"),
                    ("ONLINE", "online"),
                    ("EXPIRED", "expired"),
                    ("EPHEMERAL", "ephemeral"),
                    ("USER", "user"),
                    ("TAGS", "tags"),
                ];
                ask.print(&ask.ask(CoordinatorOrder::Nodes)?, &columns);
                Ok(ExitCode::SUCCESS)
            }
            Self::Remove { id, ask } => {
                ask.ask(CoordinatorOrder::RemoveNode { id })?;
                done("removed")
            }
            Self::Expire { id, ask } => {
                ask.ask(CoordinatorOrder::ExpireNode { id })?;
                done("expired")
            }
        }
    }
}

impl LoginOrder {
    /// Asks and prints.
    pub(super) fn run(self) -> Result<ExitCode, CliError> {
        match self {
            Self::List { ask } => {
                let columns = [("ID", "id"), ("HOSTNAME", "hostname"), ("TAGS", "tags")];
                ask.print(&ask.ask(CoordinatorOrder::Logins)?, &columns);
                Ok(ExitCode::SUCCESS)
            }
            Self::Approve { login, user, ask } => {
                ask.ask(CoordinatorOrder::Approve { login, user })?;
                done("approved")
            }
            Self::Reject { login, ask } => {
                ask.ask(CoordinatorOrder::Reject { login })?;
                done("rejected")
            }
        }
    }
}
