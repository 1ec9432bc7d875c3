//! From the start of a process to the first answered echo request, and on to the direct path.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{Contestant, NodeOptions, Summary};
use crate::lab::{
    Headscale, HeadscaleOptions, Host, Lab, NatKind, Site, SiteOptions, Timings, Wire,
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

/// Where a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A public address and nothing before it.
    Open,
    /// A router of that kind.
    Behind(NatKind),
}

/// What is started, against whom and where.
#[derive(Debug, Clone, Copy)]
pub struct StartPlan {
    /// Who is started.
    pub contestant: Contestant,
    /// Who is up already, and pinged.
    pub peer: Contestant,
    /// What the machine knows.
    pub scenario: Scenario,
    /// How eagerly Headscale passes changes on.
    pub timings: Timings,
    /// How often.
    pub runs: usize,
    /// Where either stands.
    pub places: (Place, Place),
    /// The wire before each router.
    pub wire: Option<Wire>,
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

/// The lab of one measurement: the peer is up behind the second router.
struct Ground<'lab> {
    headscale: Headscale<'lab>,
    key: String,
    sites: [Option<&'lab Site>; 2],
    a: &'lab Host,
    b: &'lab Host,
}

struct Outcome {
    first_answer: Duration,
    direct_after: Option<Duration>,
    register: Option<Duration>,
    sent: usize,
    lost: usize,
}

/// Measures starts as `plan` says.
pub fn start_figures(plan: &StartPlan, progress: &mut dyn FnMut(&str)) -> Result<StartFigures> {
    let StartPlan {
        contestant,
        peer,
        scenario,
        timings,
        runs,
        ..
    } = *plan;
    let lab = Lab::open()?;
    let headscale = Headscale::start(
        &lab,
        &HeadscaleOptions {
            timings,
            ..HeadscaleOptions::default()
        },
    )?;
    let key = headscale.reusable_key()?;
    let (site_a, a) = plan.build(&lab, plan.places.0, "a")?;
    let (site_b, b) = plan.build(&lab, plan.places.1, "b")?;
    let mut node_b = peer.start(&b, &NodeOptions::new(headscale.url(), Some(&key)))?;
    let target = node_b.address()?;
    // The peer is up: Headscale has its home region and endpoints, and passes them on with the first map.
    pause(SETTLE)?;
    let ground = Ground {
        headscale,
        key,
        sites: [site_a.as_ref(), site_b.as_ref()],
        a: &a,
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

impl StartPlan {
    /// Two home routers on perfect wires.
    #[must_use]
    pub fn at_home(
        contestant: Contestant,
        peer: Contestant,
        scenario: Scenario,
        timings: Timings,
        runs: usize,
    ) -> Self {
        let home = Place::Behind(NatKind::PortRestricted);
        Self {
            contestant,
            peer,
            scenario,
            timings,
            runs,
            places: (home, home),
            wire: None,
        }
    }

    fn build(&self, lab: &Lab, place: Place, name: &str) -> Result<(Option<Site>, Host)> {
        match place {
            Place::Open => Ok((None, lab.public_host(name)?)),
            Place::Behind(kind) => {
                // Both wires lose different packets.
                let seed = u64::from(name.bytes().next().unwrap_or_default());
                let site = lab.site_with(&SiteOptions {
                    wire: self.wire.map(|wire| Wire {
                        seed: wire.seed ^ seed,
                        ..wire
                    }),
                    ..SiteOptions::new(kind)
                })?;
                let host = site.host(name)?;
                Ok((Some(site), host))
            }
        }
    }
}

impl Ground<'_> {
    fn run(&self, contestant: Contestant, first: bool, target: std::net::Ipv4Addr) -> Result<Outcome> {
        // A machine that joins for the first time has left no hole in its router; one that starts again has.
        if first {
            for site in self.sites.into_iter().flatten() {
                site.forget_udp_flows()?;
            }
        }
        let outer = |site: Option<&Site>, host: &Host| site.map_or(host.address(), Site::wan);
        let (outer_a, outer_b) = (outer(self.sites[0], self.a), outer(self.sites[1], self.b));
        let registrations = self.headscale.registrations_from(outer_a, 0).len();
        let at_a = DirectWatch::start(self.a.namespace(), outer_b)?;
        let at_b = DirectWatch::start(self.b.namespace(), outer_a)?;
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
                .registrations_from(outer_a, registrations)
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
