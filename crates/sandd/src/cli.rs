//! The commands of the program `sandd`, one file each.
//!
//! Each command parses into a struct of its own, runs on a runtime of its own and ends in an exit code or in one line on
//! stderr. `sandd --server-url ...` without a command is the original's daemon and means `sandd daemon ...`.

mod auth_key;
mod controller;
mod coordinator;
mod daemon;
mod daemons;
mod doctor;
mod embedded;
mod error;
mod exec;
mod flags;
mod join;
mod log;
mod netcheck;
mod node;
mod output;
mod quickstart;
mod signals;
mod state;
mod up;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use error::CliError;
use log::LogFormat;

/// Runs commands on machines that you cannot dial.
#[derive(Debug, Parser)]
#[command(name = "sandd", version, disable_help_subcommand = true, after_help = FLAT_FORM)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How log lines are written to stderr; RUST_LOG selects which.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

const FLAT_FORM: &str = "Flags without a command are those of `sandd daemon`: sandd --server-url ws://HOST:8765/ws";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the worker: dial the controller and execute its commands
    Daemon(daemon::DaemonArgs),
    /// Run the controller that daemons dial
    Controller(controller::ControllerArgs),
    /// Run a command on a daemon; the exit status is the command's
    Exec(exec::ExecArgs),
    /// List the daemons that are connected
    Daemons(daemons::DaemonsArgs),
    /// Run a bare mesh node
    Up(up::UpArgs),
    /// Show the running mesh node, its peers and their paths
    Status(node::StatusArgs),
    /// Print the mesh addresses of the running node
    Ip(node::IpArgs),
    /// Ping a peer through the mesh and say which way the answer came
    Ping(node::PingArgs),
    /// Measure what the network lets through
    Netcheck(netcheck::NetcheckArgs),
    /// Say what is wrong with this node or the path to a peer, and what helps
    Doctor(doctor::DoctorArgs),
    /// Leave the mesh for good
    Logout(node::LogoutArgs),
    /// Run a small coordinator, or give orders to the one that runs
    Coordinator(Box<coordinator::CoordinatorArgs>),
    /// Show all of it on this machine, without rights and without a trace
    Quickstart(quickstart::QuickstartArgs),
}

/// Runs the program with these arguments, the first being its name.
#[must_use]
pub fn run(mut arguments: Vec<OsString>) -> ExitCode {
    install_panic_hook();
    if let Err(error) = auth_key::hide(&arguments) {
        return error.report();
    }
    let flat = is_flat_form(&arguments);
    if flat {
        arguments.insert(command_position(&arguments), "daemon".into());
    }
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return error::report_usage(&error),
    };
    match dispatch(cli, flat) {
        Ok(code) => code,
        Err(error) => error.report(),
    }
}

fn dispatch(cli: Cli, flat: bool) -> Result<ExitCode, CliError> {
    let stays = match &cli.command {
        Command::Daemon(_) | Command::Controller(_) | Command::Up(_) => true,
        Command::Coordinator(args) => args.serves(),
        Command::Exec(_)
        | Command::Daemons(_)
        | Command::Status(_)
        | Command::Ip(_)
        | Command::Ping(_)
        | Command::Netcheck(_)
        | Command::Doctor(_)
        | Command::Logout(_)
        | Command::Quickstart(_) => false,
    };
    if stays {
        forbid_core_dumps();
    }
    log::init(cli.log_format, if stays { "info" } else { "warn" });
    match cli.command {
        Command::Daemon(args) => args.run(flat),
        Command::Controller(args) => args.run(),
        Command::Exec(args) => args.run(),
        Command::Daemons(args) => args.run(),
        Command::Up(args) => args.run(),
        Command::Status(args) => args.run(),
        Command::Ip(args) => args.run(),
        Command::Ping(args) => args.run(),
        Command::Netcheck(args) => args.run(),
        Command::Doctor(args) => args.run(),
        Command::Logout(args) => args.run(),
        Command::Coordinator(args) => args.run(),
        Command::Quickstart(args) => args.run(),
    }
}

/// Where the command's name stands or would stand: behind the program's name and flags that all commands share.
fn command_position(arguments: &[OsString]) -> usize {
    let mut at = 1;
    while let Some(word) = arguments.get(at).and_then(|word| word.to_str()) {
        match word {
            "--log-format" => at += 2,
            word if word.starts_with("--log-format=") => at += 1,
            _ => break,
        }
    }
    at.min(arguments.len())
}

/// True when the arguments are the original's: flags alone.
fn is_flat_form(arguments: &[OsString]) -> bool {
    match arguments
        .get(command_position(arguments))
        .and_then(|first| first.to_str())
    {
        Some("--help" | "-h" | "--version" | "-V") => false,
        Some(first) => first.starts_with('-'),
        None => command_position(arguments) == arguments.len(),
    }
}

/// Keys are in memory: no core dump, and no other process of this user may look (S-06). `SANDD_ALLOW_CORE=1` is for us.
fn forbid_core_dumps() {
    #[cfg(target_os = "linux")]
    if std::env::var_os("SANDD_ALLOW_CORE").is_none_or(|value| value != "1") {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}

/// A panic is a defect of ours, but nobody is helped by a backtrace.
fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(%place, "internal error, please report it");
        eprintln!("sandd: internal error at {place}, please report it");
    }));
}

/// A runtime for commands that ask and print.
fn small_runtime() -> Result<tokio::runtime::Runtime, CliError> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|error| CliError::failed(format!("the runtime could not be started: {error}")))
}

/// A runtime for processes that stay.
fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    let workers = std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 4));
    let built = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build();
    built.map_err(|error| CliError::failed(format!("the runtime could not be started: {error}")))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_alone_are_the_originals_daemon() {
        let flat = |words: &[&str]| is_flat_form(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(flat(&["sandd"]));
        assert!(flat(&["sandd", "--server-url", "ws://a/ws"]));
        assert!(flat(&["sandd", "-s", "ws://a/ws"]));
        assert!(!flat(&["sandd", "--help"]) && !flat(&["sandd", "-V"]) && !flat(&["sandd", "daemon"]));
        assert!(!flat(&["sandd", "nonsense"]));
        assert!(flat(&["sandd", "--log-format", "json", "-s", "ws://a/ws"]) && flat(&["sandd", "--log-format=json"]));
        assert!(!flat(&["sandd", "--log-format", "json", "up"]) && !flat(&["sandd", "--log-format=json", "--help"]));
    }
}
