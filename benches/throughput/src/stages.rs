//! The stages by themselves, and the limit of the machine that follows from them.
//!
//! Each is measured on one super-packet of 45 packets, as the data plane moves them, and said for one packet of 1,420
//! bytes. A tunnel whose two ends did nothing but these, with iperf3's own share beside them on the same two cores, could
//! carry so much and no more.

mod kernel;
mod pure;

use std::time::{Duration, Instant};

use anyhow::Result;
use e2e::lab::Lab;

use crate::{
    engine::Engine,
    machine::{CORES, PACKET},
    run::Bench,
};

/// Packets in a super-packet.
const SEGMENTS: usize = 45;

/// How often each stage is measured; the median counts.
const REPEATS: usize = 400;

/// What of a packet is payload of TCP, with timestamps as Linux has them.
pub const PAYLOAD: usize = PACKET - 20 - 32;

/// The stages of the sending end and those of the taking end, by their metric.
pub const OUT: [&str; 4] = [
    "stage_tun_read_ns",
    "stage_split_ns",
    "stage_seal_ns",
    "stage_udp_send_ns",
];
/// Those of the taking end.
pub const IN: [&str; 4] = [
    "stage_udp_recv_ns",
    "stage_open_ns",
    "stage_join_ns",
    "stage_tun_write_ns",
];

/// Measures all stages once.
pub(crate) fn stages(bench: &mut Bench) {
    if !bench.options.wants_cell("stages") {
        return;
    }
    bench.in_lab(Engine::Sandd, "stages", |bench, lab| {
        for (metric, time) in measured(lab)? {
            bench.add(metric, Engine::Sandd, time.as_nanos() as f64 / SEGMENTS as f64);
        }
        Ok(())
    });
}

fn measured(lab: &Lab) -> Result<Vec<(&'static str, Duration)>> {
    let mut times = pure::times()?;
    times.extend(kernel::times(lab)?);
    Ok(times)
}

/// What the machine could carry, Gbit/s of TCP payload.
#[must_use]
pub fn limit(bench: &Bench) -> Option<f64> {
    let sum = |metrics: &[&str]| -> Option<f64> {
        metrics
            .iter()
            .map(|metric| Some(bench.figures.median(metric, Engine::Sandd.name())?.median))
            .sum()
    };
    let (out, back) = (sum(&OUT)?, sum(&IN)?);
    let iperf = bench.figures.median("iperf_cpu_s_per_gb", Engine::None.name())?.median;
    Some(limit_of(out, back, iperf * PAYLOAD as f64))
}

/// The cores share the whole work; neither end, being one thread, has more than one of them.
fn limit_of(out_ns: f64, in_ns: f64, iperf_ns: f64) -> f64 {
    let shared = (out_ns + in_ns + iperf_ns) / CORES as f64;
    PAYLOAD as f64 * 8.0 / shared.max(out_ns).max(in_ns)
}

/// The median of `REPEATS` times that `once` takes by its own clock.
fn median_of(mut once: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    for _ in 0..REPEATS / 4 {
        once()?;
    }
    let mut times = (0..REPEATS).map(|_| once()).collect::<Result<Vec<_>>>()?;
    times.sort_unstable();
    Ok(times.get(REPEATS / 2).copied().unwrap_or_default())
}

/// How long `work` takes.
fn clocked<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let started = Instant::now();
    let made = work();
    (started.elapsed(), made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busier_end_limits_when_iperf_is_cheap() {
        assert!((limit_of(1000.0, 1000.0, 0.0) - PAYLOAD as f64 * 8.0 / 1000.0).abs() < 1e-9);
        assert!((limit_of(1000.0, 1000.0, 1000.0) - PAYLOAD as f64 * 8.0 / 1500.0).abs() < 1e-9);
    }
}
