//! ping: every round trip of a row, for averages and percentiles.

use std::{net::Ipv4Addr, process::Command};

use anyhow::{Context as _, Result};
use e2e::lab::{Host, Run};

/// A row of round trips in milliseconds, sorted.
#[derive(Debug, Clone)]
pub struct RoundTrips {
    sorted_ms: Vec<f64>,
    sent: usize,
}

/// Sends `count` echo requests, one each 10 ms.
pub fn run(host: &Host, to: Ipv4Addr, count: usize) -> Result<RoundTrips> {
    let mut command: Command = host.command("ping");
    command.args(["-n", "-i", "0.01", "-W", "1", "-c", &count.to_string(), &to.to_string()]);
    let run = Run::of(&mut command)?;
    RoundTrips::read(&run.stdout, count).with_context(|| format!("ping {to}: {}{}", run.stdout, run.stderr))
}

impl RoundTrips {
    fn read(text: &str, sent: usize) -> Result<Self> {
        let mut sorted_ms: Vec<f64> = text
            .lines()
            .filter_map(|line| line.split("time=").nth(1)?.split(' ').next()?.parse().ok())
            .collect();
        sorted_ms.sort_unstable_by(f64::total_cmp);
        sorted_ms.first().context("no answer at all")?;
        Ok(Self { sorted_ms, sent })
    }

    /// The mean.
    #[must_use]
    pub fn average(&self) -> f64 {
        self.sorted_ms.iter().sum::<f64>() / self.sorted_ms.len() as f64
    }

    /// The value that so many of a hundred do not exceed (nearest rank).
    #[must_use]
    pub fn percentile(&self, hundredths: usize) -> f64 {
        let rank = (self.sorted_ms.len() * hundredths).div_ceil(100).max(1);
        self.sorted_ms.get(rank - 1).copied().unwrap_or_default()
    }

    /// Share of the requests without answer.
    #[must_use]
    pub fn lost(&self) -> f64 {
        1.0 - self.sorted_ms.len() as f64 / self.sent.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_are_read_from_the_lines_of_ping() {
        let text = "64 bytes from 10.0.0.2: icmp_seq=1 ttl=64 time=0.200 ms\n64 bytes from 10.0.0.2: icmp_seq=2 ttl=64 time=0.100 ms\n";
        let trips = RoundTrips::read(text, 4).unwrap();
        assert!((trips.average() - 0.15).abs() < 1e-9);
        assert!((trips.percentile(99) - 0.2).abs() < 1e-9);
        assert!((trips.lost() - 0.5).abs() < 1e-9);
    }
}
