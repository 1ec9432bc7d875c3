//! Userspace mode: one TCP stream between two processes that carry the mesh in themselves, ours against tsnet.

use anyhow::Result;
use e2e::lab::Coordinator;

use crate::{
    engine::{Engine, mesh::Ticket, stream},
    run::Bench,
};

/// One round of both.
pub(crate) fn userspace(bench: &mut Bench, round: usize) {
    if !bench.options.wants_cell("userspace") {
        return;
    }
    for engine in bench.turn_of(&[Engine::Sandd, Engine::Tsnet], round) {
        bench.in_lab(engine, "userspace", |bench, lab| {
            let (a, b) = (lab.public_host("a")?, lab.public_host("b")?);
            let coordinator = Coordinator::start(lab)?;
            let ticket = ticket(&coordinator)?;
            let outcome = stream::run(engine, &a, &b, &ticket, bench.options.stream)?;
            bench.add("userspace_gbit", engine, outcome.bits_per_second / 1e9);
            bench.add("userspace_cpu_s_per_gb", engine, outcome.cpu_per_gb);
            let [sender, sink] = outcome.peaks_mib;
            bench.add("userspace_peak_sender_mib", engine, sender);
            bench.add("userspace_peak_sink_mib", engine, sink);
            Ok(())
        });
    }
}

/// What two nodes join with.
pub(super) fn ticket(coordinator: &Coordinator<'_>) -> Result<Ticket> {
    Ok(Ticket {
        server: coordinator.url(),
        key: coordinator.create_key(&["--reusable"])?,
    })
}
