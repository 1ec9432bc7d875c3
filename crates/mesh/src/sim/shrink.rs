//! Makes a plan that shows an offence smaller: steps are left out and waits shortened as long as the same kind of offence
//! is still found.

use std::time::Instant;

use super::plan::Plan;
use super::play;

/// Worlds that are played for it at most.
const ATTEMPTS: usize = 300;

/// The smallest plan found.
pub(super) fn smallest(plan: Plan, start: Instant) -> Plan {
    let found = |plan: &Plan| {
        let world = play(plan, start, false);
        world.offence.map(|offence| kind(&offence))
    };
    let Some(wanted) = found(&plan) else { return plan };
    let (mut best, mut attempts) = (plan, 0);
    let mut width = best.steps.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        let mut smaller = false;
        while at < best.steps.len() && attempts < ATTEMPTS {
            let mut trial = best.clone();
            let end = (at + width).min(trial.steps.len());
            trial.steps.drain(at..end);
            attempts += 1;
            if found(&trial).as_ref() == Some(&wanted) {
                best = trial;
                smaller = true;
            } else {
                at += width;
            }
        }
        if attempts >= ATTEMPTS || (width == 1 && !smaller) {
            return best;
        }
        width = (width / 2).max(1);
    }
}

/// An offence without its numbers.
fn kind(offence: &str) -> String {
    offence.chars().filter(|letter| letter.is_alphabetic()).collect()
}
