//! Waiting for the world to become as expected: the only place of the tests that pauses.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// How long to wait between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks again and again until `look` succeeds, at most for `deadline`; then fails with the last reason.
pub fn eventually<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(reason) if started.elapsed() >= deadline => {
                return Err(reason.context(anyhow!("{what}: not within {deadline:?}")));
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}
