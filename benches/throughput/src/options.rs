//! What the command line asks for: how often, how long, which cells, which engines.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};

/// How the command is used.
pub const USAGE: &str =
    "usage: throughput [--rounds N] [--seconds S] [--only CELL,...] [--engines NAME,...] [--peers N,...] [--out DIR]

  --rounds N      interleaved rounds, whose medians count (default 5)
  --seconds S     how long each stream runs (default 4; over the emulated link at least 10)
  --only CELL,..  only these: tcp, reverse, streams, udp, ping, loaded, userspace, relayed, peers, link, stages; and one that
                  is run only when named: endurance
  --engines N,..  only these: none, sandd, wireguard-go, tailscaled, gotatun, boringtun, tsnet, kernel
  --udp MBIT,..   rates of the UDP flow (default 300)
  --peers N,..    how many peers are configured in the cell `peers` (default 1,1000)
  --losses P,..   percent of packets that the emulated link loses (default 0,0.1,1)
  --minutes N     length of the cell `endurance` (default 32)
  --rate MBIT     rate of the emulated link (default 1000, or what the box holds)
  --out DIR       where table, JSON and plot go (default target/throughput)";

/// Everything that can be measured, in the order in which it is.
pub const CELLS: [&str; 12] = [
    "tcp",
    "reverse",
    "streams",
    "udp",
    "ping",
    "loaded",
    "userspace",
    "relayed",
    "peers",
    "link",
    "stages",
    "endurance",
];

/// The options of one run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Rounds.
    pub rounds: usize,
    /// Length of a stream.
    pub stream: Duration,
    /// Cells, when not all.
    pub only: Vec<String>,
    /// Engines, when not all.
    pub engines: Vec<String>,
    /// Rates of the UDP flow in Mbit/s.
    pub udp: Vec<u32>,
    /// Numbers of peers.
    pub peers: Vec<usize>,
    /// Losses of the link in percent.
    pub losses: Vec<f64>,
    /// Length of the endurance run in minutes.
    pub minutes: u64,
    /// Rate of the link in Mbit/s.
    pub rate: f64,
    /// Where the results go.
    pub out: PathBuf,
}

impl Options {
    /// Reads the command line.
    pub fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            rounds: 5,
            stream: Duration::from_secs(4),
            only: Vec::new(),
            engines: Vec::new(),
            udp: vec![300],
            peers: vec![1, 1000],
            losses: vec![0.0, 0.1, 1.0],
            minutes: 32,
            rate: 1000.0,
            out: PathBuf::from("target/throughput"),
        };
        while let Some(argument) = arguments.next() {
            if matches!(argument.as_str(), "--help" | "-h") {
                bail!("{USAGE}");
            }
            let value = arguments
                .next()
                .with_context(|| format!("{argument} needs a value\n{USAGE}"))?;
            let words = || value.split(',').map(str::trim).filter(|word| !word.is_empty());
            match argument.as_str() {
                "--rounds" => options.rounds = value.parse()?,
                "--seconds" => options.stream = Duration::from_secs(value.parse::<u64>()?.max(1)),
                "--only" => options.only.extend(words().map(str::to_owned)),
                "--engines" => options.engines.extend(words().map(str::to_owned)),
                "--udp" => options.udp = words().map(str::parse).collect::<Result<_, _>>()?,
                "--peers" => options.peers = words().map(str::parse).collect::<Result<_, _>>()?,
                "--losses" => options.losses = words().map(str::parse).collect::<Result<_, _>>()?,
                "--minutes" => options.minutes = value.parse()?,
                "--rate" => options.rate = value.parse()?,
                "--out" => options.out = value.into(),
                _ => bail!("unknown argument {argument}\n{USAGE}"),
            }
        }
        for cell in &options.only {
            ensure!(CELLS.contains(&cell.as_str()), "there is no cell {cell}\n{USAGE}");
        }
        Ok(options)
    }

    /// Whether that cell is to be measured.
    #[must_use]
    pub fn wants_cell(&self, cell: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == cell)
    }

    /// Whether that engine is to be measured.
    #[must_use]
    pub fn wants_engine(&self, engine: &str) -> bool {
        self.engines.is_empty() || self.engines.iter().any(|only| only == engine)
    }
}
