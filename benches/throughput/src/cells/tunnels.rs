//! Engines with a kernel interface, direct: TCP, UDP, round trips, CPU and memory.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, Result};
use e2e::lab::Process;

use super::start;
use crate::{
    engine::{Engine, Pair, WITH_INTERFACE},
    load::{
        iperf::{self, Flow},
        ping,
    },
    run::Bench,
    usage::Usage,
};

/// The stream that is thrown away.
const WARM_UP: Duration = Duration::from_secs(1);

/// Size of the datagrams.
const UDP: u32 = 1200;

const IDLE_PINGS: usize = 200;

/// One round over all engines.
pub(crate) fn tunnels(bench: &mut Bench, round: usize) {
    let cells = ["tcp", "reverse", "streams", "udp", "ping", "loaded"];
    if !cells.iter().any(|cell| bench.options.wants_cell(cell)) {
        return;
    }
    for engine in bench.turn_of(&WITH_INTERFACE, round) {
        bench.in_lab(engine, "direct", |bench, lab| {
            let hosts = (lab.public_host("a")?, lab.public_host("b")?);
            let started = start(engine, lab, &hosts)?;
            measure(bench, engine, &started.pair)
        });
    }
}

fn measure(bench: &mut Bench, engine: Engine, pair: &Pair<'_>) -> Result<()> {
    let length = bench.options.stream;
    let wants = |cell: &str| bench.options.wants_cell(cell);
    let (tcp, reverse, streams) = (wants("tcp"), wants("reverse"), wants("streams"));
    let (udp, idle, loaded) = (wants("udp"), wants("ping"), wants("loaded"));
    let _server = iperf::Server::start(pair.b)?;
    bench.add("mtu", engine, pair.mtu()?);
    let before = usage(pair)?;
    if engine != Engine::None {
        bench.add("rss_idle_mib", engine, before.rss_mib);
    }
    if idle {
        let trips = ping::run(pair.a, pair.address, IDLE_PINGS)?;
        bench.add("ping_idle_avg_ms", engine, trips.average());
    }
    iperf::run(pair.a, pair.address, Flow::Tcp(1), WARM_UP)?;
    if tcp {
        let before = usage(pair)?;
        let outcome = iperf::run(pair.a, pair.address, Flow::Tcp(1), length)?;
        let after = usage(pair)?;
        bench.add("tcp_gbit", engine, outcome.bits_per_second / 1e9);
        bench.add("tcp_retransmits", engine, outcome.retransmits);
        let cpu = (after.cpu - before.cpu).as_secs_f64();
        if engine == Engine::None {
            bench.add("iperf_cpu_s_per_gb", engine, outcome.cpu_per_gb);
        } else {
            bench.add("cpu_s_per_gb", engine, cpu / (outcome.bytes / 1e9));
        }
    }
    if reverse {
        let outcome = iperf::run(pair.a, pair.address, Flow::Reverse, length)?;
        bench.add("reverse_gbit", engine, outcome.bits_per_second / 1e9);
    }
    if streams {
        let outcome = iperf::run(pair.a, pair.address, Flow::Tcp(8), length)?;
        bench.add("streams8_gbit", engine, outcome.bits_per_second / 1e9);
    }
    if udp {
        for rate in bench.options.udp.clone() {
            let flow = Flow::Udp(UDP, f64::from(rate) * 1e6);
            let outcome = iperf::run(pair.a, pair.address, flow, length)?;
            bench.add(&udp_arrived(rate), engine, outcome.bits_per_second / 1e6);
            bench.add(&udp_lost(rate), engine, outcome.lost * 100.0);
        }
    }
    if loaded {
        under_load(bench, engine, pair)?;
    }
    if engine != Engine::None {
        bench.add("rss_peak_mib", engine, usage(pair)?.peak_mib);
    }
    Ok(())
}

fn usage(pair: &Pair<'_>) -> Result<Usage> {
    Usage::of_all(pair.processes().into_iter().map(Process::pid))
}

/// Round trips while one stream runs flat out.
fn under_load(bench: &mut Bench, engine: Engine, pair: &Pair<'_>) -> Result<()> {
    let length = bench.options.stream;
    let stream = iperf::command(pair.a, pair.address, Flow::Tcp(1), length + Duration::from_secs(1))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("iperf3 did not start")?;
    // Slow start is over by then.
    std::thread::sleep(Duration::from_millis(500));
    let count = usize::try_from(length.as_millis() / 10)?;
    let trips = ping::run(pair.a, pair.address, count);
    let output = stream.wait_with_output()?;
    iperf::read(&String::from_utf8_lossy(&output.stdout)).context("the stream beside the pings")?;
    let trips = trips?;
    bench.add("ping_loaded_p50_ms", engine, trips.percentile(50));
    bench.add("ping_loaded_p99_ms", engine, trips.percentile(99));
    bench.add("ping_loaded_lost_percent", engine, trips.lost() * 100.0);
    Ok(())
}

/// What the rate that arrives is called.
pub(crate) fn udp_arrived(rate: u32) -> String {
    format!("udp_{rate}_mbit")
}

/// What the share that does not is called.
pub(crate) fn udp_lost(rate: u32) -> String {
    format!("udp_{rate}_lost_percent")
}
