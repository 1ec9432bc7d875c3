//! All figures of a run, each with its engine and round, and their medians.

use std::collections::BTreeMap;

use serde::Serialize;

/// What is measured, in one word that is also the key in the JSON.
pub type Metric = String;

/// The figures so far.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Figures {
    values: BTreeMap<Metric, BTreeMap<String, Vec<f64>>>,
}

/// A median with its neighbours.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Median {
    /// The middle one, of an even number the mean of the two.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// How many.
    pub rounds: usize,
}

impl Figures {
    /// Adds one.
    pub fn add(&mut self, metric: &str, engine: &str, value: f64) {
        self.values
            .entry(metric.to_owned())
            .or_default()
            .entry(engine.to_owned())
            .or_default()
            .push(value);
    }

    /// The median of that metric for that engine.
    #[must_use]
    pub fn median(&self, metric: &str, engine: &str) -> Option<Median> {
        Median::of(self.values.get(metric)?.get(engine)?)
    }

    /// The medians of all.
    #[must_use]
    pub fn medians(&self) -> BTreeMap<&str, BTreeMap<&str, Median>> {
        self.values
            .iter()
            .map(|(metric, engines)| {
                let medians = engines
                    .iter()
                    .filter_map(|(engine, values)| Some((engine.as_str(), Median::of(values)?)))
                    .collect();
                (metric.as_str(), medians)
            })
            .collect()
    }

    /// Whether anything was measured of that metric.
    #[must_use]
    pub fn has(&self, metric: &str) -> bool {
        self.values.contains_key(metric)
    }

    /// The median of one engine over that of another.
    #[must_use]
    pub fn ratio(&self, metric: &str, engine: &str, other: &str) -> Option<f64> {
        let (over, under) = (self.median(metric, engine)?, self.median(metric, other)?);
        (under.median > 0.0).then(|| over.median / under.median)
    }
}

impl Median {
    fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let upper = *sorted.get(middle)?;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(upper, *sorted.get(middle - 1)?)
        } else {
            upper
        };
        Some(Self {
            median,
            min: *sorted.first()?,
            max: *sorted.last()?,
            rounds: sorted.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_four_lies_between_the_two_in_the_middle() {
        let mut figures = Figures::default();
        for value in [4.0, 1.0, 3.0, 2.0] {
            figures.add("tcp", "ours", value);
            figures.add("tcp", "theirs", value * 2.0);
        }
        assert!((figures.median("tcp", "ours").unwrap().median - 2.5).abs() < 1e-9);
        assert!((figures.ratio("tcp", "ours", "theirs").unwrap() - 0.5).abs() < 1e-9);
        assert!(figures.median("udp", "ours").is_none());
    }
}
