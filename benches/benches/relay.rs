//! What the way over a relay carries: two connections of ours to our own relay, over TLS on loopback, all on this machine.
//!
//! `cargo bench -p sandd-benches --bench relay [-- SECONDS]`. Runs of 45 packets of 1,312 bytes are queued as fast as the
//! receiver takes them, with at most so many bytes under way that the queues drop nothing. Sender, relay and receiver
//! share this process, so its processor time is that of all three.

use std::alloc::System;
use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandd_control_client::dial::Dialer;
use sandd_control_client::keys::{DiscoPrivateKey, NodePublicKey};
use sandd_control_client::netmap::{DerpMap, DerpNode, DerpRegion, RegionId};
use sandd_control_client::{
    AuthKey, ControlClient, ControlConfig, ControlEvent, ControlState, ControlUrl, MemoryStore,
};
use sandd_coordinator::{Coordinator, KeyOptions};
use sandd_mesh::io::derp::{DerpEvent, DerpPool};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::sync::mpsc;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const REGION: RegionId = RegionId(999);
const PACKET: usize = 1_312;
const RUN: usize = 45;
/// Packets under way at most.
const WINDOW: u64 = 180;
const HOST: &str = "127.0.0.1";

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let smoke = !args.iter().any(|arg| arg == "--bench");
    let asked = args.iter().find_map(|arg| arg.parse().ok());
    let seconds = asked.unwrap_or(if smoke { 0.2 } else { 5.0 });
    measure(Duration::from_secs_f64(seconds)).await
}

async fn measure(time: Duration) -> Result<()> {
    let directory = std::env::temp_dir().join(format!("sandd-bench-relay-{}", std::process::id()));
    let coordinator = Coordinator::builder()
        .listen(format!("{HOST}:0").parse()?)
        .tls_self_made()
        .start()
        .await?;
    std::fs::write(&directory, coordinator.certificate_pem().ok_or("no certificate")?)?;
    let dialer = Dialer::new(Some(&directory))?;
    std::fs::remove_file(&directory)?;
    let options = KeyOptions {
        reusable: true,
        ..KeyOptions::default()
    };
    let key = coordinator.create_key(options).await?;
    let mut sender = Member::join(&coordinator, &key, &dialer, "sender").await?;
    let mut receiver = Member::join(&coordinator, &key, &dialer, "receiver").await?;

    let run = vec![4u8; PACKET * RUN];
    let (mut sent, mut received, mut runs) = (0u64, 0u64, 0u64);
    let (began, cpu, counted) = (Instant::now(), cpu()?, ALLOCATOR.stats());
    while began.elapsed() < time {
        while sent - received < WINDOW {
            sent += sender.pool.send_slots(REGION, &receiver.key, &run, PACKET) as u64;
        }
        // A packet that is lost would never be answered for.
        let next = tokio::time::timeout(Duration::from_secs(1), receiver.events.recv());
        match next.await {
            Ok(Some(DerpEvent::Packets { packets, .. })) => {
                received += packets.count() as u64;
                runs += 1;
            }
            Ok(Some(_)) => {}
            Ok(None) => return Err("the receiver stopped".into()),
            Err(_) => received = sent,
        }
    }
    let (took, spent) = (began.elapsed().as_secs_f64(), self::cpu()? - cpu);
    let allocations = ALLOCATOR.stats().allocations - counted.allocations;
    let bytes = received as f64 * PACKET as f64;
    let mut out = std::io::stdout().lock();
    writeln!(out, "over our own relay, packets of {PACKET} bytes")?;
    writeln!(out, "  {:>8.2} Gbit/s", bytes * 8.0 / took / 1e9)?;
    writeln!(
        out,
        "  {:>8.2} CPU s per GB, sender, relay and receiver together",
        spent / (bytes / 1e9)
    )?;
    writeln!(
        out,
        "  {:>8.1} packets in one event",
        received as f64 / runs.max(1) as f64
    )?;
    writeln!(
        out,
        "  {:>8.3} allocations a packet, all three",
        allocations as f64 / received.max(1) as f64
    )?;
    writeln!(out, "  dropped: {:?} {:?}", sender.pool.drops(), receiver.pool.drops())?;
    coordinator.shutdown().await;
    Ok(())
}

/// Processor seconds of this process so far.
fn cpu() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, rest) = stat.rsplit_once(") ").ok_or("odd stat line")?;
    let ticks = rest
        .split(' ')
        .skip(11)
        .take(2)
        .map(str::parse::<u64>)
        .sum::<std::result::Result<u64, _>>()?;
    // USER_HZ is 100 on every Linux that we meet.
    Ok(ticks as f64 / 100.0)
}

/// A member whose map is left alone and whose relay is what this is about.
struct Member {
    _client: ControlClient,
    pool: DerpPool,
    events: mpsc::Receiver<DerpEvent>,
    key: NodePublicKey,
}

impl Member {
    async fn join(coordinator: &Coordinator, key: &str, dialer: &Dialer, name: &str) -> Result<Self> {
        let url = ControlUrl::parse(&coordinator.url())?;
        let disco = DiscoPrivateKey::generate().public();
        let mut config = ControlConfig::new(url.clone(), name.to_owned(), disco, dialer.clone());
        config.auth_key = Some(AuthKey::new(key));
        let (client, mut said) = ControlClient::start(config, Arc::new(MemoryStore::default()))?;
        loop {
            match said.recv().await {
                Some(ControlEvent::State(ControlState::Connected)) => break,
                Some(_) => {}
                None => return Err("a member was not let in".into()),
            }
        }
        // What it hears from then on is nobody's business, but it must be taken.
        tokio::spawn(async move { while said.recv().await.is_some() {} });
        let node_key = client.node_key();
        let (events_in, mut events) = mpsc::channel(1_024);
        let mut pool = DerpPool::new(node_key.clone(), dialer.clone(), url, events_in);
        pool.set_map(map(coordinator.listen_addr().port()));
        pool.set_home(Some(REGION));
        while !matches!(events.recv().await, Some(DerpEvent::Connected { .. })) {}
        Ok(Self {
            _client: client,
            pool,
            events,
            key: node_key.public(),
        })
    }
}

fn map(port: u16) -> Arc<DerpMap> {
    let node = DerpNode {
        name: "999a".to_owned(),
        host_name: HOST.to_owned(),
        cert_name: String::new(),
        ipv4: String::new(),
        ipv6: String::new(),
        derp_port: port,
        stun_port: None,
        stun_only: false,
        insecure_for_tests: false,
        stun_test_ip: String::new(),
    };
    let region = DerpRegion {
        id: REGION,
        code: "bench".to_owned(),
        name: "bench".to_owned(),
        no_measure_no_home: false,
        avoid: false,
        nodes: vec![node],
    };
    Arc::new(DerpMap {
        regions: BTreeMap::from([(REGION, Arc::new(region))]),
        home_scores: BTreeMap::new(),
    })
}
