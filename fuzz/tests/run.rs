//! Replays the corpus and feeds seeded mutations of it to every surface.
//!
//! `SANDD_FUZZ_PERCENT` scales the number of inputs (100), `SANDD_FUZZ_SEED` sets another seed (1), so that a nightly run
//! can do more and other work. A finding names its surface, seed and bytes.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sandd_fuzz::mutate::Mutator;
use sandd_fuzz::{TARGETS, Target};

/// Longest input.
const MAX_INPUT: usize = 8 << 10;
/// No input may take longer, not even on a busy machine.
const TOO_LONG: Duration = Duration::from_secs(1);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(default, |text| text.parse().expect("a number"))
}

fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let mut files: Vec<_> = fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{} has no corpus: {error}", target.name))
        .map(|entry| entry.expect("the corpus can be listed").path())
        .map(|path| (path.clone(), fs::read(&path).expect("the corpus can be read")))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} has no corpus", target.name);
    files
}

fn try_one(target: &Target, origin: &str, data: &[u8]) {
    let started = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(data)));
    let took = started.elapsed();
    let digits: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(outcome.is_ok(), "{} panicked on {origin}: {digits}", target.name);
    assert!(took < TOO_LONG, "{} took {took:?} for {origin}: {digits}", target.name);
}

#[test]
fn the_corpus_is_read_without_a_panic() {
    for target in &TARGETS {
        for (path, data) in corpus(target) {
            try_one(target, &path.display().to_string(), &data);
        }
    }
}

#[test]
fn mutations_of_the_corpus_are_read_without_a_panic() {
    let (percent, seed) = (number("SANDD_FUZZ_PERCENT", 100), number("SANDD_FUZZ_SEED", 1));
    std::thread::scope(|scope| {
        for target in &TARGETS {
            scope.spawn(move || {
                let seeds: Vec<_> = corpus(target).into_iter().map(|(_, data)| data).collect();
                let runs = u64::from(target.runs) * percent / 100;
                let started = Instant::now();
                for run in 0..runs {
                    // One generator an input: a finding is made again without the runs before it.
                    let data =
                        Mutator::new(seed.wrapping_mul(0x1_0000_0001).wrapping_add(run)).input(&seeds, MAX_INPUT);
                    try_quiet(target, seed, run, &data);
                }
                println!("{:16} {runs:8} inputs in {:?}", target.name, started.elapsed());
            });
        }
    });
    assert!(
        peak_kib().is_none_or(|peak| peak < 256 << 10),
        "memory grew to {:?} KiB",
        peak_kib()
    );
}

/// As `try_one`, but names the origin only when it matters: there are many inputs.
fn try_quiet(target: &Target, seed: u64, run: u64, data: &[u8]) {
    let started = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(data)));
    if outcome.is_err() || started.elapsed() >= TOO_LONG {
        try_one(target, &format!("seed {seed}, run {run}"), data);
    }
}

/// The most memory that this process has had.
fn peak_kib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
