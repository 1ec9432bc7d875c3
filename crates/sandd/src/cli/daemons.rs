//! `sandd daemons`: who is connected to the controller of this host.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::error::CliError;
use super::flags::{self, Pair};
use super::{output, small_runtime, state};
use crate::controller::DaemonInfo;
use crate::local::{self, Request, Response};

/// Flags of `sandd daemons`.
#[derive(Debug, Args)]
pub(super) struct DaemonsArgs {
    /// Only daemons with this label, repeatable
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = flags::pair)]
    label: Vec<Pair>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The controller's socket
    #[arg(long, env = "SANDD_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The controller's state directory
    #[arg(long, value_name = "DIR")]
    tunnel_state_dir: Option<PathBuf>,
}

impl DaemonsArgs {
    /// Asks and prints.
    pub(super) fn run(self) -> Result<ExitCode, CliError> {
        let socket = state::controller_socket(self.socket.as_deref(), self.tunnel_state_dir.as_deref())?;
        let filtered = !self.label.is_empty();
        let request = Request::Daemons {
            labels: flags::to_map(&self.label),
        };
        let response = small_runtime()?
            .block_on(local::ask(&socket, &request))
            .map_err(explain)?;
        let Response::Daemons { daemons } = response else {
            return Err(unexpected(response));
        };
        if self.json {
            output::print_json(&daemons);
        } else {
            output::print(&to_text(&daemons, filtered));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Says what to do when no controller answers.
pub(super) fn explain(error: local::AskError) -> CliError {
    if matches!(error, local::AskError::NotRunning { .. }) {
        return CliError::failed(format!("{error}; start a controller, or name its socket with --socket"));
    }
    error.into()
}

/// An answer that is a sentence, or none that we understand.
pub(super) fn unexpected(response: Response) -> CliError {
    if let Response::Failed { message } = response {
        return CliError::failed(message);
    }
    CliError::failed("the answer makes no sense, are both programs of the same version?")
}

fn to_text(daemons: &[DaemonInfo], filtered: bool) -> String {
    if daemons.is_empty() {
        let which = if filtered {
            "no daemon with these labels is connected\n"
        } else {
            "no daemons are connected\n"
        };
        return which.to_owned();
    }
    let row = |daemon: &DaemonInfo| {
        let labels: Vec<String> = daemon
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        vec![
            daemon.id.clone(),
            daemon.hostname.clone(),
            format!("{}/{}", daemon.platform, daemon.arch),
            daemon.version.clone(),
            daemon.address.ip().to_string(),
            if daemon.is_busy { "busy" } else { "idle" }.to_owned(),
            age(daemon.connected_secs),
            labels.join(","),
        ]
    };
    let rows: Vec<_> = daemons.iter().map(row).collect();
    output::table(
        &[
            "ID", "HOST", "PLATFORM", "VERSION", "ADDRESS", "STATE", "SINCE", "LABELS",
        ],
        &rows,
    )
}

/// Seconds as a person says them.
pub(super) fn age(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}
