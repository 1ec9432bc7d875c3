//! From the start of a process to the first answered echo request, and on to the direct path.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{Contestant, NodeOptions, Summary};
use crate::lab::{
    Headscale, HeadscaleOptions, Host, Lab, NatKind, Site, Timings,
    probe::{DirectWatch, Pinger},
};

/// Between two echo requests.
const INTERVAL: Duration = Duration::from_millis(5);

/// How long a start may take before the run counts as failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long after the direct path the row of requests goes on, to catch a loss on the change.
const AFTERMATH: Duration = Duration::from_millis(1500);

/// How long the peer is up before anything is measured.
const SETTLE: Duration = Duration::from_secs(5);

/// What the machine knows at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// Nothing but a key.
    FirstJoin,
    /// The state of an earlier run.
    Restart,
}

/// One line of the report.
#[derive(Debug, Clone, Serialize)]
pub struct StartFigures {
    /// Who was started.
    pub contestant: Contestant,
    /// Who was pinged.
    pub peer: Contestant,
    /// What it knew.
    pub scenario: Scenario,
    /// `default` or `tuned` Headscale.
    pub headscale: &'static str,
    /// From the start of the process to the first answer.
    pub first_answer: Option<Summary>,
    /// From the first answer to the first sealed packet that came straight, at the later of both ends.
    pub direct_after: Option<Summary>,
    /// How much of the former Headscale took to answer the registration alone, by its own log.
    pub headscale_register: Option<Summary>,
    /// Runs whose path never became direct.
    pub never_direct: usize,
    /// Echo requests sent from the first answer on, in all runs.
    pub sent: usize,
    /// How many of them went unanswered.
    pub lost: usize,
}

/// The lab of one measurement: two home routers, the peer up behind the second.
struct Ground<'lab> {
    headscale: Headscale<'lab>,
    key: String,
    site_a: &'lab Site,
    a: &'lab Host,
    site_b: &'lab Site,
    b: &'lab Host,
}

struct Outcome {
    first_answer: Duration,
    direct_after: Option<Duration>,
    register: Option<Duration>,
    sent: usize,
    lost: usize,
}

/// Measures `runs` starts of `contestant` against a `peer` that is up.
pub fn start_figures(
    contestant: Contestant,
    peer: Contestant,
    scenario: Scenario,
    timings: Timings,
    runs: usize,
    progress: &mut dyn FnMut(&str),
) -> Result<StartFigures> {
    let lab = Lab::open()?;
    let headscale = Headscale::start(
        &lab,
        &HeadscaleOptions {
            timings,
            ..HeadscaleOptions::default()
        },
    )?;
    let key = headscale.reusable_key()?;
    let (site_a, a, site_b, b) = lab.pair(NatKind::PortRestricted, NatKind::PortRestricted)?;
    let mut node_b = peer.start(&b, &NodeOptions::new(headscale.url(), Some(&key)))?;
    let target = node_b.address()?;
    // The peer is up: Headscale has its home region and endpoints, and passes them on with the first map.
    pause(SETTLE)?;
    let ground = Ground {
        headscale,
        key,
        site_a: &site_a,
        a: &a,
        site_b: &site_b,
        b: &b,
    };
    if scenario == Scenario::Restart {
        ground.run(contestant, true, target)?;
    }
    let mut outcomes = Vec::new();
    // The first run only warms the machine's caches.
    for run in 0..=runs {
        if scenario == Scenario::FirstJoin {
            contestant.forget(&a)?;
            if let Ok(node) = ground.headscale.node("a") {
                ground.headscale.delete_node(node.id)?;
            }
        }
        let outcome = ground.run(contestant, scenario == Scenario::FirstJoin, target)?;
        progress(&format!(
            "{contestant:?} {scenario:?} {timings:?} run {run}/{runs}: first answer {:?}, direct after {:?}, lost {} of {}",
            outcome.first_answer, outcome.direct_after, outcome.lost, outcome.sent
        ));
        if run > 0 {
            outcomes.push(outcome);
        }
    }
    let direct: Vec<Duration> = outcomes.iter().filter_map(|outcome| outcome.direct_after).collect();
    Ok(StartFigures {
        contestant,
        peer,
        scenario,
        headscale: match timings {
            Timings::Default => "default",
            Timings::Tuned => "tuned",
        },
        first_answer: Summary::of(&outcomes.iter().map(|outcome| outcome.first_answer).collect::<Vec<_>>()),
        direct_after: Summary::of(&direct),
        headscale_register: Summary::of(
            &outcomes
                .iter()
                .filter_map(|outcome| outcome.register)
                .collect::<Vec<_>>(),
        ),
        never_direct: outcomes.len() - direct.len(),
        sent: outcomes.iter().map(|outcome| outcome.sent).sum(),
        lost: outcomes.iter().map(|outcome| outcome.lost).sum(),
    })
}

impl Ground<'_> {
    fn run(&self, contestant: Contestant, first: bool, target: std::net::Ipv4Addr) -> Result<Outcome> {
        // A machine that joins for the first time has left no hole in its router; one that starts again has.
        if first {
            self.site_a.forget_udp_flows()?;
            self.site_b.forget_udp_flows()?;
        }
        let registrations = self.headscale.registrations_from(self.site_a.wan(), 0).len();
        let at_a = DirectWatch::start(self.a.namespace(), self.site_b.wan())?;
        let at_b = DirectWatch::start(self.b.namespace(), self.site_a.wan())?;
        let pinger = Pinger::start(self.a.namespace(), target, INTERVAL)?;
        let key = first.then_some(self.key.as_str());
        let node = contestant.start(self.a, &NodeOptions::new(self.headscale.url(), key))?;
        let answered = pinger.first_answer(PATIENCE)?;
        let direct = at_a
            .first_data(Duration::from_secs(10))
            .and_then(|at_a| Ok(at_a.max(at_b.first_data(Duration::from_secs(5))?)))
            .ok();
        // Only then are the requests of the change among those counted.
        let end = direct.map_or(answered, |direct| direct.max(answered)) + AFTERMATH;
        pause(end.saturating_duration_since(Instant::now()))?;
        let first_answer = answered.duration_since(node.started());
        let record = pinger.stop();
        node.stop()?;
        Ok(Outcome {
            first_answer,
            direct_after: direct.map(|direct| direct.saturating_duration_since(answered)),
            register: self
                .headscale
                .registrations_from(self.site_a.wan(), registrations)
                .first()
                .copied(),
            sent: record.sent,
            lost: record.lost,
        })
    }
}

fn pause(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    crate::lab::eventually("the end of a pause", time + PATIENCE, || {
        (Instant::now() >= end).then_some(()).context("not yet")
    })
}
