//! The end-to-end stories and the figures: `sandd` is built first, by itself, so that no feature of another package leaks in.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};

use crate::{peers, rivals, setup, step::Steps, tree};

/// How long all stories may take together.
const LIMIT: Duration = Duration::from_secs(25 * 60);

/// Builds what the stories run, and runs those whose name contains the filter.
pub(crate) fn stories(arguments: &[String]) -> Result<()> {
    let mut steps = Steps::begin();
    let rivals = rivals::are_wanted(arguments);
    steps.run("peers", |_| {
        setup::install_missing()?;
        if rivals {
            rivals::build_missing()
        } else {
            peers::build_missing()
        }
    })?;
    let filter: Vec<String> = arguments
        .iter()
        .filter(|argument| *argument != rivals::FLAG)
        .cloned()
        .collect();
    run(&mut steps, &filter, rivals)?;
    steps.finish();
    Ok(())
}

/// The same as steps of a longer task.
pub(crate) fn run(steps: &mut Steps, arguments: &[String], rivals: bool) -> Result<()> {
    steps.command(
        "build sandd",
        LIMIT,
        tree::cargo(&["build", "--locked", "--package", "sandd"]),
    )?;
    let mut command = tree::cargo(&["test", "--locked", "--package", "e2e", "--package", "natlab", "--"]);
    command
        .args(arguments)
        .env("SANDD_BIN", sandd("debug")?)
        .env("SANDD_PEERS_DIR", peers::directory());
    if setup::is_root() {
        // Root can tell every story: one that cannot be told is a failure.
        command.env("SANDD_E2E_REQUIRED", "1");
    }
    if rivals {
        // Then one that was not built is a failure, too.
        command.env("SANDD_E2E_RIVALS", "1");
    }
    steps.tests("e2e stories", LIMIT, command)
}

/// Runs `natlab` on `SANDD_BIN`, or on a debug build of `sandd`.
pub(crate) fn natlab(arguments: &[String]) -> Result<()> {
    setup::install_missing()?;
    peers::build_missing()?;
    let binary = match std::env::var_os("SANDD_BIN") {
        Some(binary) => binary.into(),
        None => {
            succeed(&mut tree::cargo(&["build", "--locked", "--package", "sandd"]))?;
            sandd("debug")?
        }
    };
    // With the programs that lie beside it: the slow wire and the embedding peer.
    succeed(&mut tree::cargo(&[
        "build",
        "--locked",
        "--package",
        "e2e",
        "--package",
        "natlab",
        "--bins",
    ]))?;
    succeed(
        Command::new(tree::target_directory()?.join("debug").join("natlab"))
            .args(arguments)
            .env("SANDD_BIN", binary)
            .env("SANDD_PEERS_DIR", peers::directory()),
    )
}

/// Runs `lab-measure` on a release build of `sandd`, or on `SANDD_BIN`.
pub(crate) fn measure(arguments: &[String]) -> Result<()> {
    setup::install_missing()?;
    peers::build_missing()?;
    let binary = release_sandd()?;
    let mut command = tree::cargo(&[
        "run",
        "--locked",
        "--quiet",
        "--package",
        "e2e",
        "--bin",
        "lab-measure",
        "--",
    ]);
    succeed(
        command
            .args(arguments)
            .env("SANDD_BIN", binary)
            .env("SANDD_PEERS_DIR", peers::directory()),
    )
}

/// `SANDD_BIN`, or a release build: by itself, so that no feature of another package leaks in.
pub(crate) fn release_sandd() -> Result<PathBuf> {
    if let Some(binary) = std::env::var_os("SANDD_BIN") {
        return Ok(binary.into());
    }
    succeed(&mut tree::cargo(&[
        "build",
        "--locked",
        "--release",
        "--package",
        "sandd",
    ]))?;
    sandd("release")
}

fn sandd(profile: &str) -> Result<PathBuf> {
    Ok(tree::target_directory()?.join(profile).join("sandd"))
}

pub(crate) fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?} did not start"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
