//! `cargo xtask bench throughput`: rivals and a release build of ours first, then the bench itself.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::{
    e2e::{release_sandd, succeed},
    peers, rivals, setup, tree,
};

const USAGE: &str = "usage: cargo xtask bench throughput [ARG]..; --help lists the arguments";

/// Builds what is needed and runs the bench with `arguments`.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let Some(("throughput", rest)) = arguments.split_first().map(|(name, rest)| (name.as_str(), rest)) else {
        bail!("{USAGE}")
    };
    let help = rest.iter().any(|argument| matches!(argument.as_str(), "--help" | "-h"));
    if !help {
        if !cfg!(target_os = "linux") || !setup::is_root() {
            bail!("the bench needs Linux and root: it makes network namespaces and TUN devices");
        }
        setup::install_missing()?;
        rivals::build_missing()?;
    }
    succeed(&mut tree::cargo(&[
        "build",
        "--locked",
        "--release",
        "--package",
        "throughput",
    ]))?;
    let binary = if help { PathBuf::new() } else { release_sandd()? };
    let mut command = std::process::Command::new(tree::target_directory()?.join("release/throughput"));
    succeed(
        command
            .args(rest)
            .env("SANDD_BIN", binary)
            .env("SANDD_PEERS_DIR", peers::directory()),
    )
}
