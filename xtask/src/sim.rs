//! `cargo xtask sim`: builds the runner of simulated worlds, fast but with all checks, and runs it.

use std::process::Command;

use anyhow::Result;

use crate::{e2e::succeed, tree};

/// Runs the worlds that `arguments` name; `--help` lists them.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    succeed(&mut tree::cargo(&[
        "build",
        "--locked",
        "--profile",
        "sim",
        "--package",
        "sandd-mesh",
        "--features",
        "sim",
        "--bin",
        "sandd-sim",
    ]))?;
    let target = tree::target_directory()?;
    succeed(
        Command::new(target.join("sim/sandd-sim"))
            .arg("--out")
            .arg(target.join("sim-failures"))
            .args(arguments),
    )
}
