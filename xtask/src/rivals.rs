//! What our speed is compared with beside the peers: gotatun, boringtun and a program on tsnet, at pinned versions. The
//! first two are plain WireGuard peers of stories, too.
//!
//! They lie beside the peers, with the same stamps. One that cannot be built is no error: the bench says that it is missing.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::{peers, setup, step::say, tree};

/// A crate, its version, its program.
const CRATES: [(&str, &str, &str); 2] = [
    ("gotatun-cli", "0.10.2", "gotatun"),
    ("boringtun-cli", "0.7.1", "boringtun-cli"),
];

/// What the program on tsnet is called there.
const TSNET: &str = "tsnet-stream";

/// The flag that asks for them where they are not needed.
pub(crate) const FLAG: &str = "--rivals";

/// Whether the arguments ask for them.
pub(crate) fn are_wanted(arguments: &[String]) -> bool {
    arguments.iter().any(|argument| argument == FLAG)
}

/// Builds what is missing or of another version, one after the other.
pub(crate) fn build_missing() -> Result<()> {
    let directory = peers::directory();
    fs::create_dir_all(&directory).with_context(|| format!("{} could not be created", directory.display()))?;
    let mut outcomes = vec![
        ("Headscale, tailscaled or wireguard-go", peers::build_missing()),
        (TSNET, tsnet(&directory)),
    ];
    for (package, version, program) in CRATES {
        outcomes.push((program, from_crate(&directory, package, version, program)));
    }
    for (name, outcome) in outcomes {
        if let Err(error) = outcome {
            say(&format!("{name} could not be built and will be missing: {error:#}"));
        }
    }
    Ok(())
}

fn from_crate(directory: &Path, package: &str, version: &str, program: &str) -> Result<()> {
    if peers::is_stamped(directory, program, version) {
        say(&format!("{program} {version} is in {}", directory.display()));
        return Ok(());
    }
    say(&format!("building {package} {version}; minutes, once"));
    let unfinished = directory.join("unfinished");
    // Outside of the workspace, whose settings are not theirs; with the lock file that its makers published.
    run(tree::cargo(&[
        "install",
        package,
        "--version",
        version,
        "--locked",
        "--force",
        "--root",
    ])
    .arg(&unfinished)
    .current_dir(directory)
    .env("CARGO_TARGET_DIR", unfinished.join("target")))?;
    peers::finish(&unfinished.join("bin").join(program), directory, program, version)?;
    fs::remove_dir_all(unfinished.join("target")).context("the build directory stays")
}

fn tsnet(directory: &Path) -> Result<()> {
    let source = tree::root().join("benches/rivals/tsnet");
    let version = tsnet_version(&source)?;
    if peers::is_stamped(directory, TSNET, &version) {
        say(&format!("{TSNET} {version} is in {}", directory.display()));
        return Ok(());
    }
    say(&format!("building {TSNET} {version}; minutes, once"));
    let unfinished = directory.join("unfinished");
    fs::create_dir_all(&unfinished)?;
    run(setup::go()?
        .args(["build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o"])
        .arg(unfinished.join(TSNET))
        .arg(".")
        .env("CGO_ENABLED", "0")
        .current_dir(&source))?;
    peers::finish(&unfinished.join(TSNET), directory, TSNET, &version)
}

/// Tailscale's version as go.mod pins it, and a mark of our own source, so that a change of it is built, too.
fn tsnet_version(source: &Path) -> Result<String> {
    let manifest = fs::read_to_string(source.join("go.mod"))?;
    let version = manifest
        .split_whitespace()
        .skip_while(|word| *word != "tailscale.com")
        .nth(1)
        .context("go.mod names no version of tailscale.com")?;
    let mut hasher = DefaultHasher::new();
    fs::read(source.join("main.go"))?.hash(&mut hasher);
    Ok(format!("{version} {:08x}", hasher.finish() & 0xffff_ffff))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("{command:?} did not start"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
