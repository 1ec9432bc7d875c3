//! Loss and delay: userspace TCP through the mesh over the emulated link, against the kernel's TCP over the same link.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::Result;
use e2e::lab::{Coordinator, Host, Lab, Process, built_beside};

use super::{relayed::without_udp, userspace::ticket};
use crate::{
    engine::{Engine, stream},
    load::iperf::{self, Flow},
    run::Bench,
};

/// Half a round trip of 20 ms.
const ONE_WAY_MS: f64 = 10.0;

const BUFFER_MS: f64 = 20.0;

/// Where `b` is on the link.
const FAR_END: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);

/// Below this, slow start is most of a stream.
const AT_LEAST: Duration = Duration::from_secs(10);

const ENGINES: [Engine; 3] = [Engine::Kernel, Engine::Sandd, Engine::Tsnet];

/// Finds out what the box carries, and lowers the rate when that is too little.
pub(crate) fn calibrate(bench: &mut Bench) {
    if !bench.options.wants_cell("link") {
        return;
    }
    bench.in_lab(Engine::Kernel, "the link box alone", |bench, lab| {
        let (a, b) = (lab.public_host("a")?, lab.public_host("b")?);
        let _link = link(lab, &a, &b, [0.0, 0.0, BUFFER_MS, 0.0], 1)?;
        let _server = iperf::Server::start(&b)?;
        iperf::run(&a, FAR_END, Flow::Cubic, Duration::from_secs(1))?;
        let most = iperf::run(&a, FAR_END, Flow::Cubic, Duration::from_secs(3))?.bits_per_second / 1e6;
        let asked = bench.options.rate;
        // Both ends need cores, too.
        if most < asked * 1.5 {
            bench.options.rate = (most / 1.5 / 50.0).floor().max(1.0) * 50.0;
        }
        bench.remarks.push(format!(
            "The emulated link's box alone carries {most:.0} Mbit/s here; the link runs at {:.0} Mbit/s ({asked:.0} asked for), \
             20 ms round trip, drop-tail buffer of {BUFFER_MS:.0} ms, loss both ways.",
            bench.options.rate
        ));
        Ok(())
    });
}

/// One round of all losses and engines.
pub(crate) fn link_cells(bench: &mut Bench, round: usize) {
    if !bench.options.wants_cell("link") {
        return;
    }
    for loss in bench.options.losses.clone() {
        for engine in bench.turn_of(&ENGINES, round) {
            bench.in_lab(engine, &format!("link with {loss} % loss"), |bench, lab| {
                let (a, b) = (without_udp(lab.public_host("a")?)?, without_udp(lab.public_host("b")?)?);
                // The same packets are lost for all engines of a round.
                let shape = [bench.options.rate, ONE_WAY_MS, BUFFER_MS, loss];
                let _link = link(lab, &a, &b, shape, round)?;
                let length = bench.options.stream.max(AT_LEAST);
                let bits = if engine == Engine::Kernel {
                    let _server = iperf::Server::start(&b)?;
                    iperf::run(&a, FAR_END, Flow::Cubic, length)?.bits_per_second
                } else {
                    let coordinator = Coordinator::start(lab)?;
                    stream::run(engine, &a, &b, &ticket(&coordinator)?, length)?.bits_per_second
                };
                bench.add(&metric(loss), engine, bits / 1e6);
                Ok(())
            });
        }
    }
}

/// What the figure at that loss is called.
pub(crate) fn metric(loss: f64) -> String {
    format!("link_loss_{loss}_mbit")
}

fn link(lab: &Lab, a: &Host, b: &Host, shape: [f64; 4], seed: usize) -> Result<Process> {
    let mut command = std::process::Command::new(built_beside("link-box"));
    command
        .args([a.namespace().name(), b.namespace().name()])
        .args(shape.map(|figure| figure.to_string()))
        .arg(seed.to_string());
    let process = Process::start("link-box", lab.directory(), &mut command)?;
    process.wait_for_log("link is up", Duration::from_secs(5))?;
    Ok(process)
}
