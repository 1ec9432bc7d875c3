//! What a person sees when a command fails: one line, and an exit code.

use std::process::ExitCode;

use clap::error::ErrorKind;

/// A sentence for stderr and the exit code that goes with it.
#[derive(Debug)]
pub(super) struct CliError {
    message: String,
    code: u8,
}

impl CliError {
    /// Something could not be done.
    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: 1,
        }
    }

    /// The arguments make no sense together.
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: 2,
        }
    }

    /// Another exit code, where several failures are to be told apart.
    pub(super) fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// The sentence.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn report(&self) -> ExitCode {
        eprintln!("sandd: {}", one_line(&self.message));
        ExitCode::from(self.code)
    }
}

impl<E: std::error::Error> From<E> for CliError {
    fn from(error: E) -> Self {
        Self::failed(error.to_string())
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Help and version go to stdout; a wrong use is one line and exit code 2.
pub(super) fn report_usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.render().to_string();
    let sentence = if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        format!("a command is missing, one of: {}", command_names(&text).join(", "))
    } else {
        let ends = ["\n\nUsage:", "\n\nFor more information"].map(|mark| text.find(mark).unwrap_or(text.len()));
        let end = ends.into_iter().min().unwrap_or(text.len());
        one_line(text[..end].trim_start_matches("error: "))
    };
    eprintln!("sandd: {sentence} (see sandd --help)");
    ExitCode::from(2)
}

/// The words under `Commands:` in a help text.
fn command_names(help: &str) -> Vec<&str> {
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    list.take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect()
}
