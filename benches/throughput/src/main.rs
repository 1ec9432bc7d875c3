//! `throughput`: every engine on the same topology, interleaved, as a table, JSON and a plot. `cargo xtask bench throughput` runs it.

use anyhow::{Result, bail};
use throughput::{
    machine::{self, Machine},
    options::Options,
    report,
    run::Bench,
};

fn main() -> Result<()> {
    let options = Options::from_arguments(std::env::args().skip(1))?;
    if !cfg!(target_os = "linux") {
        bail!("nothing can be measured here: this needs Linux, its network namespaces and its TUN devices");
    }
    if !rustix::process::geteuid().is_root() {
        bail!("nothing can be measured here: namespaces and TUN devices need root; run it with sudo");
    }
    machine::use_few_cores()?;
    let mut bench = Bench::new(options, Machine::here()?);
    bench.run()?;
    bench.write()?;
    report::print(&bench)
}
