//! Many peers: one stream to one of them while so many are configured, and what they weigh.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    time::Duration,
};

use e2e::lab::Process;

use super::start_among;
use crate::{
    crowd::Crowd,
    engine::{Engine, WITH_INTERFACE},
    load::iperf::{self, Flow},
    run::Bench,
    usage::Usage,
};

/// The crowds that were gathered so far, by their number.
pub(crate) type Crowds = BTreeMap<usize, Crowd>;

/// One round over all engines and numbers of peers.
pub(crate) fn peers(bench: &mut Bench, crowds: &mut Crowds, round: usize) {
    if !bench.options.wants_cell("peers") {
        return;
    }
    for engine in bench.turn_of(&WITH_INTERFACE, round) {
        if engine == Engine::None {
            continue;
        }
        for count in bench.options.peers.clone() {
            bench.in_lab(engine, &format!("{count} peers"), |bench, lab| {
                // One of them is the other end.
                let others = count.saturating_sub(1);
                if others > 0 && matches!(engine, Engine::Sandd | Engine::Tailscaled) {
                    let crowd = match crowds.entry(others) {
                        Entry::Occupied(crowd) => crowd.into_mut(),
                        Entry::Vacant(place) => {
                            eprintln!("  {others} members join, once");
                            let directory = bench.options.out.join(format!("crowd-{others}"));
                            place.insert(Crowd::gather(others, &directory)?)
                        }
                    };
                    crowd.enter(lab)?;
                }
                let hosts = (lab.public_host("a")?, lab.public_host("b")?);
                let started = start_among(engine, lab, &hosts, others)?;
                let pair = &started.pair;
                let _server = iperf::Server::start(pair.b)?;
                let usage = || Usage::of_all(pair.processes().into_iter().map(Process::pid));
                bench.add(&memory(count), engine, usage()?.rss_mib);
                iperf::run(pair.a, pair.address, Flow::Tcp(1), Duration::from_secs(1))?;
                let outcome = iperf::run(pair.a, pair.address, Flow::Tcp(1), bench.options.stream)?;
                bench.add(&speed(count), engine, outcome.bits_per_second / 1e9);
                Ok(())
            });
        }
    }
}

/// What the speed among so many is called.
pub(crate) fn speed(count: usize) -> String {
    format!("peers_{count}_gbit")
}

/// What the idle memory among so many is called.
pub(crate) fn memory(count: usize) -> String {
    format!("peers_{count}_rss_mib")
}
