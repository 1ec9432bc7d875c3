//! The rules that need no layers: head lines, ceilings, channels, clocks, unwraps, lints.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use super::{layers::PURE_IN_SANDD, source::Source};
use crate::tree;

/// Lines of code that a file may have without its tests.
const CEILING: usize = 400;

/// Fewer unwraps and expects than this in a thousand lines of code.
pub(crate) const UNWRAPS_PER_THOUSAND: usize = 2;

/// Where tasks, sockets and clocks may be: the shells of each package, as prefixes of module paths.
const SHELLS: [(&str, &[&str]); 4] = [
    ("control-client", &["io", "dial", "client"]),
    ("mesh", &["io", "net", "mesh", "builder", "event", "bin"]),
    ("coordinator", &["io", "coordinator", "hooks"]),
    ("sandd", &["main", "cli", "local", "transport", "controller", "daemon"]),
];

/// What makes code impure.
const IMPURE: [&str; 9] = [
    "tokio::",
    "tokio_rustls::",
    "Instant::now",
    "SystemTime::now",
    "std::thread::spawn",
    "thread::sleep",
    "UdpSocket",
    "TcpStream",
    "TcpListener",
];

/// Channels without a bound.
const UNBOUNDED: [&str; 5] = [
    "unbounded_channel",
    "UnboundedSender",
    "UnboundedReceiver",
    "mpsc::unbounded",
    "std::sync::mpsc::channel",
];

/// The one member with lints of its own, since the workspace forbids what it needs: it denies `unsafe` but in one module.
const OWN_LINTS: &str = "crates/aead/Cargo.toml";

/// Every member's manifest takes the workspace's lints.
pub(crate) fn manifests(root: &Path) -> Result<Vec<String>> {
    let metadata = tree::metadata(&["--no-deps"])?;
    let mut offences = Vec::new();
    for package in metadata
        .get("packages")
        .and_then(|packages| packages.as_array())
        .context("no packages")?
    {
        let path = package
            .get("manifest_path")
            .and_then(|path| path.as_str())
            .context("no manifest path")?;
        let text = fs::read_to_string(path)?;
        let inherits = text
            .split("[lints]")
            .nth(1)
            .is_some_and(|rest| rest.trim_start().starts_with("workspace = true"));
        let name = Path::new(path).strip_prefix(root).unwrap_or(Path::new(path));
        let denies = name == Path::new(OWN_LINTS) && text.contains("unsafe_code = \"deny\"");
        // Forks keep upstream's style, but bring no `unsafe`.
        let fork = name.starts_with("vendor") && text.contains("unsafe_code = \"forbid\"");
        if !inherits && !denies && !fork {
            let name = name.display();
            offences.push(format!("{name}: needs `[lints] workspace = true`"));
        }
    }
    Ok(offences)
}

/// A file begins by saying what it is.
pub(crate) fn head(name: &str, text: &str) -> Option<String> {
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    (!first.starts_with("//! ")).then(|| format!("{name}:1: opens with no `//!` that says what it is"))
}

/// A file holds one idea.
pub(crate) fn ceiling(name: &str, source: &Source) -> Option<String> {
    let lines = source.code_lines();
    (lines > CEILING).then(|| format!("{name}: {lines} lines of code, at most {CEILING}: split it by verb"))
}

/// A queue that can grow without end will.
pub(crate) fn unbounded(name: &str, source: &Source) -> Vec<String> {
    UNBOUNDED
        .iter()
        .flat_map(|word| source.lines_with(word).into_iter().map(move |line| (word, line)))
        .map(|(word, line)| format!("{name}:{line}: `{word}`: channels are bounded"))
        .collect()
}

/// Protocol logic reads no clock, opens no socket and spawns nothing.
pub(crate) fn purity(package: &str, module: &[String], name: &str, source: &Source) -> Vec<String> {
    let path = module.join("::");
    let shells = SHELLS
        .iter()
        .find(|(shell, _)| *shell == package)
        .map_or(&[][..], |(_, modules)| modules);
    let is_shell = shells
        .iter()
        .any(|shell| path == *shell || path.starts_with(&format!("{shell}::")))
        && !(package == "sandd" && PURE_IN_SANDD.contains(&path.as_str()));
    if is_shell || path.is_empty() {
        return Vec::new();
    }
    IMPURE
        .iter()
        .flat_map(|word| source.lines_with(word).into_iter().map(move |line| (word, line)))
        .map(|(word, line)| format!("{name}:{line}: `{word}`: only the shell knows tasks, sockets and clocks"))
        .collect()
}

/// Where a panic could start.
pub(crate) fn unwraps(name: &str, source: &Source) -> Vec<String> {
    [".unwrap()", ".expect(", ".unwrap_err()", ".expect_err("]
        .iter()
        .flat_map(|word| source.lines_with(word))
        .map(|line| format!("{name}:{line}"))
        .collect()
}
