//! `natlab`: the NAT matrix as a table and as JSON; its exit status says whether all is as expected. `cargo xtask natlab` runs it.

use std::{
    fs,
    io::{Write as _, stdout},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use e2e::lab::skip_reason;
use natlab::{MatrixOptions, Outcome, Share, matrix_table, run_matrix};

const USAGE: &str = "usage: natlab [--filter WORD]... [--with-tailscaled | --without-tailscaled] [--jobs N] [--argument ARG]... [--json FILE]

  --filter WORD        only pairs with this in their name; =WORD for the pair of just that name
  --with-tailscaled    a tailscaled in every cell; else in every third
  --without-tailscaled only our own nodes
  --jobs N             cells side by side (default 4)
  --argument ARG       one more argument of our own nodes
  --json FILE          writes the outcomes there, too";

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("natlab: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool> {
    let (options, json) = options(std::env::args().skip(1))?;
    if let Some(reason) = skip_reason() {
        bail!("no lab can be opened here: {reason}");
    }
    let outcomes = run_matrix(&options, &|outcome: &Outcome| {
        let verdict = outcome.failure.as_deref().unwrap_or("as expected");
        eprintln!("{:>5.1} s  {}: {verdict}", outcome.took_s, outcome.case);
    });
    if outcomes.is_empty() {
        bail!("no such pair");
    }
    write!(stdout().lock(), "{}", matrix_table(&outcomes))?;
    if let Some(path) = json {
        fs::write(&path, serde_json::to_string_pretty(&outcomes)?).with_context(|| path)?;
    }
    Ok(outcomes.iter().all(|outcome| outcome.failure.is_none()))
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<(MatrixOptions, Option<String>)> {
    let mut options = MatrixOptions {
        filters: Vec::new(),
        tailscaled: Share::Third,
        jobs: 4,
        arguments: Vec::new(),
    };
    let mut json = None;
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .with_context(|| format!("{argument} needs a value\n{USAGE}"))
        };
        match argument.as_str() {
            "--filter" => options.filters.push(value()?),
            "--with-tailscaled" => options.tailscaled = Share::All,
            "--without-tailscaled" => options.tailscaled = Share::None,
            "--jobs" => options.jobs = value()?.parse()?,
            "--argument" => options.arguments.push(value()?),
            "--json" => json = Some(value()?),
            _ => bail!("unknown argument {argument}\n{USAGE}"),
        }
    }
    Ok((options, json))
}
