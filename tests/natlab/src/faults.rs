//! What each fault costs: rebinds, cut paths, dead relays, sleep; with a TCP stream and a command that must live through it.

mod arena;
mod kinds;
mod report;
mod starts;

use std::time::Duration;

use anyhow::Result;
use e2e::measure::Contestant;

pub use self::report::{FaultLine, faults_table};
use self::{
    arena::{Arena, ArenaOptions, Load, in_arena},
    kinds::{Round, Settings, pause},
};

/// What is to be measured.
#[derive(Debug, Clone)]
pub struct FaultOptions {
    /// Only lines with one of these names; empty for all.
    pub only: Vec<String>,
    /// Rounds of each.
    pub rounds: usize,
    /// How long a node sleeps.
    pub asleep: Duration,
    /// Seed of the moments at which faults strike.
    pub seed: u64,
}

/// Numbered packets a second: a thousand.
const FAST: Load = Load::Flows(Duration::from_millis(1));

/// Ten: what waits in queues for a sleeping node shall not hide what it does itself.
const SLOW: Load = Load::Flows(Duration::from_millis(100));

struct Fault {
    name: &'static str,
    what: &'static str,
    unit: &'static str,
    bar: f64,
    right: Contestant,
    load: Load,
    relayed: bool,
    play: fn(&mut Arena<'_>, Settings) -> Result<Round>,
}

const FAULTS: [Fault; 11] = [
    Fault {
        name: "relay-to-direct",
        what: "relay to direct, packets lost",
        unit: "packets",
        bar: 0.0,
        right: Contestant::Sandd,
        load: FAST,
        relayed: true,
        play: kinds::relay_to_direct,
    },
    fault(
        "rebind",
        "NAT rebind with a new public address, silence",
        1.0,
        kinds::rebind,
    ),
    fault("moves", "own address changes, silence", 0.5, kinds::host_moves),
    fault("cut", "direct path cut, until traffic flows by relay", 1.0, kinds::cut),
    fault(
        "restored",
        "direct path restored, until used again",
        5.0,
        kinds::restored,
    ),
    Fault {
        relayed: true,
        ..fault(
            "relay-restart",
            "relay killed and restarted, from its return",
            3.0,
            kinds::relay_restarts,
        )
    },
    Fault {
        relayed: true,
        ..fault(
            "relay-silent",
            "relay connection black-holed, traffic flowing",
            2.5,
            kinds::relay_falls_silent,
        )
    },
    Fault {
        load: Load::Idle,
        ..fault(
            "relay-silent-idle",
            "relay connection black-holed, idle",
            12.0,
            kinds::idle_relay_falls_silent,
        )
    },
    Fault {
        load: SLOW,
        ..fault(
            "asleep",
            "stopped for a while, then awake, until traffic flows",
            2.0,
            kinds::asleep,
        )
    },
    Fault {
        right: Contestant::Tailscaled,
        ..fault(
            "rebind-tailscaled",
            "towards tailscaled: rebind on our side, silence",
            2.5,
            kinds::rebind,
        )
    },
    Fault {
        right: Contestant::Tailscaled,
        ..fault(
            "cut-tailscaled",
            "towards tailscaled: direct path cut, silence",
            f64::NAN,
            kinds::cut,
        )
    },
];

const fn fault(
    name: &'static str,
    what: &'static str,
    bar_s: f64,
    play: fn(&mut Arena<'_>, Settings) -> Result<Round>,
) -> Fault {
    Fault {
        name,
        what,
        unit: "ms",
        bar: bar_s * 1e3,
        right: Contestant::Sandd,
        load: FAST,
        relayed: false,
        play,
    }
}

impl FaultOptions {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

/// The names that `--only` takes.
#[must_use]
pub fn fault_names() -> Vec<&'static str> {
    FAULTS.iter().map(|fault| fault.name).chain(starts::NAMES).collect()
}

/// Measures what `options` ask for; `progress` gets a line as each is done.
pub fn run_faults(options: &FaultOptions, progress: &mut dyn FnMut(&str)) -> Vec<FaultLine> {
    let mut lines = Vec::new();
    for fault in FAULTS.iter().filter(|fault| options.wants(fault.name)) {
        lines.push(measure(fault, options, progress));
    }
    for name in starts::NAMES.into_iter().filter(|name| options.wants(name)) {
        lines.extend(starts::measure(name, options, progress));
    }
    lines
}

fn measure(fault: &Fault, options: &FaultOptions, progress: &mut dyn FnMut(&str)) -> FaultLine {
    let mut line = FaultLine::new(fault.name, fault.what, fault.unit, fault.bar);
    let arena_options = ArenaOptions {
        right: fault.right,
        wire: None,
        load: fault.load,
        relayed: fault.relayed,
    };
    let mut random = options.seed;
    let outcome = in_arena(&arena_options, |arena| {
        for round in 0..options.rounds {
            // At a random phase of whatever a node does every few seconds.
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            pause(Duration::from_millis(1000 + (random >> 33) % 3000))?;
            let asleep = options.asleep;
            let measured = (fault.play)(arena, Settings { asleep, round })?;
            progress(&format!("{} {round}: {measured:?}", fault.name));
            line.add(measured);
        }
        Ok(())
    });
    match outcome {
        Ok(((), survival)) => line.survival(survival),
        Err(error) => line.fail(&error),
    }
    line
}
