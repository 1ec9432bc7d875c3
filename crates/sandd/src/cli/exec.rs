//! `sandd exec`: a command's output on our stdout and stderr, its exit status as ours.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::daemons::{explain, unexpected};
use super::error::CliError;
use super::flags::{self, Pair};
use super::{small_runtime, state};
use crate::controller::{CommandOutput, CommandRequest};
use crate::local::{self, Request, Response};

/// Exit status when the command ran out of time, as with timeout(1).
const TIMED_OUT: u8 = 124;

/// Exit status when the command has none of its own because SandD could not run it.
const NOT_RUN: u8 = 125;

/// Exit status when a person stopped waiting, as in a shell.
const INTERRUPTED: u8 = 130;

const GOES_ON: &str = "not waiting any more; the command goes on at the daemon until it ends or its time is up";

/// Flags of `sandd exec`.
#[derive(Debug, Args)]
#[command(
    after_help = "One CMD word goes to the daemon's shell as it is; several are passed on as they are, quoted.\n\
                  Exit status: the command's; 128+N when signal N ended it, 124 when it timed out, 125 when it could not be run."
)]
pub(super) struct ExecArgs {
    /// Time after which the command and all its children are ended
    #[arg(long, default_value_t = 300, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=86_400))]
    timeout: u64,
    /// Working directory on the daemon
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Environment variable for the command, repeatable
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = flags::pair)]
    env: Vec<Pair>,
    /// Print the result as JSON; the exit status stays the command's
    #[arg(long)]
    json: bool,
    /// The controller's socket
    #[arg(long, env = "SANDD_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The controller's state directory
    #[arg(long, value_name = "DIR")]
    tunnel_state_dir: Option<PathBuf>,
    /// Daemon to run on
    daemon: String,
    /// Command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

impl ExecArgs {
    /// Asks the controller and passes on what came back.
    pub(super) fn run(self) -> Result<ExitCode, CliError> {
        let command = CommandRequest {
            command: shell_command(&self.command),
            timeout: Duration::from_secs(self.timeout),
            env: flags::to_map(&self.env),
            cwd: self.cwd,
        };
        let socket = state::controller_socket(self.socket.as_deref(), self.tunnel_state_dir.as_deref())?;
        let request = Request::Exec {
            daemon: self.daemon,
            command,
        };
        let response = small_runtime()?.block_on(async {
            tokio::select! {
                answer = local::ask(&socket, &request) => Some(answer),
                _ = tokio::signal::ctrl_c() => None,
            }
        });
        let Some(response) = response else {
            // This version of the protocol has no word for it.
            return Err(CliError::failed(GOES_ON.to_owned()).with_code(INTERRUPTED));
        };
        let response = response.map_err(|error| explain(error).with_code(NOT_RUN))?;
        match response {
            Response::Output { output } => {
                if self.json {
                    super::output::print_json(&output);
                } else {
                    write_both(&output.stdout, &output.stderr);
                    warn_of_loss(&output);
                }
                Ok(ExitCode::from(status(&output)))
            }
            Response::TimedOut {
                message,
                stdout,
                stderr,
            } => {
                write_both(&stdout, &stderr);
                Err(CliError::failed(message).with_code(TIMED_OUT))
            }
            other @ (Response::Daemons { .. }
            | Response::Status { .. }
            | Response::Value { .. }
            | Response::Failed { .. }) => Err(unexpected(other).with_code(NOT_RUN)),
        }
    }
}

/// Output is text within bounds; whoever redirects it into a file must hear when it is not all there.
fn warn_of_loss(output: &CommandOutput) {
    if output.truncated {
        let mut err = std::io::stderr().lock();
        let _ = writeln!(
            err,
            "sandd: the output was too long, its middle is left out where a line says so"
        );
    }
}

fn write_both(stdout: &str, stderr: &str) {
    super::output::print(stdout);
    let mut err = std::io::stderr().lock();
    let _ = err.write_all(stderr.as_bytes());
}

/// A v1 daemon says -1 for a signal; ours says which one.
fn status(output: &CommandOutput) -> u8 {
    match output.signal {
        Some(signal) => u8::try_from(128 + signal.clamp(0, 127)).unwrap_or(255),
        // As the kernel does it: the low eight bits.
        None => u8::try_from(output.exit_code & 0xff).unwrap_or(255),
    }
}

/// One word is a shell's command line; several are a program and its arguments, which the shell must not touch.
fn shell_command(words: &[String]) -> String {
    match words {
        [line] => line.clone(),
        words => words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "),
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_word_is_for_the_shell_and_several_are_not() {
        let command = |words: &[&str]| shell_command(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        assert_eq!(command(&["echo $HOME | wc"]), "echo $HOME | wc");
        assert_eq!(command(&["echo", "$HOME"]), "echo '$HOME'");
        assert_eq!(command(&["sh", "-c", "it's"]), r"sh -c 'it'\''s'");
        assert_eq!(command(&["A=b", ""]), "'A=b' ''");
    }

    #[test]
    fn the_exit_status_is_the_commands() {
        let output = |exit_code, signal| CommandOutput {
            stdout: String::new(),
            stderr: String::new(),
            exit_code,
            duration_ms: 0,
            truncated: false,
            stdout_bytes: None,
            stderr_bytes: None,
            signal,
        };
        let table = [
            (0, None, 0),
            (7, None, 7),
            (255, None, 255),
            (-1, None, 255),
            (-1, Some(9), 137),
        ];
        for (code, signal, expected) in table {
            assert_eq!(status(&output(code, signal)), expected);
        }
    }
}
