//! How a test runs: in a lab of its own, with every log shown when it fails.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::Command,
};

use anyhow::{Result, anyhow};

use super::{headscale::peers_directory, world::Lab};

/// How much of each log is shown when a story fails.
const TAIL: usize = 60;

/// Why no lab can be opened here, or `None` when it can.
#[must_use]
pub fn skip_reason() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("namespaces need root".to_owned());
    }
    for (program, package) in [("ip", "iproute2"), ("nft", "nftables"), ("conntrack", "conntrack")] {
        if Command::new(program).arg("--version").output().is_err() {
            return Some(format!("{program} is missing (package {package})"));
        }
    }
    let peers = peers_directory();
    ["headscale", "tailscaled", "tailscale", "wireguard-go"]
        .into_iter()
        .find(|program| !peers.join(program).exists())
        .map(|program| {
            format!(
                "{} is missing: `cargo xtask peers` builds it",
                peers.join(program).display()
            )
        })
}

/// Runs `tell` in a new lab.
///
/// Where no lab can be opened it says so in one line and passes, unless `SANDD_E2E_REQUIRED` is set: then it fails.
///
/// # Panics
///
/// When the story fails, with its reason; the logs of all its processes were printed before.
pub fn story(tell: impl FnOnce(&Lab) -> Result<()>) {
    let name = std::thread::current().name().unwrap_or("story").to_owned();
    if let Some(reason) = skip_reason() {
        assert!(
            std::env::var_os("SANDD_E2E_REQUIRED").is_none(),
            "{name} cannot run: {reason}"
        );
        // Past the capture of the test harness: nobody should take a skipped story for a told one.
        let _ = fs::write("/dev/stderr", format!("SKIPPED {name}: {reason}\n"));
        return;
    }
    let lab = match Lab::open() {
        Ok(lab) => lab,
        Err(error) => panic!("{name}: no lab: {error:#}"),
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| tell(&lab)))
        .unwrap_or_else(|panic| Err(anyhow!("{}", panic_text(panic.as_ref()))));
    if let Err(error) = outcome {
        show_logs(lab.directory());
        panic!("{name}: {error:?}");
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
        .unwrap_or_else(|| "it panicked".to_owned())
}

fn show_logs(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let mut logs: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    logs.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.sort();
    for log in logs {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let first = lines.len().saturating_sub(TAIL);
        eprintln!("──── {} ({} lines, the last {TAIL}) ────", log.display(), lines.len());
        for line in lines.iter().skip(first) {
            eprintln!("{line}");
        }
    }
}
