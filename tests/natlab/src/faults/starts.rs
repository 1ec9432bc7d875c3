//! Figures of starts, by the measure of `lab-measure`: first answers, direct paths, many nodes at once.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use e2e::{
    lab::{Headscale, HeadscaleOptions, Host, Lab, MeshPeer, MeshPeerOptions, NatKind, Site, Timings, Wire},
    measure::{Contestant, Place, Scenario, StartFigures, StartPlan, start_figures},
};

use super::{FaultOptions, report::FaultLine};

/// What can be measured here.
pub(super) const NAMES: [&str; 6] = ["restart", "first-join", "direct", "direct-tailscaled", "lossy", "crowd"];

/// Nodes of a crowd.
const CROWD: usize = 30;

const PRC: Place = Place::Behind(NatKind::PortRestricted);

/// The pairs that stand for all, with who starts first.
const PAIRS: [(&str, (Place, Place)); 4] = [
    ("prc x prc", (PRC, PRC)),
    ("prc x none", (PRC, Place::Open)),
    ("none x none", (Place::Open, Place::Open)),
    (
        "full-cone x hard",
        (Place::Behind(NatKind::FullCone), Place::Behind(NatKind::Hard)),
    ),
];

/// What a start is measured by.
#[derive(Clone, Copy)]
enum Figure {
    FirstAnswer,
    Direct,
}

/// Measures the lines of that name.
pub(super) fn measure(name: &str, options: &FaultOptions, progress: &mut dyn FnMut(&str)) -> Vec<FaultLine> {
    let plan = |peer, scenario, timings| StartPlan::at_home(Contestant::Sandd, peer, scenario, timings, options.rounds);
    let ours = Contestant::Sandd;
    if name == "crowd" {
        return vec![crowd(name, options, progress)];
    }
    let mut lines = Vec::new();
    let mut add = |what: &str, bar_s: f64, figure, plan: StartPlan| {
        lines.push(line(name, what, bar_s, figure, &plan, progress));
    };
    match name {
        "restart" => {
            for (what, bar, timings) in [
                ("restart to first answer, default Headscale", 0.4, Timings::Default),
                ("restart to first answer, tuned Headscale", 0.2, Timings::Tuned),
            ] {
                add(what, bar, Figure::FirstAnswer, plan(ours, Scenario::Restart, timings));
            }
        }
        "first-join" => {
            let what = "first join to first answer, tuned Headscale";
            add(
                what,
                0.3,
                Figure::FirstAnswer,
                plan(ours, Scenario::FirstJoin, Timings::Tuned),
            );
        }
        "lossy" => {
            // Two wires between the nodes: together 40 ms and about 5 of a hundred packets lost each way.
            let wire = Wire {
                delay: Duration::from_millis(20),
                jitter: Duration::ZERO,
                loss_percent: 2.53,
                seed: options.seed,
            };
            let lossy = StartPlan {
                wire: Some(wire),
                ..plan(ours, Scenario::FirstJoin, Timings::Tuned)
            };
            add("first answer to direct, 5 % loss and 40 ms", 2.5, Figure::Direct, lossy);
        }
        _ => {
            let peer = if name == "direct" { ours } else { Contestant::Tailscaled };
            for (pair, places) in PAIRS {
                let placed = StartPlan {
                    places,
                    ..plan(peer, Scenario::FirstJoin, Timings::Tuned)
                };
                add(&format!("first answer to direct, {pair}"), 0.4, Figure::Direct, placed);
            }
        }
    }
    lines
}

fn line(
    name: &str,
    what: &str,
    bar_s: f64,
    figure: Figure,
    plan: &StartPlan,
    progress: &mut dyn FnMut(&str),
) -> FaultLine {
    let mut line = FaultLine::new(name, what, "ms", bar_s * 1e3);
    let figures: Result<StartFigures> = start_figures(plan, progress);
    match figures {
        Ok(figures) => {
            let summary = match figure {
                Figure::FirstAnswer => figures.first_answer,
                Figure::Direct => figures.direct_after,
            };
            line.figures = summary.map_or_else(Vec::new, |summary| summary.all_ms);
            line.lost = figures.lost;
            if figures.never_direct > 0 {
                line.failure = Some(format!("{} never direct", figures.never_direct));
            }
        }
        Err(error) => line.fail(&error),
    }
    line
}

/// A crowd of embedded nodes, each behind a router of its own: until each has had an answer from all others.
fn crowd(name: &str, options: &FaultOptions, progress: &mut dyn FnMut(&str)) -> FaultLine {
    let mut line = FaultLine::new(
        name,
        "30 userspace nodes on one Headscale, until all pairs have answered",
        "ms",
        30e3,
    );
    // One round takes as long as ten of the others.
    for round in 0..options.rounds.div_ceil(10) {
        match crowd_meets() {
            Ok(time) => {
                progress(&format!("{name} {round}: {time:?}"));
                line.figures.push(time.as_secs_f64() * 1e3);
            }
            Err(error) => {
                line.fail(&error);
                break;
            }
        }
    }
    line
}

fn crowd_meets() -> Result<Duration> {
    let lab = Lab::open()?;
    crowd_meets_in(&lab).map_err(|error| {
        let directory = crate::cell::keep_logs(&lab, "crowd").unwrap_or_default();
        error.context(format!("logs are kept in {directory}"))
    })
}

fn crowd_meets_in(lab: &Lab) -> Result<Duration> {
    let headscale = Headscale::start(lab, &HeadscaleOptions::default())?;
    let key = headscale.reusable_key()?;
    let places: Vec<(Site, Host)> = (0..CROWD)
        .map(|number| {
            let site = lab.site(NatKind::PortRestricted)?;
            let host = site.host(&format!("n{number}"))?;
            Ok((site, host))
        })
        .collect::<Result<_>>()?;
    let started = SystemTime::now();
    let options = MeshPeerOptions::new(headscale.url(), &key);
    let others = (CROWD - 1).to_string();
    let nodes = places
        .iter()
        .map(|(_, host)| MeshPeer::spawn(host, &options, &["meet", &others]));
    let mut last = Duration::ZERO;
    for mut node in nodes.collect::<Result<Vec<_>>>()? {
        let met = node.answer("met_unix_ms", Duration::from_secs(90))?;
        let met = Duration::from_secs_f64(met.as_f64().context("no time")? / 1e3);
        last = last.max(met.saturating_sub(started.duration_since(SystemTime::UNIX_EPOCH)?));
    }
    Ok(last)
}
