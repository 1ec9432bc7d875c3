//! On what it is measured: processor, kernel, load, and the yardstick by which two machines can be compared.

use std::{fs, time::Instant};

use anyhow::{Context as _, Result, anyhow};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::Serialize;

/// The inner packet of which figures are said.
pub const PACKET: usize = 1420;

/// How many cores everything together gets.
pub const CORES: usize = 2;

/// The machine, as the table names it.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The model's name.
    pub cpu: String,
    /// Vector instructions that engines may use.
    pub vectors: Vec<String>,
    /// Cores that there are.
    pub cores: usize,
    /// The kernel's release.
    pub kernel: String,
    /// Load before the first round.
    pub load_before: String,
    /// What ring needs to seal one packet of 1,420 bytes, in ns: the yardstick.
    pub ring_seal_ns: f64,
}

impl Machine {
    /// This one.
    pub fn here() -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(": ")
                .map(|(_, value)| value.trim().to_owned())
                .unwrap_or_default()
        };
        let flags = field("flags");
        Ok(Self {
            cpu: field("model name"),
            vectors: ["avx2", "avx512f", "avx512ifma", "vaes"]
                .into_iter()
                .filter(|wanted| flags.split(' ').any(|flag| flag == *wanted))
                .map(str::to_owned)
                .collect(),
            cores: std::thread::available_parallelism().map_or(0, Into::into),
            kernel: read_line("/proc/sys/kernel/osrelease"),
            load_before: load(),
            ring_seal_ns: ring_seal_ns()?,
        })
    }

    /// One line for the head of a table.
    #[must_use]
    pub fn line(&self) -> String {
        format!(
            "{}, {} cores ({} used), {}, Linux {}, load before {}; ring seals {PACKET} B in {:.0} ns ({:.1} Gbit/s a core)",
            self.cpu,
            self.cores,
            self.cores.min(CORES),
            if self.vectors.is_empty() {
                "no AVX2".to_owned()
            } else {
                self.vectors.join(" ")
            },
            self.kernel,
            self.load_before,
            self.ring_seal_ns,
            PACKET as f64 * 8.0 / self.ring_seal_ns,
        )
    }
}

/// The load of the last minutes.
#[must_use]
pub fn load() -> String {
    read_line("/proc/loadavg")
        .split(' ')
        .take(3)
        .collect::<Vec<_>>()
        .join(" ")
}

fn read_line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// Keeps this process and all that it starts on the first cores, so that every engine has the same.
pub fn use_few_cores() -> Result<()> {
    let mut set = CpuSet::new();
    (0..CORES).for_each(|core| set.set(core));
    sched_setaffinity(None, &set).context("the cores could not be chosen")
}

fn ring_seal_ns() -> Result<f64> {
    let bad = |_| anyhow!("ring refused");
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]).map_err(bad)?);
    let mut packet = [0; PACKET];
    // The best of several short rows: what disturbs only makes it slower.
    let mut best = f64::MAX;
    for row in 0..20_u32 {
        let started = Instant::now();
        for number in 0..1000_u32 {
            let mut nonce = [0; 12];
            nonce[4..8].copy_from_slice(&row.to_le_bytes());
            nonce[8..].copy_from_slice(&number.to_le_bytes());
            let nonce = Nonce::assume_unique_for_key(nonce);
            let tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut packet);
            std::hint::black_box(tag.map_err(bad)?.as_ref());
        }
        best = best.min(started.elapsed().as_nanos() as f64 / 1000.0);
    }
    Ok(best)
}
