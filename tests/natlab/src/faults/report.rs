//! The lines of the report and their table.

use anyhow::Error;
use e2e::measure::table;
use serde::Serialize;

use super::{arena::Survival, kinds::Round};

/// The figures of one fault.
#[derive(Debug, Clone, Serialize)]
pub struct FaultLine {
    /// What `--only` calls it.
    pub name: String,
    /// What was measured.
    pub what: String,
    /// Of all figures here.
    pub unit: String,
    /// What a figure may be at most; none where that is not said.
    pub bar: Option<f64>,
    /// One a round.
    pub figures: Vec<f64>,
    /// Packets lost over all rounds.
    pub lost: usize,
    /// Packets that came twice over all rounds.
    pub doubled: usize,
    /// The largest burst, where that was counted.
    pub burst: Option<usize>,
    /// How the TCP stream came through.
    pub stream: String,
    /// How the command came through.
    pub command: String,
    /// What is wrong beside the figures.
    pub failure: Option<String>,
}

/// Datagrams that a woken node may send in its first second, sealed packets apart.
const BURST: usize = 20;

impl FaultLine {
    pub(crate) fn new(name: &str, what: &str, unit: &str, bar: f64) -> Self {
        Self {
            name: name.to_owned(),
            what: what.to_owned(),
            unit: unit.to_owned(),
            bar: (!bar.is_nan()).then_some(bar),
            figures: Vec::new(),
            lost: 0,
            doubled: 0,
            burst: None,
            stream: "–".to_owned(),
            command: "–".to_owned(),
            failure: None,
        }
    }

    pub(crate) fn add(&mut self, round: Round) {
        self.figures.push((round.figure * 10.0).round() / 10.0);
        self.lost += round.lost;
        self.doubled += round.doubled;
        self.burst = self.burst.max(round.burst);
    }

    pub(crate) fn survival(&mut self, survival: Survival) {
        let told = |survived: Option<Result<u64, Error>>, unit: &str| match survived {
            None => "–".to_owned(),
            Some(Ok(amount)) => format!("whole, {amount} {unit}"),
            Some(Err(error)) => format!("broken: {error:#}"),
        };
        self.stream = told(survival.stream, "bytes");
        self.command = told(survival.command, "lines");
    }

    pub(crate) fn fail(&mut self, error: &Error) {
        self.failure = Some(format!("{error:#}"));
    }

    /// The median, or the value that so many of a hundred do not exceed (nearest rank).
    #[must_use]
    pub fn percentile(&self, hundredths: usize) -> Option<f64> {
        let mut sorted = self.figures.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let rank = (sorted.len() * hundredths).div_ceil(100).max(1);
        sorted.get(rank - 1).copied()
    }

    /// Whether nothing broke and the figure meets its bar: of times the 95th percentile of twenty rounds and more, the median
    /// of fewer; of lost packets the largest.
    #[must_use]
    pub fn met(&self) -> bool {
        let judged = match (self.unit.as_str(), self.figures.len()) {
            ("packets", _) => 100,
            (_, 20..) => 95,
            _ => 50,
        };
        let within = match (self.percentile(judged), self.bar) {
            (Some(figure), Some(bar)) => figure <= bar,
            (figure, None) => figure.is_some(),
            (None, Some(_)) => false,
        };
        let whole = |text: &str| !text.starts_with("broken");
        within
            && self.failure.is_none()
            && self.doubled == 0
            && self.burst.is_none_or(|burst| burst <= BURST)
            && whole(&self.stream)
            && whole(&self.command)
    }
}

/// The report, as Markdown.
#[must_use]
pub fn faults_table(lines: &[FaultLine]) -> String {
    let rows: Vec<Vec<String>> = lines.iter().map(row).collect();
    let header = [
        "fault",
        "unit",
        "rounds",
        "median",
        "p95",
        "largest",
        "bar",
        "met",
        "lost",
        "doubled",
        "burst",
        "TCP stream",
        "command",
        "remark",
    ];
    table(&header, &rows)
}

fn row(line: &FaultLine) -> Vec<String> {
    let shown = |figure: Option<f64>| figure.map_or("–".to_owned(), |figure| format!("{figure:.0}"));
    vec![
        format!("{} ({})", line.what, line.name),
        line.unit.clone(),
        line.figures.len().to_string(),
        shown(line.percentile(50)),
        shown(line.percentile(95)),
        shown(line.percentile(100)),
        shown(line.bar),
        if line.met() { "yes" } else { "no" }.to_owned(),
        line.lost.to_string(),
        line.doubled.to_string(),
        line.burst.map_or("–".to_owned(), |burst| burst.to_string()),
        line.stream.clone(),
        line.command.clone(),
        line.failure
            .as_deref()
            .and_then(|text| text.lines().next())
            .unwrap_or_default()
            .to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_rounds_are_judged_by_their_median_many_by_their_p95() {
        let mut line = FaultLine::new("x", "x", "ms", 10.0);
        line.figures = vec![1.0, 2.0, 30.0];
        assert!(line.met());
        line.figures = [vec![1.0; 18], vec![30.0; 2]].concat();
        assert!(!line.met());
        line.figures = [vec![1.0; 19], vec![30.0; 1]].concat();
        assert!(line.met());
        line.doubled = 1;
        assert!(!line.met());
    }
}
