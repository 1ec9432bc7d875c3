//! The task runner: `cargo xtask <verb>`. It needs nothing but cargo.

mod arch;
mod bench;
mod ci;
mod e2e;
mod notices;
mod peers;
mod rivals;
mod setup;
mod sim;
mod step;
mod tree;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "usage: cargo xtask <verb>

  ci [--rivals]        everything that must hold: formatting, lints, layers, documentation, all tests
  arch                 who may import whom, file ceilings, unwraps, channels
  peers [--rivals]     builds Headscale, Tailscale's programs and wireguard-go into the cache, when missing or of another
                       version; with --rivals gotatun, boringtun and a program on tsnet, too (minutes)
  e2e [--rivals] [FILTER]  builds sandd and runs the end-to-end stories (root, namespaces)
  lab-measure [ARG]..  the figures: start, direct path, idle cost (root, namespaces); --help lists its arguments
  natlab [ARG]..       the NAT matrix: which pairs of routers must be direct, which are (root, namespaces); --help
  natlab faults [ARG].. what each fault costs: rebinds, cut paths, dead relays, sleep; --help lists its arguments
  bench throughput [ARG]..  speed against wireguard-go, tailscaled, gotatun, boringtun and tsnet (root, namespaces); --help
  sim [--seeds N] [--from N] [--steps N] [--jobs N]  simulated worlds, one a seed; a failure prints its seed and is written
                       to target/sim-failures, with a capture
  notices [--check]    writes THIRD-PARTY-NOTICES.md, or checks it and the licences of all dependencies";

fn main() -> ExitCode {
    match dispatch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((verb, rest)) = arguments.split_first() else {
        bail!("{USAGE}")
    };
    match verb.as_str() {
        "ci" => ci::run(rivals::are_wanted(rest)),
        "arch" => arch::run(),
        "peers" if rivals::are_wanted(rest) => rivals::build_missing(),
        "peers" => peers::build_missing(),
        "e2e" => e2e::stories(rest),
        "lab-measure" => e2e::measure(rest),
        "natlab" => e2e::natlab(rest),
        "bench" => bench::run(rest),
        "sim" => sim::run(rest),
        "notices" => notices::run(rest.iter().any(|argument| argument == "--check")),
        _ => bail!("unknown verb {verb}\n{USAGE}"),
    }
}
