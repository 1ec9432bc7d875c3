//! What many peers cost a node: the time until they are in force, a change of one of them, and memory for each.
//!
//! `cargo bench -p sandd-benches --bench netmap [-- PEERS..]`. A coordinator in this process tells a node, which is a
//! process of its own, of so many peers: all at once, then changes of one, newcomers and leavers, at last that all are
//! gone. Times run from the coordinator's word to the node's answer that it is in force, so they hold the connection,
//! zstd, JSON and the map itself; *applied* is the engine's part. Memory is what the allocator has given out and not
//! taken back, and what the system sees.

use std::alloc::System;
use std::error::Error;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use sandd_control_client::ControlUrl;
use sandd_control_client::keys::{DiscoPublicKey, MachinePublicKey, NodePublicKey};
use sandd_control_client::wire::{Hostinfo, MapResponse, Node, PeerChange};
use sandd_coordinator::{Coordinator, Hooks, KeyOptions, NodeId};
use sandd_mesh::{AuthKey, Mesh, MeshEvent};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const NODE: &str = "--node";
/// Numbers of the peers that are told of, beyond those of real members.
const FIRST: i64 = 1_000_000;
/// The relay region of our own coordinator.
const REGION: i64 = 999;

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
    let asked: Vec<usize> = args.iter().filter_map(|arg| arg.parse().ok()).collect();
    let (sizes, changes) = match (asked.is_empty(), smoke) {
        (false, _) => (asked, 200),
        (true, true) => (vec![10], 5),
        (true, false) => (vec![1, 200, 1_000, 10_000], 200),
    };
    for peers in sizes {
        measure(peers, changes).await?;
    }
    Ok(())
}

async fn measure(peers: usize, changes: usize) -> Result<()> {
    let coordinator = Coordinator::builder().listen("127.0.0.1:0".parse()?).start().await?;
    let key = coordinator.create_key(KeyOptions::default()).await?;
    let mut told = Told::start(&coordinator, &key)?;
    let empty = told.until(0)?;

    let everybody: Vec<Node> = (0..peers).map(peer).collect();
    let began = Instant::now();
    let full = told.tell(&changed(everybody), peers)?;
    let loaded = began.elapsed();

    let patches = (0..changes).map(|round| (patch(round * 7 % peers, round), peers));
    let patched = told.each(patches)?;
    let after_patches = told.last;
    let newcomers = (0..changes).map(|round| (changed(vec![peer(peers + round)]), peers + round + 1));
    let grown = told.each(newcomers)?;
    let leavers = (0..changes).map(|round| (removed(&[peers + round]), peers + changes - round - 1));
    let shrunk = told.each(leavers)?;
    let all: Vec<usize> = (0..peers).collect();
    let began = Instant::now();
    let gone = told.tell(&removed(&all), 0)?;
    let unloaded = began.elapsed();

    let per_peer = |after: Reading| after.live.saturating_sub(empty.live) as f64 / peers as f64;
    let rss = full.rss.saturating_sub(empty.rss) as f64 * 1_024.0 / peers as f64;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{peers} peers")?;
    writeln!(
        out,
        "  loaded           {:>9.1} ms, applied in {:.1} ms",
        ms(loaded),
        ms(full.took)
    )?;
    writeln!(out, "  one changed      {patched}")?;
    writeln!(out, "  one came         {grown}")?;
    writeln!(out, "  one left         {shrunk}")?;
    writeln!(
        out,
        "  all gone         {:>9.1} ms, applied in {:.1} ms",
        ms(unloaded),
        ms(gone.took)
    )?;
    writeln!(
        out,
        "  a peer holds     {:>9.0} bytes, after {changes} changes {:.0}; of RSS {rss:.0}",
        per_peer(full),
        per_peer(after_patches)
    )?;
    writeln!(
        out,
        "  without peers    {:>9} KiB, once all are gone {} KiB",
        empty.live / 1_024,
        gone.live / 1_024
    )?;
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn address(number: usize) -> (IpNet, IpNet) {
    // Far from the address of the node itself.
    let host = u32::try_from(number + 0x1_0000).unwrap_or(u32::MAX);
    let v4 = IpAddr::V4(Ipv4Addr::from(0x6440_0000 + host));
    let v6 = IpAddr::V6(Ipv6Addr::from(
        0xfd7a_115c_a1e0_0000_0000_0000_0000_0000 + u128::from(host),
    ));
    (v4.into(), v6.into())
}

fn bytes(number: usize, role: u8) -> [u8; 32] {
    let mut bytes = [role; 32];
    bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
    bytes
}

fn endpoint(number: usize, port: usize) -> SocketAddr {
    let ip = Ipv4Addr::from(0xc612_0000 + u32::try_from(number % 0x1_0000).unwrap_or(0));
    (ip, 1_024 + u16::try_from(port % 60_000).unwrap_or(0)).into()
}

/// A peer as a coordinator describes an ordinary node.
fn peer(number: usize) -> Node {
    let (v4, v6) = address(number);
    let id = FIRST + number as i64;
    Node {
        id,
        stable_id: id.to_string(),
        name: format!("member-{number}.sandd.local."),
        user: 1,
        key: Some(NodePublicKey::from_bytes(bytes(number, 1))),
        machine: Some(MachinePublicKey::from_bytes(bytes(number, 2))),
        disco_key: Some(DiscoPublicKey::from_bytes(bytes(number, 3))),
        addresses: vec![v4, v6],
        allowed_ips: Some(vec![v4, v6]),
        endpoints: vec![endpoint(number, 1), endpoint(number, 2)],
        home_derp: REGION,
        hostinfo: Some(Hostinfo {
            os: "linux".to_owned(),
            hostname: format!("member-{number}"),
            ..Hostinfo::default()
        }),
        online: Some(true),
        machine_authorized: true,
        ..Node::default()
    }
}

fn changed(peers_changed: Vec<Node>) -> MapResponse {
    MapResponse {
        peers_changed,
        ..MapResponse::default()
    }
}

fn removed(numbers: &[usize]) -> MapResponse {
    MapResponse {
        peers_removed: numbers.iter().map(|number| FIRST + *number as i64).collect(),
        ..MapResponse::default()
    }
}

fn patch(number: usize, round: usize) -> MapResponse {
    MapResponse {
        peers_changed_patch: vec![PeerChange {
            node_id: FIRST + number as i64,
            endpoints: Some(vec![endpoint(number, 1), endpoint(number, 100 + round)]),
            ..PeerChange::default()
        }],
        ..MapResponse::default()
    }
}

/// What the node says after a map.
#[derive(Debug, Clone, Copy, Default)]
struct Reading {
    peers: usize,
    took: Duration,
    live: u64,
    rss: u64,
}

/// Times of single changes.
struct Times {
    whole: Vec<Duration>,
    applied: Vec<Duration>,
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let part = |times: &[Duration], share: usize| ms(times[(times.len() - 1) * share / 100]);
        write!(
            f,
            "{:>9.3} ms median, {:.3} ms p95, applied in {:.3} ms",
            part(&self.whole, 50),
            part(&self.whole, 95),
            part(&self.applied, 50)
        )
    }
}

/// The node under measurement, as a process, and how it is told things.
struct Told {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    hooks: Hooks,
    id: NodeId,
    last: Reading,
}

impl Told {
    fn start(coordinator: &Coordinator, key: &str) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([NODE, &coordinator.url(), key])
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("no output")?;
        let mut told = Self {
            child,
            lines: BufReader::new(stdout).lines(),
            hooks: coordinator.hooks(),
            id: NodeId(0),
            last: Reading::default(),
        };
        told.until(0)?;
        told.id = coordinator.nodes().first().ok_or("no node")?.id;
        // What it tells of itself comes back to it and is said as well: past that.
        told.tell(&changed(vec![peer(0)]), 1)?;
        told.tell(&removed(&[0]), 0)?;
        Ok(told)
    }

    /// The last word that it has said, if it has so many peers; else the next one that says so.
    fn until(&mut self, peers: usize) -> Result<Reading> {
        if self.id != NodeId(0) && self.last.peers == peers {
            return Ok(self.last);
        }
        loop {
            let line = self.lines.next().ok_or("the node ended early")??;
            let mut words = line.split(' ');
            let mut number = || -> Result<u64> { Ok(words.next().ok_or("a short line")?.parse()?) };
            self.last = Reading {
                peers: usize::try_from(number()?)?,
                took: Duration::from_micros(number()?),
                live: number()?,
                rss: number()?,
            };
            if self.last.peers == peers {
                return Ok(self.last);
            }
        }
    }

    fn tell(&mut self, message: &MapResponse, then: usize) -> Result<Reading> {
        self.last.peers = usize::MAX;
        self.hooks.push(self.id, message);
        self.until(then)
    }

    fn each(&mut self, messages: impl Iterator<Item = (MapResponse, usize)>) -> Result<Times> {
        let (mut whole, mut applied) = (Vec::new(), Vec::new());
        for (message, then) in messages {
            let began = Instant::now();
            let reading = self.tell(&message, then)?;
            whole.push(began.elapsed());
            applied.push(reading.took);
        }
        whole.sort();
        applied.sort();
        Ok(Times { whole, applied })
    }
}

impl Drop for Told {
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
    loop {
        let (peers, took) = match events.next().await {
            Some(MeshEvent::NetmapApplied { peers, took, .. }) => (peers, took),
            // It may have been among those that were missed.
            Some(MeshEvent::Lagged(_)) => (mesh.status().await?.peers.len(), Duration::ZERO),
            Some(_) => continue,
            None => return Err("stopped".into()),
        };
        let stats = ALLOCATOR.stats();
        let live = stats.bytes_allocated.saturating_sub(stats.bytes_deallocated);
        let status = std::fs::read_to_string("/proc/self/status")?;
        let memory = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .ok_or("no memory line")?;
        let memory = memory.trim().trim_end_matches(" kB");
        writeln!(std::io::stdout().lock(), "{peers} {} {live} {memory}", took.as_micros())?;
    }
}
