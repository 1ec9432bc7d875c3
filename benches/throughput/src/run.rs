//! The run: rounds of all cells over all engines, interleaved, with what failed kept beside what was measured.

use std::fs;

use anyhow::{Context as _, Result};
use e2e::lab::Lab;
use serde::Serialize;

use crate::{
    cells,
    engine::{Engine, WITH_INTERFACE},
    figures::Figures,
    machine::Machine,
    options::Options,
    report, stages,
};

/// Lines of each log that are shown when an engine fails.
const TAIL: usize = 8;

/// Everything about one run.
#[derive(Debug)]
pub struct Bench {
    /// What was asked for.
    pub options: Options,
    /// On what.
    pub machine: Machine,
    /// What came out.
    pub figures: Figures,
    /// What is missing and what failed, in words.
    pub notes: Vec<Note>,
    /// Sentences about the measurement itself.
    pub remarks: Vec<String>,
}

/// Something that has no figure, and why.
#[derive(Debug, Clone, Serialize)]
pub struct Note {
    /// The engine.
    pub engine: String,
    /// Why.
    pub why: String,
}

impl Bench {
    /// A run without figures yet; what is missing is said at once.
    pub fn new(options: Options, machine: Machine) -> Self {
        Self {
            options,
            machine,
            figures: Figures::default(),
            notes: Vec::new(),
            remarks: Vec::new(),
        }
    }

    /// Measures everything that was asked for.
    pub fn run(&mut self) -> Result<()> {
        eprintln!("{}", self.machine.line());
        for engine in WITH_INTERFACE.into_iter().chain([Engine::Tsnet]) {
            if self.options.wants_engine(engine.name())
                && let Some(why) = engine.missing()
            {
                eprintln!("{why}");
                self.note(engine, &why);
            }
        }
        cells::calibrate(self);
        let mut crowds = cells::Crowds::new();
        for round in 1..=self.options.rounds {
            eprintln!("round {round} of {}", self.options.rounds);
            stages::stages(self);
            cells::tunnels(self, round);
            cells::userspace(self, round);
            cells::relayed(self, round);
            cells::peers(self, &mut crowds, round);
            cells::link_cells(self, round);
            // A run that is broken off keeps its rounds.
            self.write()?;
        }
        cells::endurance(self);
        self.write()
    }

    /// Those of `engines` that are asked for and there, beginning with another one each round.
    pub fn turn_of(&self, engines: &[Engine], round: usize) -> Vec<Engine> {
        let mut engines: Vec<Engine> = engines
            .iter()
            .copied()
            .filter(|engine| self.options.wants_engine(engine.name()) && engine.missing().is_none())
            .collect();
        if !engines.is_empty() {
            let first = round % engines.len();
            engines.rotate_left(first);
        }
        engines
    }

    /// Runs `work` in a fresh lab; a failure is said and kept, and the run goes on.
    pub fn in_lab(&mut self, engine: Engine, what: &str, work: impl FnOnce(&mut Self, &Lab) -> Result<()>) {
        let outcome = Lab::open().and_then(|lab| {
            let outcome = work(self, &lab);
            if outcome.is_err() {
                show_logs(&lab);
            }
            outcome
        });
        if let Err(error) = outcome {
            let why = format!("{}, {what}: failed: {error:#}", engine.name());
            eprintln!("{why}");
            self.note(engine, &why);
        }
    }

    /// Keeps a figure and says it.
    pub fn add(&mut self, metric: &str, engine: Engine, value: f64) {
        eprintln!("  {:<13} {metric:<24} {value:.3}", engine.name());
        self.figures.add(metric, engine.name(), value);
    }

    fn note(&mut self, engine: Engine, why: &str) {
        let why = why.lines().next().unwrap_or_default().to_owned();
        if !self.notes.iter().any(|note| note.why == why) {
            self.notes.push(Note {
                engine: engine.name().to_owned(),
                why,
            });
        }
    }

    /// Writes table, JSON and plot as they are now.
    pub fn write(&self) -> Result<()> {
        let out = &self.options.out;
        fs::create_dir_all(out).with_context(|| format!("{} could not be created", out.display()))?;
        fs::write(out.join("throughput.md"), report::markdown(self))?;
        fs::write(out.join("throughput.json"), report::json(self)?)?;
        fs::write(out.join("throughput.svg"), report::plot::svg(self))?;
        Ok(())
    }
}

fn show_logs(lab: &Lab) {
    let Ok(entries) = fs::read_dir(lab.directory()) else {
        return;
    };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.extension().is_some_and(|extension| extension == "log") {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("---- {}", path.display());
            for line in lines.iter().skip(lines.len().saturating_sub(TAIL)) {
                eprintln!("{line}");
            }
        }
    }
}
