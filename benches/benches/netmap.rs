//! What a network map of many peers costs a node: time until it is in force, and memory for each peer.
//!
//! `cargo bench -p sandd-benches --bench netmap [-- PEERS]`. A coordinator in this process has so many members; the node
//! that is measured is a process of its own. It joins while the mesh is empty, and again when everybody is there.

use std::error::Error;
use std::io::{BufRead, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandd_control_client::dial::Dialer;
use sandd_control_client::keys::DiscoPrivateKey;
use sandd_control_client::{ControlClient, ControlConfig, ControlEvent, ControlState, ControlUrl, MemoryStore};
use sandd_coordinator::{Coordinator, KeyOptions};
use sandd_mesh::{AuthKey, Mesh, MeshEvent};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const NODE: &str = "--node";

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [mark, url, key] = args.as_slice()
        && mark == NODE
    {
        return node(url, key).await;
    }
    // Cargo says `--bench` when it measures, and nothing when it only tests that this runs.
    let smoke = !args.iter().any(|arg| arg == "--bench");
    let asked = args.iter().find_map(|arg| arg.parse().ok());
    measure(asked.unwrap_or(if smoke { 10 } else { 200 })).await
}

async fn measure(peers: usize) -> Result<()> {
    let coordinator = Coordinator::builder().listen("127.0.0.1:0".parse()?).start().await?;
    let options = KeyOptions {
        reusable: true,
        ..KeyOptions::default()
    };
    let key = coordinator.create_key(options).await?;
    let url = coordinator.url().to_string();

    let mut early = Watched::start(&url, &key)?;
    let (_, empty) = early.reading(0)?;
    let mut members = Vec::new();
    for number in 0..peers {
        members.push(member(&url, &key, number).await?);
    }
    let (_, grown) = early.reading(peers)?;
    let mut late = Watched::start(&url, &key)?;
    let (applied, full) = late.reading(peers)?;

    let per_peer = |after: u64| after.saturating_sub(empty) as f64 / peers as f64;
    let mut out = std::io::stdout().lock();
    writeln!(out, "peers                                   {peers}")?;
    writeln!(
        out,
        "one full map, from its arrival in force {:.1} ms",
        applied.as_secs_f64() * 1e3
    )?;
    writeln!(out, "memory without peers                    {empty} KiB")?;
    writeln!(
        out,
        "memory for each peer, come one by one   {:.1} KiB",
        per_peer(grown)
    )?;
    writeln!(out, "memory for each peer, come at once      {:.1} KiB", per_peer(full))?;
    Ok(())
}

/// A member that is nothing but its stream.
async fn member(url: &str, key: &str, number: usize) -> Result<ControlClient> {
    let disco = DiscoPrivateKey::generate().public();
    let name = format!("member-{number}");
    let mut config = ControlConfig::new(ControlUrl::parse(url)?, name, disco, Dialer::new(None)?);
    config.auth_key = Some(AuthKey::new(key));
    let (client, mut events) = ControlClient::start(config, Arc::new(MemoryStore::default()))?;
    loop {
        match events.recv().await {
            Some(ControlEvent::State(ControlState::Connected)) => break,
            Some(_) => {}
            None => return Err("a member was not let in".into()),
        }
    }
    // What it hears from then on is nobody's business, but it must be taken.
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    Ok(client)
}

/// The node under measurement, as a process.
struct Watched {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Watched {
    fn start(url: &str, key: &str) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([NODE, url, key])
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("no output")?;
        Ok(Self {
            child,
            lines: BufReader::new(stdout).lines(),
        })
    }

    /// What it says once it has so many peers: time of the last application, and its memory in KiB.
    fn reading(&mut self, peers: usize) -> Result<(Duration, u64)> {
        loop {
            let line = self.lines.next().ok_or("the node ended early")??;
            let mut words = line.split(' ');
            let mut number = || -> Result<u64> { Ok(words.next().ok_or("a short line")?.parse()?) };
            let (count, micros, memory) = (number()?, number()?, number()?);
            if count >= peers as u64 {
                return Ok((Duration::from_micros(micros), memory));
            }
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Joins and says after each map how many peers there are, how long it took, and what the process weighs.
async fn node(url: &str, key: &str) -> Result<()> {
    let builder = Mesh::builder().hostname("measured").port(0);
    let mesh = builder.start(ControlUrl::parse(url)?, Some(AuthKey::new(key))).await?;
    let mut events = mesh.events();
    let started = Instant::now();
    let mut took = Duration::ZERO;
    loop {
        match events.next().await {
            Some(MeshEvent::NetmapApplied { took: now, .. }) => took = took.max(now),
            Some(MeshEvent::Lagged(_)) => {}
            Some(_) => continue,
            None => return Err(format!("stopped after {:?}", started.elapsed()).into()),
        }
        let peers = mesh.status().await?.peers.len();
        let status = std::fs::read_to_string("/proc/self/status")?;
        let memory = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .ok_or("no memory line")?;
        let memory = memory.trim().trim_end_matches(" kB");
        writeln!(std::io::stdout().lock(), "{peers} {} {memory}", took.as_micros())?;
    }
}
