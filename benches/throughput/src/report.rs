//! The results: a table in Markdown, JSON with every figure, and a plot.

pub mod plot;

use std::{
    fmt::Write as _,
    io::{Write as _, stdout},
};

use anyhow::Result;
use serde_json::json;

use crate::{
    engine::{Engine, WITH_INTERFACE},
    run::Bench,
};

/// A column: its head, the metric, the number of decimals.
type Column = (&'static str, &'static str, usize);

struct Table {
    title: &'static str,
    engines: &'static [Engine],
    columns: &'static [Column],
}

const TABLES: [Table; 3] = [
    Table {
        title: "Kernel interface, direct",
        engines: &WITH_INTERFACE,
        columns: &[
            ("MTU", "mtu", 0),
            ("TCP, Gbit/s", "tcp_gbit", 2),
            ("reverse", "reverse_gbit", 2),
            ("8 streams", "streams8_gbit", 2),
            ("CPU s/GB", "cpu_s_per_gb", 2),
            ("UDP of 300, Mbit/s", "udp_mbit", 1),
            ("lost, %", "udp_lost_percent", 2),
            ("ping, ms", "ping_idle_avg_ms", 3),
            ("loaded p50", "ping_loaded_p50_ms", 2),
            ("loaded p99", "ping_loaded_p99_ms", 2),
            ("RSS idle, MiB", "rss_idle_mib", 1),
            ("peak", "rss_peak_mib", 1),
        ],
    },
    Table {
        title: "Userspace, direct",
        engines: &[Engine::Sandd, Engine::Tsnet],
        columns: &[
            ("TCP, Gbit/s", "userspace_gbit", 2),
            ("CPU s/GB", "userspace_cpu_s_per_gb", 2),
            ("peak RSS of the sender, MiB", "userspace_peak_sender_mib", 1),
            ("of the sink", "userspace_peak_sink_mib", 1),
        ],
    },
    Table {
        title: "Kernel interface, through Headscale's relay",
        engines: &[Engine::Sandd, Engine::Tailscaled],
        columns: &[
            ("TCP, Gbit/s", "relayed_gbit", 3),
            ("CPU of the relay, %", "relay_cpu_percent", 0),
        ],
    },
];

/// The whole report.
pub fn markdown(bench: &Bench) -> String {
    let mut text = format!("{}\n\n", bench.machine.line());
    let _ = writeln!(
        text,
        "Medians of {} interleaved rounds, streams of {} s, a stream of 1 s before each thrown away; in brackets smallest and largest.\n",
        bench.options.rounds,
        bench.options.stream.as_secs(),
    );
    for table in &TABLES {
        text.push_str(&table.text(bench));
    }
    text.push_str(&ratios(bench));
    for remark in &bench.remarks {
        let _ = writeln!(text, "{remark}\n");
    }
    for note in &bench.notes {
        let _ = writeln!(text, "- {}", note.why);
    }
    text
}

impl Table {
    fn text(&self, bench: &Bench) -> String {
        let columns: Vec<&Column> = self
            .columns
            .iter()
            .filter(|(_, metric, _)| bench.figures.has(metric))
            .collect();
        if columns.is_empty() {
            return String::new();
        }
        let mut header = vec!["engine", "version"];
        header.extend(columns.iter().map(|(head, _, _)| *head));
        let rows: Vec<Vec<String>> = self
            .engines
            .iter()
            .filter(|engine| bench.options.wants_engine(engine.name()))
            .map(|engine| {
                let mut row = vec![engine.name().to_owned(), engine.version()];
                row.extend(columns.iter().map(|(_, metric, decimals)| {
                    let median = bench.figures.median(metric, engine.name());
                    median.map_or("–".to_owned(), |median| {
                        if median.rounds > 1 && *decimals > 0 {
                            format!(
                                "{:.decimals$} ({:.decimals$}–{:.decimals$})",
                                median.median, median.min, median.max
                            )
                        } else {
                            format!("{:.decimals$}", median.median)
                        }
                    })
                }));
                row
            })
            .collect();
        format!("### {}\n\n{}\n", self.title, e2e::measure::table(&header, &rows))
    }
}

/// Ours against the others, metric by metric.
fn ratios(bench: &Bench) -> String {
    let mut rows = Vec::new();
    for (what, metric) in [
        ("TCP", "tcp_gbit"),
        ("reverse", "reverse_gbit"),
        ("8 streams", "streams8_gbit"),
        ("CPU s/GB", "cpu_s_per_gb"),
        ("UDP delivered", "udp_mbit"),
        ("ping, idle", "ping_idle_avg_ms"),
        ("ping p99, loaded", "ping_loaded_p99_ms"),
        ("userspace TCP", "userspace_gbit"),
        ("userspace CPU s/GB", "userspace_cpu_s_per_gb"),
        ("relayed TCP", "relayed_gbit"),
    ] {
        let others: Vec<String> = WITH_INTERFACE
            .into_iter()
            .chain([Engine::Tsnet])
            .filter(|other| *other != Engine::Sandd)
            .filter_map(|other| {
                let ratio = bench.figures.ratio(metric, Engine::Sandd.name(), other.name())?;
                Some(format!("{} {ratio:.2}", other.name()))
            })
            .collect();
        if !others.is_empty() {
            rows.push(vec![what.to_owned(), others.join(", ")]);
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "### Ours over theirs, of the medians\n\n{}\n",
        e2e::measure::table(&["figure", "sandd divided by"], &rows)
    )
}

/// Everything, for programs.
pub fn json(bench: &Bench) -> Result<String> {
    let engines: serde_json::Map<String, serde_json::Value> = WITH_INTERFACE
        .into_iter()
        .chain([Engine::Tsnet])
        .map(|engine| (engine.name().to_owned(), engine.version().into()))
        .collect();
    Ok(serde_json::to_string_pretty(&json!({
        "machine": bench.machine,
        "rounds": bench.options.rounds,
        "seconds": bench.options.stream.as_secs(),
        "engines": engines,
        "medians": bench.figures.medians(),
        "all": bench.figures,
        "remarks": bench.remarks,
        "not_measured": bench.notes,
    }))?)
}

/// Shows the report and where it lies.
pub fn print(bench: &Bench) -> Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{}", markdown(bench))?;
    writeln!(out, "written: {}", bench.options.out.join("throughput.{md,json,svg}").display())?;
    Ok(())
}
