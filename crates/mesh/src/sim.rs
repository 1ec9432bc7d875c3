//! Simulated worlds: real engines on an invented network under an invented clock, judged by a reference model.
//!
//! Everything follows from one seed: the [network](topology) with its NATs ([nat]), the [relays](relay) and the
//! [coordinator](control), the [plan] of traffic and faults, and whatever an engine draws ([`random`](crate::random)).
//! [`world`] goes from one moment to the next at which something happens; [`carry`] and [`relayed`] do what a node's driver does;
//! [`faults`] does what the plan says; the [judge] and the [ledger] say what must be true.
//!
//! ```text
//!  seed -> plan -> world { engines, reach, net, relays, control } -> judge -> an offence, or the hash of its trace
//! ```
//!
//! The worlds are in no product: they are compiled for tests and for the runner (`cargo xtask sim`), which finds an offence,
//! makes its plan as small as it can and writes what happened, with a capture of all datagrams.

mod carry;
mod control;
mod faults;
mod host;
mod judge;
mod ledger;
mod nat;
mod net;
mod plan;
mod relay;
mod relayed;
mod rng;
mod shrink;
mod topology;
mod trace;
mod world;

use std::time::{Duration, Instant};

use plan::Plan;
use world::World;

/// What a world without offence was like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Of all that happened: the same for the same seed.
    pub hash: u64,
    /// Time that passed in it.
    pub lasted: Duration,
    /// Datagrams that reached a node.
    pub datagrams: u64,
    /// Overlay packets sent, and those that arrived.
    pub sent: usize,
    /// See `sent`.
    pub arrived: u64,
    /// The longest time of a packet that had to arrive.
    pub slowest: Duration,
}

/// An offence, with the smallest plan that still shows it.
#[derive(Debug)]
pub struct Failure {
    /// Seed of the world.
    pub seed: u64,
    /// What was found wrong.
    pub what: String,
    /// The steps that lead there.
    pub plan: Vec<String>,
    /// What happened, the last lines.
    pub lines: Vec<String>,
    /// All datagrams, in the format of pcap.
    pub capture: Vec<u8>,
}

/// Plays the world of `seed` for so many steps. `start` is any moment: only differences count.
///
/// # Errors
/// [`Failure`] when something in it was not as it must be.
pub fn run(seed: u64, steps: usize, start: Instant) -> Result<Report, Box<Failure>> {
    let plan = Plan::draw(seed, steps);
    let world = play(&plan, start, false);
    if world.offence.is_none() {
        return Ok(report(&world));
    }
    let plan = shrink::smallest(plan, start);
    let world = play(&plan, start, true);
    let what = world.offence.clone().unwrap_or_default();
    let (lines, capture) = world.trace.into_parts();
    Err(Box::new(Failure {
        seed,
        what,
        plan: plan
            .steps
            .iter()
            .map(|step| format!("{:?}, then {:?}", step.event, step.wait))
            .collect(),
        lines,
        capture,
    }))
}

fn play(plan: &Plan, start: Instant, records: bool) -> World {
    let _seeded = crate::random::seed(plan.seed);
    let mut world = World::new(plan, start, records);
    world.play(plan);
    world
}

fn report(world: &World) -> Report {
    Report {
        hash: world.trace.hash(),
        lasted: world.now.saturating_duration_since(world.start),
        datagrams: world.trace.datagrams,
        sent: world.ledger.len(),
        arrived: world.ledger.delivered,
        slowest: world.ledger.slowest,
    }
}

#[cfg(test)]
mod tests;
