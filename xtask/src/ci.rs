//! `cargo xtask ci`: README's second command, and all that `.ci/run` does. Fast things first.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Result;

use crate::{
    arch, e2e, notices, peers, rivals, setup,
    step::{Steps, say},
    tree,
};

const CLIPPY: [&str; 7] = [
    "clippy",
    "--locked",
    "--workspace",
    "--all-targets",
    "--",
    "-D",
    "warnings",
];
const DOC: [&str; 5] = [
    "doc",
    "--locked",
    "--workspace",
    "--no-deps",
    "--document-private-items",
];

/// What has steps of its own.
const NOT_UNIT: [&str; 6] = [
    "--exclude",
    "e2e",
    "--exclude",
    "sandd-fuzz",
    "--exclude",
    "sandd-benches",
];

/// Runs every check and every test; stops at the first step that fails.
pub(crate) fn run(rivals: bool) -> Result<()> {
    let mut steps = Steps::begin();
    steps.command("formatting", minutes(2), tree::cargo(&["fmt", "--all", "--check"]))?;
    steps.run("layers, ceilings, unwraps", |_| arch::run())?;
    steps.run("licences and notices", |_| notices::run(true))?;
    steps.run("tools of the system", |_| setup::install_missing())?;
    cargo_deny(&mut steps)?;
    steps.command("clippy", minutes(20), tree::cargo(&CLIPPY))?;
    let mut doc = tree::cargo(&DOC);
    // Private items are documented, too, so links to them lead somewhere.
    doc.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links");
    steps.command("documentation", minutes(15), doc)?;

    let peers = peers_if_possible(&mut steps, rivals)?;
    let mut unit = tree::cargo(&["test", "--locked", "--workspace", "--no-fail-fast"]);
    unit.args(NOT_UNIT);
    steps.tests(
        "unit, property and documentation tests",
        minutes(25),
        with_peers(unit, peers.as_deref()),
    )?;
    if peers.is_some() {
        let relay = tree::cargo(&[
            "test",
            "--locked",
            "--package",
            "sandd-mesh",
            "--lib",
            "--",
            "--ignored",
            "real",
        ]);
        steps.tests("the real relay", minutes(5), with_peers(relay, peers.as_deref()))?;
    }
    let fuzz = tree::cargo(&["test", "--locked", "--package", "sandd-fuzz"]);
    steps.tests("fuzz corpus replay", minutes(5), fuzz)?;
    let benches = tree::cargo(&["test", "--locked", "--package", "sandd-benches", "--all-targets"]);
    steps.tests("benches, each once", minutes(10), benches)?;
    e2e::run(&mut steps, &[], rivals)?;
    steps.finish();
    Ok(())
}

fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

/// Builds the peers. Who is not root may do without them, for then the stories are skipped as well.
fn peers_if_possible(steps: &mut Steps, rivals: bool) -> Result<Option<PathBuf>> {
    if !setup::is_root() && setup::go().is_err() {
        say("no Go toolchain: what needs a real Headscale or tailscaled is left out");
        return Ok(None);
    }
    steps.run("peers", |_| {
        if rivals {
            rivals::build_missing()
        } else {
            peers::build_missing()
        }
    })?;
    Ok(Some(peers::directory()))
}

/// Tells the tests of single packages where the peers are.
fn with_peers(mut command: Command, peers: Option<&Path>) -> Command {
    if let Some(peers) = peers {
        command
            .env("SANDD_PEERS_DIR", peers)
            .env("SANDD_TAILSCALED_DIR", peers)
            .env("SANDD_HEADSCALE", peers.join("headscale"));
    }
    command
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
            minutes(5),
            tree::cargo(&["deny", "check", "bans", "licenses", "sources"]),
        )
    } else {
        say("cargo deny is not installed: its checks of duplicates and sources are left out");
        Ok(())
    }
}
