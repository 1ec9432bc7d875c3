//! Medians, p95, and a table of them.

use std::time::Duration;

use serde::Serialize;

/// A row of measurements in milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// How many.
    pub runs: usize,
    /// The median.
    pub median_ms: f64,
    /// The value that 95 of 100 do not exceed (nearest rank).
    pub p95_ms: f64,
    /// The smallest.
    pub min_ms: f64,
    /// The largest.
    pub max_ms: f64,
    /// All, in the order measured.
    pub all_ms: Vec<f64>,
}

impl Summary {
    /// Sums up `values`; `None` when there is none.
    #[must_use]
    pub fn of(values: &[Duration]) -> Option<Self> {
        let all_ms: Vec<f64> = values
            .iter()
            .map(|value| (value.as_secs_f64() * 10_000.0).round() / 10.0)
            .collect();
        let mut sorted = all_ms.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let rank = |hundredths: usize| {
            sorted
                .get((sorted.len() * hundredths).div_ceil(100).max(1) - 1)
                .copied()
        };
        Some(Self {
            runs: sorted.len(),
            median_ms: rank(50)?,
            p95_ms: rank(95)?,
            min_ms: *sorted.first()?,
            max_ms: *sorted.last()?,
            all_ms,
        })
    }
}

/// Lines up `rows` under `header`, as Markdown.
#[must_use]
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells
            .chain(header.get(column).map(|cell| cell.chars().count()))
            .max()
            .unwrap_or_default()
    };
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> = cells
            .iter()
            .enumerate()
            .map(|(column, cell)| format!("{cell:<width$}", width = width(column)))
            .collect();
        format!("| {} |\n", padded.join(" | "))
    };
    let rule: Vec<String> = (0..header.len()).map(|column| "-".repeat(width(column))).collect();
    let mut text = line(header.to_vec());
    text.push_str(&line(rule.iter().map(String::as_str).collect()));
    for row in rows {
        text.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_ten_is_the_fifth_and_p95_the_last() {
        let values: Vec<Duration> = (1..=10).map(Duration::from_millis).collect();
        let summary = Summary::of(&values).unwrap();
        assert_eq!((summary.median_ms, summary.p95_ms), (5.0, 10.0));
        assert!(Summary::of(&[]).is_none());
    }
}
