//! The runner of simulated worlds: `sandd-sim [--seeds N] [--from N] [--steps N] [--out DIRECTORY] [--jobs N]`. Started by
//! `cargo xtask sim`.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sandd_mesh::sim::{Failure, Report, run};

/// Failures after which a run ends.
const ENOUGH: usize = 20;

struct Options {
    seeds: u64,
    from: u64,
    steps: usize,
    jobs: usize,
    out: PathBuf,
}

#[derive(Default)]
struct Sum {
    worlds: u64,
    lasted: Duration,
    datagrams: u64,
    sent: usize,
    arrived: u64,
    failures: usize,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.worlds += 1;
        self.lasted += report.lasted;
        self.datagrams += report.datagrams;
        self.sent += report.sent;
        self.arrived += report.arrived;
    }
}

fn main() -> ExitCode {
    let Some(options) = options(std::env::args().skip(1)) else {
        let _ = writeln!(
            io::stderr(),
            "usage: sandd-sim [--seeds N] [--from N] [--steps N] [--jobs N] [--out DIRECTORY]"
        );
        return ExitCode::from(2);
    };
    let started = Instant::now();
    let sum = Mutex::new(Sum::default());
    let next = AtomicU64::new(options.from);
    std::thread::scope(|scope| {
        for _ in 0..options.jobs {
            scope.spawn(|| work(&options, &next, &sum));
        }
    });
    let sum = sum.into_inner().unwrap_or_default();
    let _ = writeln!(
        io::stdout(),
        "{} worlds of {} steps, {} offences, in {:.1} s: {:.1} h of their time, {} datagrams, {} of {} packets arrived",
        sum.worlds,
        options.steps,
        sum.failures,
        started.elapsed().as_secs_f64(),
        sum.lasted.as_secs_f64() / 3_600.0,
        sum.datagrams,
        sum.arrived,
        sum.sent,
    );
    if sum.failures == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn options(mut arguments: impl Iterator<Item = String>) -> Option<Options> {
    let mut options = Options {
        seeds: 200,
        from: 0,
        steps: 100,
        jobs: std::thread::available_parallelism().map_or(1, usize::from),
        out: PathBuf::from("target/sim"),
    };
    while let Some(name) = arguments.next() {
        let value = arguments.next()?;
        match name.as_str() {
            "--seeds" => options.seeds = value.parse().ok()?,
            "--from" => options.from = value.parse().ok()?,
            "--steps" => options.steps = value.parse().ok()?,
            "--jobs" => options.jobs = value.parse().ok()?,
            "--out" => options.out = PathBuf::from(value),
            _ => return None,
        }
    }
    Some(options)
}

fn work(options: &Options, next: &AtomicU64, sum: &Mutex<Sum>) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= options.from + options.seeds {
            return;
        }
        let outcome = run(seed, options.steps, Instant::now());
        let Ok(mut sum) = sum.lock() else { return };
        match outcome {
            Ok(report) => sum.add(&report),
            Err(failure) => {
                sum.worlds += 1;
                sum.failures += 1;
                tell(&failure, &options.out);
                if sum.failures >= ENOUGH {
                    next.store(u64::MAX / 2, Ordering::Relaxed);
                }
            }
        }
    }
}

fn tell(failure: &Failure, out: &Path) {
    let mut text = format!("seed {}: {}\n\n", failure.seed, failure.what);
    for step in &failure.plan {
        text.push_str(step);
        text.push('\n');
    }
    text.push('\n');
    for line in &failure.lines {
        text.push_str(line);
        text.push('\n');
    }
    let written = std::fs::create_dir_all(out)
        .and_then(|()| std::fs::write(out.join(format!("{}.txt", failure.seed)), &text))
        .and_then(|()| std::fs::write(out.join(format!("{}.pcap", failure.seed)), &failure.capture));
    let where_to = match written {
        Ok(()) => out.join(format!("{}.txt", failure.seed)).display().to_string(),
        Err(error) => error.to_string(),
    };
    let _ = writeln!(
        io::stdout(),
        "seed {}: {} ({} steps; {where_to})",
        failure.seed,
        failure.what,
        failure.plan.len()
    );
}
