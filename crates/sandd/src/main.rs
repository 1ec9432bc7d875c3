//! The program `sandd`: see [`sandd::cli`] for its commands.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The hidden mode first: it is started once per command, and nothing else may cost it time.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == sandd::daemon::child::HELPER_ARGUMENT)
    {
        return sandd::daemon::child::run_helper();
    }
    sandd::cli::run(std::env::args_os().collect())
}
