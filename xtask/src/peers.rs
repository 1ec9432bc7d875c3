//! The real peers: Headscale and Tailscale's programs, built from the Go module proxy at pinned versions.
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

/// A module, its version, and the programs that we need of it.
struct Peer {
    module: &'static str,
    version: &'static str,
    programs: &'static [&'static str],
}

const PEERS: [Peer; 2] = [
    Peer {
        module: "github.com/juanfont/headscale",
        version: "v0.29.2",
        programs: &["headscale"],
    },
    Peer {
        module: "tailscale.com",
        version: "v1.102.5",
        programs: &["tailscaled", "tailscale", "derper"],
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
    for peer in &PEERS {
        if peer.is_there(&directory) {
            say(&format!(
                "{} {} is in {}",
                peer.programs.join(", "),
                peer.version,
                directory.display()
            ));
        } else {
            peer.build(&directory)
                .with_context(|| format!("{} {} could not be built", peer.module, peer.version))?;
        }
    }
    Ok(())
}

impl Peer {
    fn is_there(&self, directory: &Path) -> bool {
        self.programs.iter().all(|program| {
            directory.join(program).exists()
                && fs::read_to_string(stamp(directory, program)).is_ok_and(|version| version.trim() == self.version)
        })
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
        for program in self.programs {
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
                .arg(format!("./cmd/{program}"))
                .env("CGO_ENABLED", "0")
                .current_dir(source))?;
            let _ = fs::remove_file(stamp(directory, program));
            fs::rename(unfinished.join(program), directory.join(program))?;
            fs::write(stamp(directory, program), self.version)?;
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
