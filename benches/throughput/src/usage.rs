//! What a process has cost, from `/proc`: time of the processor, memory now and at its highest.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};

/// Sums over processes, except for memory: that is the larger one's.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// User and system time.
    pub cpu: Duration,
    /// Resident memory, MiB.
    pub rss_mib: f64,
    /// The most that it has been, MiB.
    pub peak_mib: f64,
}

impl Usage {
    /// Of the process `pid`.
    pub fn of(pid: u32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let mib = |name: &str| -> Result<f64> {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .with_context(|| name.to_owned())?;
            let kib: f64 = line.split_whitespace().next().context("empty")?.parse()?;
            Ok(kib / 1024.0)
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The second field, the name in brackets, may hold blanks; the counting starts behind it.
        let (_, rest) = stat.rsplit_once(") ").context("odd stat line")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        let ticks: u64 =
            fields.get(11).context("utime")?.parse::<u64>()? + fields.get(12).context("stime")?.parse::<u64>()?;
        Ok(Self {
            // USER_HZ is 100 on every Linux that we meet.
            cpu: Duration::from_millis(ticks * 10),
            rss_mib: mib("VmRSS:")?,
            peak_mib: mib("VmHWM:")?,
        })
    }

    /// Of all of them.
    pub fn of_all(pids: impl IntoIterator<Item = u32>) -> Result<Self> {
        pids.into_iter().try_fold(Self::default(), |sum, pid| {
            let one = Self::of(pid)?;
            Ok(Self {
                cpu: sum.cpu + one.cpu,
                rss_mib: sum.rss_mib.max(one.rss_mib),
                peak_mib: sum.peak_mib.max(one.peak_mib),
            })
        })
    }
}

/// Lets the highest memory of `pid` be counted anew from now on.
pub fn reset_peak(pid: u32) -> Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").context("the peak of a process could not be reset")
}
