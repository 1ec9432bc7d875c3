//! `sandd coordinator`: the small coordinator of our own, and questions to the one that runs.

mod handler;
mod orders;
mod serve;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

pub(super) use handler::CoordinatorHandler;
pub(super) use serve::{explain, free_stun};

use super::error::CliError;

/// Flags of `sandd coordinator`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct CoordinatorArgs {
    #[command(flatten)]
    serve: serve::ServeArgs,
    #[command(subcommand)]
    order: Option<Order>,
}

/// What a running coordinator may be told.
#[derive(Debug, Subcommand)]
enum Order {
    /// Pre-auth keys, which let nodes join
    #[command(subcommand)]
    Key(orders::KeyOrder),
    /// Nodes that have joined
    #[command(subcommand)]
    Node(orders::NodeOrder),
    /// Nodes without a key that wait for a person
    #[command(subcommand)]
    Login(orders::LoginOrder),
}

/// Which coordinator is asked.
#[derive(Debug, Args)]
struct AskArgs {
    /// The coordinator's socket; by default coordinator.sock of the coordinator or controller that runs here
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl CoordinatorArgs {
    /// Serves, or asks the one that serves.
    pub(super) fn run(self) -> Result<ExitCode, CliError> {
        match self.order {
            None => self.serve.run(),
            Some(Order::Key(order)) => order.run(),
            Some(Order::Node(order)) => order.run(),
            Some(Order::Login(order)) => order.run(),
        }
    }

    /// True when this process stays.
    pub(super) fn serves(&self) -> bool {
        self.order.is_none()
    }
}
