//! `sandd quickstart`: everything on this machine, in one unprivileged process, to see it work (README's first command).
//!
//! A coordinator, a controller and two daemons, each daemon and the controller a mesh node of its own in userspace mode,
//! with free ports and state in memory. Commands go from the controller through WireGuard to both daemons.

mod stage;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use sandd_mesh::{PeerPath, PingReply};
use serde_json::json;

use super::controller::ControllerHandler;
use super::error::CliError;
use super::signals::StopSignals;
use super::{output, runtime};
use crate::controller::{CommandOutput, CommandRequest, Controller};
use crate::daemon::reaper;
use crate::escape::Escaped;
use crate::local::{CONTROLLER_SOCKET, LocalServer};
use stage::{CONTROLLER, Stage, WORKERS};

/// After this long something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a path may take to become direct before it is shown as it is.
const DIRECT_WITHIN: Duration = Duration::from_secs(2);

/// What is run on each daemon.
const COMMANDS: [&str; 2] = ["uname -sr", "echo \"$(id -un) in $(pwd), process $$\""];

/// Flags of `sandd quickstart`.
#[derive(Debug, Args)]
pub(super) struct QuickstartArgs {
    /// Keep everything running until Ctrl-C, for commands of your own
    #[arg(long)]
    keep: bool,
    /// Print what was measured as JSON
    #[arg(long)]
    json: bool,
}

impl QuickstartArgs {
    /// Shows it.
    pub(super) fn run(self) -> Result<ExitCode, CliError> {
        let started = Instant::now();
        reaper::adopt_orphans();
        runtime()?.block_on(async {
            let mut stop = StopSignals::new()?;
            tokio::select! {
                shown = self.show(started) => {
                    let stage = shown?;
                    if self.keep {
                        keep(&stage, &mut stop).await?;
                    }
                    self.clean_up(stage).await;
                    Ok(ExitCode::SUCCESS)
                }
                () = stop.received() => Err(CliError::failed("interrupted")),
            }
        })
    }

    async fn show(&self, started: Instant) -> Result<Stage, CliError> {
        let told = Told {
            quiet: self.json,
            started,
        };
        told.line("SandD quickstart: a mesh of three nodes in this process, in userspace, without any rights\n");
        let staged = tokio::time::timeout(PATIENCE, Stage::set(&told)).await;
        let stage = staged.map_err(|_| CliError::failed("the mesh was not up within a minute"))??;
        told.line("\nCommands, from the controller through the mesh\n");
        let first = Instant::now();
        let results = run_commands(&stage.controller, &told).await?;
        let first_byte = results
            .first()
            .map_or(Duration::ZERO, |result| result.answered.duration_since(started));
        let first_command = results
            .first()
            .map_or(Duration::ZERO, |result| result.answered.duration_since(first));
        told.line("Paths from the controller\n");
        let mut paths = Vec::new();
        for worker in WORKERS {
            let path = path_to(&stage, worker).await?;
            told.line(&format!("  {worker:<12}{} in {:.1} ms", path.path, path.rtt_ms));
            paths.push((worker, path));
        }
        told.line(&format!(
            "\nTime to the first byte of output: {:.2} s after the start, {:.1} ms of it for the command itself",
            first_byte.as_secs_f64(),
            first_command.as_secs_f64() * 1e3,
        ));
        if self.json {
            output::print_json(&document(&stage, &results, &paths, first_byte, first_command));
        }
        Ok(stage)
    }

    async fn clean_up(&self, stage: Stage) {
        let begun = Instant::now();
        stage.strike().await;
        if !self.json {
            let took = begun.elapsed().as_secs_f64();
            output::print_line(&format!("Cleaned up in {took:.2} s: nothing is left behind"));
        }
    }
}

/// Lines for the person who watches, with the time since the start.
pub(super) struct Told {
    quiet: bool,
    started: Instant,
}

impl Told {
    fn line(&self, text: &str) {
        if !self.quiet {
            output::print_line(text);
        }
    }

    /// Something is up.
    pub(super) fn up(&self, what: &str, where_: &str) {
        let since = self.started.elapsed().as_secs_f64();
        self.line(&format!("  {since:5.2} s  {what:<12}{}", Escaped(where_)));
    }
}

/// One command and what came of it.
struct Ran {
    daemon: String,
    command: &'static str,
    output: CommandOutput,
    round_trip: Duration,
    answered: Instant,
}

async fn run_commands(controller: &Controller, told: &Told) -> Result<Vec<Ran>, CliError> {
    let mut results = Vec::new();
    for command in COMMANDS {
        for worker in WORKERS {
            let begun = Instant::now();
            let output = controller.exec(worker, CommandRequest::new(command)).await?;
            let answered = Instant::now();
            let round_trip = answered.duration_since(begun);
            told.line(&format!("  {worker} $ {command}"));
            for line in output.stdout.lines().chain(output.stderr.lines()) {
                told.line(&format!("    {}", Escaped(line)));
            }
            told.line(&format!(
                "    exit {} after {:.1} ms\n",
                output.exit_code,
                round_trip.as_secs_f64() * 1e3
            ));
            if output.exit_code != 0 {
                return Err(CliError::failed(format!("a command on {worker} failed")));
            }
            results.push(Ran {
                daemon: worker.to_owned(),
                command,
                output,
                round_trip,
                answered,
            });
        }
    }
    let begun = Instant::now();
    let both = controller
        .broadcast(&BTreeMap::new(), &CommandRequest::new("exit 0"))
        .await;
    let took = begun.elapsed().as_secs_f64() * 1e3;
    told.line(&format!(
        "  both at once $ exit 0\n    {} answers after {took:.1} ms\n",
        both.len()
    ));
    Ok(results)
}

/// The path to a daemon: the relay carries the first packets, a direct path follows where there is one.
async fn path_to(stage: &Stage, worker: &str) -> Result<PingReply, CliError> {
    let until = Instant::now() + DIRECT_WITHIN;
    loop {
        let reply = stage.controller_node.ping(worker, Duration::from_secs(5)).await?;
        if matches!(reply.path, PeerPath::Direct(_)) || Instant::now() > until {
            return Ok(reply);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn document(
    stage: &Stage,
    results: &[Ran],
    paths: &[(&str, PingReply)],
    first_byte: Duration,
    first_command: Duration,
) -> serde_json::Value {
    let commands: Vec<_> = results
        .iter()
        .map(|ran| {
            json!({
                "daemon": ran.daemon, "command": ran.command, "exit_code": ran.output.exit_code,
                "stdout": ran.output.stdout, "round_trip_ms": ran.round_trip.as_secs_f64() * 1e3,
            })
        })
        .collect();
    let paths: BTreeMap<&str, &PingReply> = paths.iter().map(|(worker, reply)| (*worker, reply)).collect();
    json!({
        "coordinator": stage.coordinator.url(),
        "controller": stage.controller_node.addresses(),
        "commands": commands,
        "paths": paths,
        "first_byte_secs": first_byte.as_secs_f64(),
        "first_command_ms": first_command.as_secs_f64() * 1e3,
    })
}

/// Leaves it running, with the local API for `sandd exec` and `sandd daemons`.
async fn keep(stage: &Stage, stop: &mut StopSignals) -> Result<(), CliError> {
    let directory = tempfile::Builder::new().prefix("sandd-").tempdir()?;
    let socket = directory.path().join(CONTROLLER_SOCKET);
    let local = LocalServer::start(&socket, Arc::new(ControllerHandler(stage.controller.clone()))).await?;
    output::print_line(&format!(
        "\nKept running until Ctrl-C. In another terminal:\n\n  export SANDD_SOCKET={}\n  sandd daemons\n  \
         sandd exec {} -- 'echo hello from $(hostname)'\n",
        socket.display(),
        WORKERS[0],
    ));
    stop.received().await;
    drop(local);
    Ok(())
}

/// Where the daemons find their controller.
pub(super) fn server_url(port: u16) -> String {
    format!("ws://{CONTROLLER}:{port}/ws")
}
