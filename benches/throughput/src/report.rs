//! The results: a table in Markdown, JSON with every figure, and a plot.

pub mod plot;
pub mod tables;

use std::{
    fmt::Write as _,
    io::{Write as _, stdout},
};

use anyhow::Result;
use serde_json::json;

use self::tables::{Column, Table};
use crate::{
    cells,
    engine::{Engine, WITH_INTERFACE},
    run::Bench,
    stages,
};

/// The whole report.
pub fn markdown(bench: &Bench) -> String {
    let mut text = format!("{}\n\n", bench.machine.line());
    let _ = writeln!(
        text,
        "Medians of {} interleaved rounds, streams of {} s, a stream of 1 s before each thrown away; in brackets smallest and largest.\n",
        bench.options.rounds,
        bench.options.stream.as_secs(),
    );
    for table in tables::tables(&bench.options) {
        text.push_str(&filled(&table, bench));
    }
    text.push_str(&limit(bench));
    text.push_str(&peers(bench));
    text.push_str(&ratios(bench));
    for remark in &bench.remarks {
        let _ = writeln!(text, "{remark}\n");
    }
    for note in &bench.notes {
        let _ = writeln!(text, "- {}", note.why);
    }
    text
}

/// The table with its medians; empty when none of its figures was measured.
fn filled(table: &Table, bench: &Bench) -> String {
    let columns: Vec<&Column> = table
        .columns
        .iter()
        .filter(|column| bench.figures.has(&column.metric))
        .collect();
    if columns.is_empty() {
        return String::new();
    }
    let mut header = vec!["engine", "version"];
    header.extend(columns.iter().map(|column| column.head.as_str()));
    let shown = |column: &Column, engine: Engine| {
        let decimals = column.decimals;
        let Some(median) = bench.figures.median(&column.metric, engine.name()) else {
            return "–".to_owned();
        };
        if median.rounds > 1 && decimals > 0 {
            format!(
                "{:.decimals$} ({:.decimals$}–{:.decimals$})",
                median.median, median.min, median.max
            )
        } else {
            format!("{:.decimals$}", median.median)
        }
    };
    let rows: Vec<Vec<String>> = table
        .engines
        .iter()
        .filter(|engine| bench.options.wants_engine(engine.name()))
        .map(|engine| {
            let mut row = vec![engine.name().to_owned(), engine.version()];
            row.extend(columns.iter().map(|column| shown(column, *engine)));
            row
        })
        .collect();
    format!("### {}\n\n{}\n", table.title, e2e::measure::table(&header, &rows))
}

/// How much of the speed to one peer is left among many.
fn peers(bench: &Bench) -> String {
    let (Some(few), Some(many)) = (bench.options.peers.iter().min(), bench.options.peers.iter().max()) else {
        return String::new();
    };
    let median = |metric: String| Some(bench.figures.median(&metric, Engine::Sandd.name())?.median);
    let share = || {
        let speed = median(cells::peers_speed(*many))? / median(cells::peers_speed(*few))?;
        let grown = median(cells::peers_memory(*many))? - median(cells::peers_memory(*few))?;
        let each = grown * 1024.0 / (many - few).max(1) as f64;
        Some(format!(
            "Ours with {many} peers configured: {speed:.3} of the speed with {few}, {each:.1} KiB of memory a peer.\n\n"
        ))
    };
    if few == many {
        String::new()
    } else {
        share().unwrap_or_default()
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
        ("UDP of 300 delivered", "udp_300_mbit"),
        ("ping, idle", "ping_idle_avg_ms"),
        ("ping p99, loaded", "ping_loaded_p99_ms"),
        ("userspace TCP", "userspace_gbit"),
        ("userspace CPU s/GB", "userspace_cpu_s_per_gb"),
        ("relayed TCP", "relayed_gbit"),
        ("link, loss 0 %", "link_loss_0_mbit"),
        ("link, loss 0.1 %", "link_loss_0.1_mbit"),
        ("link, loss 1 %", "link_loss_1_mbit"),
    ] {
        let others: Vec<String> = WITH_INTERFACE
            .into_iter()
            .chain([Engine::Tsnet, Engine::Kernel])
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

/// What the stages and iperf3 together leave room for, and how near ours comes.
fn limit(bench: &Bench) -> String {
    let Some(limit) = stages::limit(bench) else {
        return String::new();
    };
    let ours = |metric| {
        let median = bench.figures.median(metric, Engine::Sandd.name());
        median.map_or("not measured".to_owned(), |median| {
            format!("{:.2}", median.median / limit)
        })
    };
    format!(
        "The limit of this machine by the stages above and iperf3's own share: {limit:.2} Gbit/s. Ours is at {} of it, reverse {}.\n\n",
        ours("tcp_gbit"),
        ours("reverse_gbit")
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
        "limit_gbit": stages::limit(bench),
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
    writeln!(
        out,
        "written: {}",
        bench.options.out.join("throughput.{md,json,svg}").display()
    )?;
    Ok(())
}
