//! All cells, a few at a time, and the table of them.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    thread,
};

use e2e::measure::{Contestant, table};

use crate::{
    cases::cases,
    cell::{Cell, Outcome, Peers, SETTLED, run_cell},
    truth::{Kind, Via},
};

/// What is to be played.
#[derive(Debug, Clone)]
pub struct MatrixOptions {
    /// Only cells whose name contains one of these, or is one that has `=` before it; empty for all.
    pub filters: Vec<String>,
    /// How many cells have a tailscaled as one of their nodes.
    pub tailscaled: Share,
    /// How many run side by side.
    pub jobs: usize,
    /// How often each is played.
    pub repeat: usize,
    /// Whether our own nodes may guess ports. Those of others never do.
    pub port_guessing: bool,
}

impl MatrixOptions {
    fn wants(&self, name: &str) -> bool {
        let fits = |filter: &String| match filter.strip_prefix('=') {
            Some(whole) => name == whole,
            None => name.contains(filter.as_str()),
        };
        self.filters.is_empty() || self.filters.iter().any(fits)
    }
}

/// How many of the cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// None.
    None,
    /// Every third.
    Third,
    /// All.
    All,
}

/// Plays what `options` ask for; `progress` gets each outcome as it comes.
pub fn run_matrix(options: &MatrixOptions, progress: &(dyn Fn(&Outcome) + Sync)) -> Vec<Outcome> {
    let cells: VecDeque<(usize, Cell)> = cases()
        .into_iter()
        .enumerate()
        .filter(|(_, case)| options.wants(&case.name))
        .flat_map(|numbered| std::iter::repeat_n(numbered, options.repeat))
        .map(|(number, case)| {
            let cell = Cell {
                case,
                peers: peers(number, options.tailscaled),
                settled: SETTLED,
                port_guessing: options.port_guessing,
            };
            (number, cell)
        })
        .collect();
    let (waiting, done) = (Mutex::new(cells), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some((number, cell)) = next else { return };
                    let outcome = run_cell(&cell);
                    progress(&outcome);
                    done.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push((number, outcome));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}

/// In every third cell a tailscaled, now left, now right.
fn peers(number: usize, share: Share) -> Peers {
    let theirs = match share {
        Share::None => false,
        Share::Third => number.is_multiple_of(3),
        Share::All => true,
    };
    let (left, right) = match (theirs, number.is_multiple_of(2)) {
        (false, _) => (Contestant::Sandd, Contestant::Sandd),
        (true, true) => (Contestant::Sandd, Contestant::Tailscaled),
        (true, false) => (Contestant::Tailscaled, Contestant::Sandd),
    };
    Peers { left, right }
}

/// The report, as Markdown.
#[must_use]
pub fn matrix_table(outcomes: &[Outcome]) -> String {
    let figure = |figure: Option<f64>| figure.map_or("–".to_owned(), |ms| format!("{ms:.0}"));
    let name = |contestant: Contestant| match contestant {
        Contestant::Sandd => "sandd",
        Contestant::Tailscaled => "tailscaled",
        Contestant::Embedded => "embedded",
    };
    let rows: Vec<Vec<String>> = outcomes
        .iter()
        .map(|outcome| {
            let via = match outcome.expected.via {
                Via::Any => "",
                Via::Private => ", private",
                Via::Ipv6 => ", IPv6",
            };
            let kind = match outcome.expected.kind {
                Kind::Direct => "direct",
                Kind::Relay => "relay",
            };
            vec![
                outcome.case.clone(),
                format!("{} to {}", name(outcome.peers.left), name(outcome.peers.right)),
                format!("{kind}{via}"),
                outcome.left.clone(),
                outcome.right.clone(),
                figure(outcome.first_answer_ms),
                figure(outcome.direct_ms),
                outcome.failure.clone().unwrap_or_else(|| "yes".to_owned()),
            ]
        })
        .collect();
    let right = outcomes.iter().filter(|outcome| outcome.failure.is_none()).count();
    format!(
        "{}\n{right} of {} as expected\n",
        table(
            &[
                "pair",
                "nodes",
                "expected",
                "left says",
                "right says",
                "first answer, ms",
                "direct after, ms",
                "as expected"
            ],
            &rows,
        ),
        outcomes.len()
    )
}
