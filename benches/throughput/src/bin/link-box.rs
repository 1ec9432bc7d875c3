//! `link-box`: one emulated link between two network namespaces, in real time: rate, delay, drop-tail buffer and seeded loss.
//!
//! It holds a TUN interface `link0` in each of them. Without offloads on those the kernel itself cuts and sums each packet
//! before it comes here, so loss meets packets of the wire's size and not super-packets. One thread a direction reads and
//! gives each packet its time of arrival, one waits for that time and writes.

use std::{
    fs::File,
    io::{Write as _, stdout},
    net::Ipv4Addr,
    os::fd::AsFd as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use throughput::link::{Fate, LinkConfig, Shaper};
use tun_rs::{DeviceBuilder, SyncDevice};

const USAGE: &str = "usage: link-box NAMESPACE-A NAMESPACE-B RATE-MBIT ONE-WAY-MS BUFFER-MS LOSS-PERCENT SEED";

/// Packets under way that the box itself has room for; beyond any buffer that is emulated.
const UNDER_WAY: usize = 65_536;

/// Largest packet.
const MTU: u16 = 1500;

/// What came in, went out, fell at the full buffer, and was lost by chance.
#[derive(Debug, Default)]
struct Counters {
    forwarded: AtomicU64,
    dropped: AtomicU64,
    lost: AtomicU64,
}

struct Packet {
    due: Instant,
    bytes: Box<[u8]>,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [a, b, rate, delay, buffer, loss, seed] = words.as_slice() else {
        bail!("{USAGE}")
    };
    let milliseconds = |text: &str| -> Result<Duration> { Ok(Duration::from_secs_f64(text.parse::<f64>()? / 1e3)) };
    let config = LinkConfig {
        bits_per_second: rate.parse::<f64>()? * 1e6,
        delay: milliseconds(delay)?,
        buffer: milliseconds(buffer)?,
        loss: loss.parse::<f64>()? / 100.0,
    };
    let seed: u64 = seed.parse()?;
    let a = Arc::new(interface(a, Ipv4Addr::new(10, 9, 0, 1))?);
    let b = Arc::new(interface(b, Ipv4Addr::new(10, 9, 0, 2))?);
    let there = direction(&a, &b, &config, seed);
    let back = direction(&b, &a, &config, seed ^ u64::MAX);
    writeln!(stdout().lock(), "link is up")?;
    loop {
        thread::sleep(Duration::from_secs(1));
        for (name, counters) in [("there", &there), ("back", &back)] {
            let [forwarded, dropped, lost] =
                [&counters.forwarded, &counters.dropped, &counters.lost].map(|counter| counter.load(Ordering::Relaxed));
            writeln!(
                stdout().lock(),
                "{name}: {forwarded} forwarded, {dropped} dropped, {lost} lost"
            )?;
        }
    }
}

/// The box's end of `link0` in the namespace of that name.
fn interface(namespace: &str, address: Ipv4Addr) -> Result<SyncDevice> {
    thread::scope(|scope| {
        let made = scope.spawn(|| {
            let path = Path::new("/run/netns").join(namespace);
            let file = File::open(&path).with_context(|| path.display().to_string())?;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            let builder = DeviceBuilder::new().name("link0").mtu(MTU).ipv4(address, 30_u8, None);
            builder.build_sync().context("no TUN interface")
        });
        made.join()
            .map_err(|_| anyhow!("the making of an interface panicked"))?
    })
}

fn direction(from: &Arc<SyncDevice>, to: &Arc<SyncDevice>, config: &LinkConfig, seed: u64) -> Arc<Counters> {
    let counters = Arc::new(Counters::default());
    let (sender, receiver) = sync_channel(UNDER_WAY);
    let shaper = Shaper::new(config, seed);
    let (from, to) = (Arc::clone(from), Arc::clone(to));
    let counted = Arc::clone(&counters);
    thread::spawn(move || read(&from, shaper, &sender, &counted));
    let counted = Arc::clone(&counters);
    thread::spawn(move || write(&to, &receiver, &counted));
    counters
}

fn read(from: &SyncDevice, mut shaper: Shaper, sender: &SyncSender<Packet>, counters: &Counters) {
    let mut buffer = [0; 2048];
    while let Ok(length) = from.recv(&mut buffer) {
        let bytes = buffer.get(..length).unwrap_or_default();
        let counter = match shaper.pass(Instant::now(), length) {
            Fate::Arrives(due) => {
                let bytes = bytes.into();
                match sender.try_send(Packet { due, bytes }) {
                    Ok(()) => continue,
                    Err(TrySendError::Full(_)) => &counters.dropped,
                    Err(TrySendError::Disconnected(_)) => return,
                }
            }
            Fate::Dropped => &counters.dropped,
            Fate::Lost => &counters.lost,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

fn write(to: &SyncDevice, receiver: &Receiver<Packet>, counters: &Counters) {
    for packet in receiver {
        let wait = packet.due.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            thread::sleep(wait);
        }
        // An interface that goes down ends the reading side, too.
        if to.send(&packet.bytes).is_ok() {
            counters.forwarded.fetch_add(1, Ordering::Relaxed);
        }
    }
}
