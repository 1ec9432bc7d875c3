//! `sandd doctor`: says in words what is wrong, and what helps. It asks the running node and looks around on its own;
//! the judgement is pure.
//!
//! ```text
//! gather.rs   the node's status and netcheck, the coordinator over HTTP, the system     what is
//! judge.rs    node, coordinator, clock, key, UDP, relay, NAT, MTU, rights               what that means
//! path.rs     why a peer is not reached directly, and what would change that
//! ```

mod gather;
mod judge;
mod path;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::error::CliError;
use super::node::NodeArgs;
use super::{output, small_runtime};
use crate::escape::Escaped;

/// Flags of `sandd doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Name or mesh address of a peer: why is the path to it as it is? By default all peers that are talked with
    peer: Option<String>,
    #[command(flatten)]
    node: NodeArgs,
    /// Certificates to trust besides the system's, for the coordinator
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    /// It works, but not as well as it could.
    Warning,
    /// It does not work.
    Problem,
}

/// One line of the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    level: Level,
    topic: String,
    text: String,
    /// What helps.
    cure: Option<String>,
}

impl Finding {
    fn ok(topic: &str, text: impl Into<String>) -> Self {
        Self::new(Level::Ok, topic, text, None)
    }

    fn warning(topic: &str, text: impl Into<String>, cure: impl Into<String>) -> Self {
        Self::new(Level::Warning, topic, text, Some(cure.into()))
    }

    fn problem(topic: &str, text: impl Into<String>, cure: impl Into<String>) -> Self {
        Self::new(Level::Problem, topic, text, Some(cure.into()))
    }

    fn new(level: Level, topic: &str, text: impl Into<String>, cure: Option<String>) -> Self {
        Self {
            level,
            topic: topic.to_owned(),
            text: text.into(),
            cure,
        }
    }
}

impl DoctorArgs {
    /// Looks, judges and prints. The exit status is 1 when something does not work.
    pub(super) fn run(self) -> Result<ExitCode, CliError> {
        let facts = small_runtime()?.block_on(gather::gather(
            &self.node,
            self.peer.as_deref(),
            self.ca_file.as_deref(),
        ))?;
        let mut findings = judge::judge(&facts);
        findings.extend(path::judge(&facts, self.peer.as_deref())?);
        if self.node.json() {
            output::print_json(&serde_json::json!({ "findings": findings }));
        } else {
            let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            output::print(&text(&findings, colours));
        }
        let worst = findings.iter().map(|finding| finding.level).max();
        Ok(if worst == Some(Level::Problem) {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }
}

fn text(findings: &[Finding], colours: bool) -> String {
    let topic_of = |finding: &Finding| Escaped(&finding.topic).to_string();
    let width = findings.iter().map(|finding| topic_of(finding).chars().count()).max();
    let width = width.unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let (word, colour) = match finding.level {
            Level::Ok => ("ok", "\x1b[32m"),
            Level::Warning => ("warning", "\x1b[33m"),
            Level::Problem => ("problem", "\x1b[31m"),
        };
        let level = if colours {
            format!("{colour}{word:7}\x1b[0m")
        } else {
            format!("{word:7}")
        };
        let topic = topic_of(finding);
        text.push_str(&format!("{level}  {topic:width$}  {}\n", Escaped(&finding.text)));
        if let Some(cure) = &finding.cure {
            text.push_str(&format!("{:7}  {:width$}  -> {}\n", "", "", Escaped(cure)));
        }
    }
    text
}

#[cfg(test)]
mod tests;
