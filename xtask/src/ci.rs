//! `cargo xtask ci`: README's second command, and all that `.ci/run` does. Fast things first.

use std::{process::Command, time::Duration};

use anyhow::Result;

use crate::{
    arch, e2e, notices, peers, setup,
    step::{Steps, say},
    tree,
};

const MINUTES: u64 = 60;

/// Runs every check and every test; stops at the first that fails.
pub(crate) fn run() -> Result<()> {
    let mut steps = Steps::begin();
    let limit = |minutes: u64| Duration::from_secs(minutes * MINUTES);
    steps.command("formatting", limit(2), tree::cargo(&["fmt", "--all", "--check"]))?;
    steps.run("layers, ceilings, unwraps", |_| arch::run())?;
    steps.run("licences and notices", |_| notices::run(true))?;
    steps.run("tools of the system", |_| setup::install_missing())?;
    cargo_deny(&mut steps)?;
    steps.command(
        "clippy",
        limit(15),
        tree::cargo(&[
            "clippy",
            "--locked",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]),
    )?;
    let mut doc = tree::cargo(&[
        "doc",
        "--locked",
        "--workspace",
        "--no-deps",
        "--document-private-items",
    ]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    steps.command("documentation", limit(10), doc)?;
    steps.tests(
        "unit, property and documentation tests",
        limit(20),
        tree::cargo(&[
            "test",
            "--locked",
            "--workspace",
            "--exclude",
            "e2e",
            "--exclude",
            "sandd-fuzz",
            "--exclude",
            "sandd-benches",
        ]),
    )?;
    steps.tests(
        "fuzz corpus replay",
        limit(5),
        tree::cargo(&["test", "--locked", "--package", "sandd-fuzz"]),
    )?;
    steps.tests(
        "benches, each once",
        limit(10),
        tree::cargo(&["test", "--locked", "--package", "sandd-benches", "--all-targets"]),
    )?;
    if setup::is_root() {
        steps.run("peers", |_| peers::build_missing())?;
    }
    e2e::run(&mut steps, &[])?;
    steps.finish();
    Ok(())
}

/// Advisories and sources are judged where `cargo deny` is at hand; licences are judged without it, too.
fn cargo_deny(steps: &mut Steps) -> Result<()> {
    let there = Command::new("cargo-deny")
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success());
    if there {
        steps.command(
            "cargo deny",
            Duration::from_secs(5 * MINUTES),
            tree::cargo(&["deny", "check", "bans", "licenses", "sources"]),
        )
    } else {
        say("cargo deny is not installed: its checks of duplicates and sources are left out");
        Ok(())
    }
}
