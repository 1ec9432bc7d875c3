//! `lab-measure`: the figures of start, direct path and idle cost, as a table and as JSON. `cargo xtask lab-measure` runs it.

use std::{
    fs,
    io::{Write as _, stdout},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use e2e::{
    lab::{Timings, skip_reason},
    measure::{
        Contestant, IdleCost, OutageFigures, Scenario, StartFigures, StartPlan, Summary, idle_daemon, idle_node,
        outage, start_figures, table,
    },
};
use serde::Serialize;

const USAGE: &str = "usage: lab-measure [--runs N] [--only WORD]... [--idle SECONDS] [--json FILE]

  --runs N        starts of each kind (default 10)
  --only WORD     only lines with this word: sandd, embedded, tailscaled, interop, first, restart, default, tuned, outage, idle, daemon
  --idle SECONDS  how long an idle node is watched (default 60)
  --away SECONDS  how long Headscale is away in the outage (default 60)
  --json FILE     writes the figures there, too";

struct Options {
    runs: usize,
    only: Vec<String>,
    idle: Duration,
    away: Duration,
    json: Option<String>,
}

#[derive(Serialize)]
struct Report {
    starts: Vec<StartFigures>,
    outage: Option<OutageFigures>,
    idle: Vec<IdleCost>,
    machine: Machine,
}

/// On what it was measured.
#[derive(Serialize)]
struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    load_before: String,
}

fn main() -> Result<()> {
    let options = Options::from_arguments(std::env::args().skip(1))?;
    if let Some(reason) = skip_reason() {
        bail!("nothing can be measured here: {reason}");
    }
    let mut report = Report {
        starts: Vec::new(),
        outage: None,
        idle: Vec::new(),
        machine: Machine::here(),
    };
    for (name, contestant, peer) in [
        ("sandd", Contestant::Sandd, Contestant::Sandd),
        ("interop", Contestant::Sandd, Contestant::Tailscaled),
        ("embedded", Contestant::Embedded, Contestant::Embedded),
        ("tailscaled", Contestant::Tailscaled, Contestant::Tailscaled),
    ] {
        for (timing, timings) in [("default", Timings::Default), ("tuned", Timings::Tuned)] {
            for (story, scenario) in [("first", Scenario::FirstJoin), ("restart", Scenario::Restart)] {
                if options.wants(&[name, timing, story]) {
                    let mut progress = |line: &str| eprintln!("{line}");
                    let plan = StartPlan::at_home(contestant, peer, scenario, timings, options.runs);
                    report.starts.push(start_figures(&plan, &mut progress)?);
                }
            }
        }
    }
    for (name, contestant) in [("sandd", Contestant::Sandd), ("tailscaled", Contestant::Tailscaled)] {
        if options.wants(&[name, "idle"]) {
            report.idle.push(idle_node(contestant, options.idle)?);
        }
    }
    if options.wants(&["sandd", "idle", "daemon"]) {
        report.idle.push(idle_daemon(options.idle)?);
    }
    if options.wants(&["sandd", "outage"]) {
        report.outage = Some(outage(options.away)?);
    }
    let mut out = stdout().lock();
    writeln!(
        out,
        "{}, {} cores, Linux {}, load before {}\n",
        report.machine.cpu, report.machine.cores, report.machine.kernel, report.machine.load_before
    )?;
    writeln!(out, "{}", starts_table(&report.starts))?;
    if let Some(outage) = &report.outage {
        writeln!(out, "{}", outage_table(outage))?;
    }
    writeln!(out, "{}", idle_table(&report.idle))?;
    if let Some(path) = options.json {
        fs::write(&path, serde_json::to_string_pretty(&report)?).with_context(|| path)?;
    }
    Ok(())
}

impl Options {
    fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            runs: 10,
            only: Vec::new(),
            idle: Duration::from_secs(60),
            away: Duration::from_secs(60),
            json: None,
        };
        while let Some(argument) = arguments.next() {
            let value = arguments
                .next()
                .with_context(|| format!("{argument} needs a value\n{USAGE}"))?;
            match argument.as_str() {
                "--runs" => options.runs = value.parse()?,
                "--only" => options.only.push(value),
                "--idle" => options.idle = Duration::from_secs(value.parse()?),
                "--away" => options.away = Duration::from_secs(value.parse()?),
                "--json" => options.json = Some(value),
                _ => bail!("unknown argument {argument}\n{USAGE}"),
            }
        }
        Ok(options)
    }

    fn wants(&self, words: &[&str]) -> bool {
        self.only.iter().all(|only| words.contains(&only.as_str()))
    }
}

fn starts_table(starts: &[StartFigures]) -> String {
    let shown = |summary: Option<&Summary>| {
        summary.map_or("-".to_owned(), |summary| {
            format!(
                "{:.0} / {:.0} ({:.0}–{:.0})",
                summary.median_ms, summary.p95_ms, summary.min_ms, summary.max_ms
            )
        })
    };
    let rows: Vec<Vec<String>> = starts
        .iter()
        .map(|line| {
            vec![
                format!("{:?} to {:?}", line.contestant, line.peer),
                format!("{:?}", line.scenario),
                line.headscale.to_owned(),
                shown(line.first_answer.as_ref()),
                shown(line.headscale_register.as_ref()),
                shown(line.direct_after.as_ref()),
                line.never_direct.to_string(),
                format!("{} of {}", line.lost, line.sent),
            ]
        })
        .collect();
    table(
        &[
            "nodes",
            "start",
            "Headscale",
            "first answer, ms: median / p95 (range)",
            "of it Headscale's register",
            "direct after, ms",
            "never",
            "lost",
        ],
        &rows,
    )
}

fn idle_table(idle: &[IdleCost]) -> String {
    let rows: Vec<Vec<String>> = idle
        .iter()
        .map(|line| {
            vec![
                line.what.clone(),
                format!("{:.1}", line.rss_mib),
                format!("{:.1}", line.anonymous_mib),
                format!("{:.2}", line.cpu_percent),
                line.threads.to_string(),
                format!("{:.0}", line.watched_s),
            ]
        })
        .collect();
    table(
        &[
            "idle",
            "RSS, MiB",
            "of it heap and stacks",
            "CPU, % of a core",
            "threads",
            "watched, s",
        ],
        &rows,
    )
}

fn outage_table(outage: &OutageFigures) -> String {
    let rows = [
        (
            format!("Headscale away for {:.0} s: echo requests lost", outage.away_s),
            format!("{} of {}", outage.lost, outage.sent),
        ),
        (
            "longest time between two answers".to_owned(),
            format!("{:.0} ms", outage.longest_silence_ms),
        ),
        (
            "both nodes in step again after its return".to_owned(),
            format!("{:.0} ms", outage.resync_ms),
        ),
        (
            "removed node says so after the next contact".to_owned(),
            format!("{:.0} ms", outage.removal_said_ms),
        ),
    ];
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(what, figure)| vec![what, figure]).collect();
    table(&["outage", "figure"], &rows)
}

impl Machine {
    fn here() -> Self {
        let first = |path: &str, prefix: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let line = text
                .lines()
                .find(|line| line.starts_with(prefix))
                .unwrap_or_default()
                .to_owned();
            line.rsplit(": ").next().unwrap_or_default().trim().to_owned()
        };
        Self {
            cpu: first("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(0, Into::into),
            kernel: first("/proc/sys/kernel/osrelease", ""),
            load_before: first("/proc/loadavg", ""),
        }
    }
}
