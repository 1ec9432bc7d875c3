//! TCP through one relay: Headscale's embedded one, the same for ours and tailscaled, with UDP between the ends cut off.

use std::time::Duration;

use anyhow::Result;
use e2e::lab::{Headscale, HeadscaleOptions, Host, Timings};

use crate::{
    engine::{Engine, mesh},
    load::iperf::{self, Flow},
    run::Bench,
    usage::Usage,
};

/// The relay is reached by TCP; everything of UDP ends at the host's edge.
const NO_UDP: &str = "table inet edge {
  chain out { type filter hook output priority 0; oifname \"eth0\" meta l4proto udp drop; }
  chain in { type filter hook input priority 0; iifname \"eth0\" meta l4proto udp drop; }
}
";

/// One round of both.
pub(crate) fn relayed(bench: &mut Bench, round: usize) {
    if !bench.options.wants_cell("relayed") {
        return;
    }
    for engine in bench.turn_of(&[Engine::Sandd, Engine::Tailscaled], round) {
        bench.in_lab(engine, "relayed", |bench, lab| {
            let options = HeadscaleOptions {
                timings: Timings::Tuned,
                ..HeadscaleOptions::default()
            };
            let headscale = Headscale::start(lab, &options)?;
            let ticket = mesh::Ticket {
                server: headscale.url().to_owned(),
                key: headscale.reusable_key()?,
            };
            let (a, b) = (without_udp(lab.public_host("a")?)?, without_udp(lab.public_host("b")?)?);
            let pair = mesh::start(engine, &a, &b, &ticket, mesh::Way::Relayed)?;
            let _server = iperf::Server::start(&b)?;
            iperf::run(&a, pair.address, Flow::Tcp(1), Duration::from_secs(1))?;
            let relay = headscale.pid()?;
            let before = Usage::of(relay)?.cpu;
            let outcome = iperf::run(&a, pair.address, Flow::Tcp(1), bench.options.stream)?;
            let relay_cpu = (Usage::of(relay)?.cpu - before).as_secs_f64();
            bench.add("relayed_gbit", engine, outcome.bits_per_second / 1e9);
            // Near one core a direction it is the relay that limits.
            bench.add(
                "relay_cpu_percent",
                engine,
                relay_cpu / bench.options.stream.as_secs_f64() * 100.0,
            );
            Ok(())
        });
    }
}

pub(super) fn without_udp(host: Host) -> Result<Host> {
    host.namespace().nft(NO_UDP)?;
    Ok(host)
}
