//! A client of WireGuard's cross-platform configuration socket, as wireguard-go, gotatun and boringtun offer it.
//!
//! One request is `set=1` and lines of `key=value` up to an empty line; the answer is `errno=N`.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

/// The socket of the interface of that name. All of them use this directory, whatever their network namespace.
#[must_use]
pub fn socket(interface: &str) -> PathBuf {
    PathBuf::from("/var/run/wireguard").join(format!("{interface}.sock"))
}

/// Sends one configuration.
pub fn set(interface: &str, settings: &str) -> Result<()> {
    let path = socket(interface);
    let mut stream = UnixStream::connect(&path).with_context(|| format!("{} is closed", path.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(format!("set=1\n{settings}\n").as_bytes())?;
    let mut answer = Vec::new();
    let mut piece = [0; 512];
    while !answer.ends_with(b"\n\n") {
        let length = stream.read(&mut piece)?;
        let Some(piece) = piece.get(..length).filter(|piece| !piece.is_empty()) else {
            break;
        };
        answer.extend_from_slice(piece);
    }
    let answer = String::from_utf8_lossy(&answer);
    if !answer.lines().any(|line| line == "errno=0") {
        bail!("{interface} refused its configuration: {answer:?}");
    }
    Ok(())
}
