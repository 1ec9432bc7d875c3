//! `natlab`: the NAT matrix and the faults, as tables and as JSON; the exit status says whether all is as it must be. `cargo xtask natlab` runs it.

use std::{
    fs,
    io::{Write as _, stdout},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use e2e::lab::skip_reason;
use natlab::{
    FaultLine, FaultOptions, MatrixOptions, Outcome, Share, fault_names, faults_table, matrix_table, run_faults,
    run_matrix,
};

const USAGE: &str =
    "usage: natlab [--filter WORD]... [--with-tailscaled | --without-tailscaled] [--jobs N] [--repeat N]
              [--with-port-guessing] [--json FILE]
       natlab faults [--rounds N] [--only NAME]... [--asleep SECONDS] [--seed N] [--json FILE]

The matrix: which pairs of routers become direct, and which must.
  --filter WORD        only pairs with this in their name; =WORD for the pair of just that name
  --with-tailscaled    a tailscaled in every cell; else in every third
  --without-tailscaled only our own nodes
  --jobs N             cells side by side (default 4)
  --repeat N           each cell so often
  --with-port-guessing our own nodes guess ports: then a hard router and an easy one are expected to be direct
  --json FILE          writes the outcomes there, too

The faults: what each costs, with traffic.
  --rounds N           how often each strikes (default 10)
  --only NAME          only this one
  --asleep SECONDS     how long a node is stopped (default 90)
  --seed N             of the moments at which they strike (default 1)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.split_first() {
        Some((verb, rest)) if verb == "faults" => faults(rest),
        _ => matrix(&arguments),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("natlab: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn matrix(arguments: &[String]) -> Result<bool> {
    let mut options = MatrixOptions {
        filters: Vec::new(),
        tailscaled: Share::Third,
        jobs: 4,
        repeat: 1,
        port_guessing: false,
    };
    let mut json = None;
    read(arguments, |argument, value| {
        match argument {
            "--filter" => options.filters.push(value()?),
            "--with-tailscaled" => options.tailscaled = Share::All,
            "--without-tailscaled" => options.tailscaled = Share::None,
            "--repeat" => options.repeat = value()?.parse()?,
            "--with-port-guessing" => options.port_guessing = true,
            "--jobs" => options.jobs = value()?.parse()?,
            "--json" => json = Some(value()?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
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

fn faults(arguments: &[String]) -> Result<bool> {
    let mut options = FaultOptions {
        only: Vec::new(),
        rounds: 10,
        asleep: Duration::from_secs(90),
        seed: 1,
    };
    let mut json = None;
    read(arguments, |argument, value| {
        match argument {
            "--rounds" => options.rounds = value()?.parse()?,
            "--only" => options.only.push(value()?),
            "--asleep" => options.asleep = Duration::from_secs(value()?.parse()?),
            "--seed" => options.seed = value()?.parse()?,
            "--json" => json = Some(value()?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let names = fault_names();
    if let Some(unknown) = options.only.iter().find(|only| !names.contains(&only.as_str())) {
        bail!("{unknown} is none of {}", names.join(", "));
    }
    let lines = run_faults(&options, &mut |line| eprintln!("{line}"));
    write!(stdout().lock(), "{}", faults_table(&lines))?;
    if let Some(path) = json {
        fs::write(&path, serde_json::to_string_pretty(&lines)?).with_context(|| path)?;
    }
    Ok(lines.iter().all(FaultLine::met))
}

/// Hands each argument to `take`, with a way to its value, and checks that a lab can be opened here.
fn read(
    arguments: &[String],
    mut take: impl FnMut(&str, &mut dyn FnMut() -> Result<String>) -> Result<bool>,
) -> Result<()> {
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || {
            let value = rest.next().cloned();
            value.with_context(|| format!("{argument} needs a value\n{USAGE}"))
        };
        if !take(argument, &mut value)? {
            bail!("unknown argument {argument}\n{USAGE}");
        }
    }
    match skip_reason() {
        Some(reason) => bail!("no lab can be opened here: {reason}"),
        None => Ok(()),
    }
}
