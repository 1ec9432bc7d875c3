//! Programs of the system that the stories need: found, or installed when that is allowed.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::step::say;

/// A program and the Debian package that brings it.
const PROGRAMS: [(&str, &str); 9] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("ping", "iputils-ping"),
    ("tcpdump", "tcpdump"),
    ("socat", "socat"),
    ("iperf3", "iperf3"),
    ("cc", "gcc"),
    ("miniupnpd", "miniupnpd-nftables"),
];

/// Whether this process may make namespaces.
pub(crate) fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// Installs what is missing when this is root on a Debian, else only says so.
pub(crate) fn install_missing() -> Result<()> {
    let missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| !is_installed(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root() {
        say(&format!("missing, and only root can install it: {}", missing.join(" ")));
        return Ok(());
    }
    say(&format!("installing {}", missing.join(" ")));
    apt(&["update", "-qq"])?;
    apt(&[&["install", "-y", "-qq", "--no-install-recommends"], missing.as_slice()].concat())
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(Into::into))
        .any(|directory| directory.join(program).exists())
}

fn apt(arguments: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context(
            "apt-get did not start; install by hand: iproute2 nftables conntrack iputils-ping tcpdump socat iperf3 gcc miniupnpd-nftables",
        )?;
    if !status.success() {
        bail!("apt-get {}: {status}", arguments.join(" "));
    }
    Ok(())
}

/// The Go toolchain that builds the peers.
pub(crate) fn go() -> Result<Command> {
    let program = if is_installed("go") {
        "go"
    } else {
        "/usr/local/go/bin/go"
    };
    if program != "go" && !Path::new(program).exists() {
        bail!("Go is needed to build Headscale and tailscaled: put `go` (1.21 or later) into PATH");
    }
    Ok(Command::new(program))
}
