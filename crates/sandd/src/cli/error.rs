//! What a person sees when a command fails: one line, and an exit code.

use std::process::ExitCode;

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
    let end = ["\n\nUsage:", "\n\nFor more information"]
        .iter()
        .filter_map(|mark| text.find(mark))
        .min();
    let sentence = one_line(text[..end.unwrap_or(text.len())].trim_start_matches("error: "));
    eprintln!("sandd: {sentence} (see sandd --help)");
    ExitCode::from(2)
}
