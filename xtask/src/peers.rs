//! The real peers: Headscale, Tailscale's programs and wireguard-go, built from the Go module proxy at pinned versions.
//!
//! They lie outside the tree, so that a fresh clone finds them: `SANDD_PEERS_DIR`, else `sandd-peers` in the user's
//! cache. Beside each program a stamp says which version it is of.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{setup, step::say};

/// A Go module, its version, and the programs that we need of it, each with the package that it is made of.
pub(crate) struct Peer {
    pub(crate) module: &'static str,
    pub(crate) version: &'static str,
    pub(crate) programs: &'static [(&'static str, &'static str)],
}

const PEERS: [Peer; 3] = [
    Peer {
        module: "github.com/juanfont/headscale",
        version: "v0.29.2",
        programs: &[("headscale", "./cmd/headscale")],
    },
    Peer {
        module: "tailscale.com",
        version: "v1.102.5",
        programs: &[
            ("tailscaled", "./cmd/tailscaled"),
            ("tailscale", "./cmd/tailscale"),
            ("derper", "./cmd/derper"),
        ],
    },
    Peer {
        module: "golang.zx2c4.com/wireguard",
        version: "v0.0.0-20260522210424-ecfc5a8d5446",
        programs: &[("wireguard-go", ".")],
    },
];

/// Where the programs lie.
pub(crate) fn directory() -> PathBuf {
    if let Some(directory) = std::env::var_os("SANDD_PEERS_DIR") {
        return directory.into();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache"),
        PathBuf::from,
    );
    cache.join("sandd-peers")
}

/// Builds what is missing or of another version.
pub(crate) fn build_missing() -> Result<()> {
    let directory = directory();
    fs::create_dir_all(&directory).with_context(|| format!("{} could not be created", directory.display()))?;
    // Two runs at once would build everything twice.
    let lock = File::create(directory.join(".lock"))?;
    lock.lock()?;
    PEERS.iter().try_for_each(|peer| peer.build_if_missing(&directory))
}

/// Whether `program` is there in that version.
pub(crate) fn is_stamped(directory: &Path, program: &str, version: &str) -> bool {
    directory.join(program).exists()
        && fs::read_to_string(stamp(directory, program)).is_ok_and(|stamp| stamp.trim() == version)
}

/// Puts a program that was built into its place, with its stamp.
pub(crate) fn finish(built: &Path, directory: &Path, program: &str, version: &str) -> Result<()> {
    let _ = fs::remove_file(stamp(directory, program));
    fs::rename(built, directory.join(program))?;
    Ok(fs::write(stamp(directory, program), version)?)
}

impl Peer {
    pub(crate) fn build_if_missing(&self, directory: &Path) -> Result<()> {
        let programs = || self.programs.iter().map(|(program, _)| *program);
        if programs().all(|program| is_stamped(directory, program, self.version)) {
            let names: Vec<&str> = programs().collect();
            say(&format!(
                "{} {} is in {}",
                names.join(", "),
                self.version,
                directory.display()
            ));
            return Ok(());
        }
        self.build(directory)
            .with_context(|| format!("{} {} could not be built", self.module, self.version))
    }

    fn build(&self, directory: &Path) -> Result<()> {
        let versioned = format!("{}@{}", self.module, self.version);
        say(&format!("building {versioned}; minutes, once"));
        let output = setup::go()?
            .args(["mod", "download", "-json", &versioned])
            // Outside of any module, so that no go.mod of ours is looked for.
            .current_dir(directory)
            .stderr(Stdio::inherit())
            .output()
            .context("go did not start")?;
        ensure!(
            output.status.success(),
            "go mod download {versioned}: {}",
            String::from_utf8_lossy(&output.stdout).trim()
        );
        let download: Value = serde_json::from_slice(&output.stdout)?;
        let source = download
            .get("Dir")
            .and_then(Value::as_str)
            .context("go mod download named no directory")?;
        let unfinished = directory.join("unfinished");
        fs::create_dir_all(&unfinished)?;
        for (program, package) in self.programs {
            run(setup::go()?
                .arg("build")
                .arg("-trimpath")
                .args([
                    "-ldflags",
                    &format!(
                        "-s -w -X tailscale.com/version.shortStamp={}",
                        self.version.trim_start_matches('v')
                    ),
                ])
                .arg("-o")
                .arg(unfinished.join(program))
                .arg(package)
                .env("CGO_ENABLED", "0")
                .current_dir(source))?;
            finish(&unfinished.join(program), directory, program, self.version)?;
        }
        Ok(())
    }
}

fn stamp(directory: &Path, program: &str) -> PathBuf {
    directory.join(format!("{program}.version"))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status().context("go did not start")?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
