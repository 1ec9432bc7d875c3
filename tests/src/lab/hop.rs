//! A stretch of wire with delay, jitter and loss between a router and its upstream, and the process that is it.
//!
//! Kernels without netem have nothing of that kind. `wire-hop` holds a TAP interface at either end and carries frames.

use std::{path::Path, process::Command, time::Duration};

use anyhow::Result;

use super::{netns::Namespace, process::Process, sandd::built_beside};

/// What a wire does to each frame, both ways alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wire {
    /// From one end to the other.
    pub delay: Duration,
    /// At most so much more, drawn for each frame: frames overtake each other.
    pub jitter: Duration,
    /// How many of a hundred frames are lost.
    pub loss_percent: f64,
    /// The same seed loses the same frames.
    pub seed: u64,
}

impl Wire {
    /// One that only takes its time.
    #[must_use]
    pub fn slow(delay: Duration) -> Self {
        Self {
            delay,
            jitter: Duration::ZERO,
            loss_percent: 0.0,
            seed: 1,
        }
    }

    /// Lays the wire from `inner` in one namespace to `outer` in another; both interfaces come with it and go with it.
    pub(crate) fn lay(
        &self,
        directory: &Path,
        (inside, inner): (&Namespace, &str),
        (outside, outer): (&Namespace, &str),
    ) -> Result<Process> {
        let milliseconds = |time: Duration| format!("{:.3}", time.as_secs_f64() * 1e3);
        let mut command = Command::new(built_beside("wire-hop"));
        command
            .args([inside.name(), inner, outside.name(), outer])
            .args([milliseconds(self.delay), milliseconds(self.jitter)])
            .args([self.loss_percent.to_string(), self.seed.to_string()]);
        let process = Process::start(&format!("wire-hop-{}-{inner}", inside.name()), directory, &mut command)?;
        process.wait_for_log("wire is up", Duration::from_secs(10))?;
        Ok(process)
    }
}
