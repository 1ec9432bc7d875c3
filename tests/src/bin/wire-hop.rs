//! `wire-hop`: a stretch of Ethernet between two namespaces with delay, jitter and seeded loss.
//!
//! It holds a TAP interface at each end. Those have no offloads, so the kernel cuts and sums each packet before it comes
//! here. A direction has one thread that reads and draws each frame's fate, and one that waits for its time and writes.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::File,
    io::{Write as _, stdout},
    os::fd::AsFd as _,
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

const USAGE: &str =
    "usage: wire-hop NAMESPACE-A INTERFACE-A NAMESPACE-B INTERFACE-B DELAY-MS JITTER-MS LOSS-PERCENT SEED";

/// Frames under way in one direction; more are dropped.
const UNDER_WAY: usize = 65_536;

/// The writer looks at its reader at least this often.
const IDLE: Duration = Duration::from_secs(1);

/// A frame and when it arrives; the number keeps frames of the same moment in their order.
type UnderWay = Reverse<(Instant, u64, Box<[u8]>)>;

/// How one direction treats its frames.
#[derive(Debug, Clone)]
struct Chance {
    delay: Duration,
    jitter: Duration,
    loss: f64,
    random: u64,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [namespace_a, name_a, namespace_b, name_b, delay, jitter, loss, seed] = words.as_slice() else {
        bail!("{USAGE}")
    };
    let milliseconds = |text: &str| -> Result<Duration> { Ok(Duration::from_secs_f64(text.parse::<f64>()? / 1e3)) };
    let chance = |random| -> Result<Chance> {
        Ok(Chance {
            delay: milliseconds(delay)?,
            jitter: milliseconds(jitter)?,
            loss: loss.parse::<f64>()? / 100.0,
            random,
        })
    };
    let seed: u64 = seed.parse()?;
    let a = Arc::new(interface(namespace_a, name_a)?);
    let b = Arc::new(interface(namespace_b, name_b)?);
    let there = direction(&a, &b, chance(seed)?);
    direction(&b, &a, chance(seed ^ u64::MAX)?);
    writeln!(stdout().lock(), "wire is up")?;
    there.join().map_err(|_| anyhow!("a direction of the wire panicked"))
}

fn interface(namespace: &str, name: &str) -> Result<SyncDevice> {
    thread::scope(|scope| {
        let made = scope.spawn(|| {
            let path = Path::new("/run/netns").join(namespace);
            let file = File::open(&path).with_context(|| path.display().to_string())?;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            let builder = DeviceBuilder::new().layer(Layer::L2).name(name);
            builder
                .build_sync()
                .with_context(|| format!("no TAP interface {name} in {namespace}"))
        });
        made.join()
            .map_err(|_| anyhow!("the making of an interface panicked"))?
    })
}

fn direction(from: &Arc<SyncDevice>, to: &Arc<SyncDevice>, chance: Chance) -> thread::JoinHandle<()> {
    let (sender, receiver) = sync_channel(UNDER_WAY);
    let (from, to) = (Arc::clone(from), Arc::clone(to));
    let reading = thread::spawn(move || read(&from, chance, &sender));
    thread::spawn(move || write(&to, &receiver));
    reading
}

fn read(from: &SyncDevice, mut chance: Chance, sender: &SyncSender<UnderWay>) {
    let mut buffer = [0; 2048];
    let mut number = 0;
    loop {
        let Ok(length) = from.recv(&mut buffer) else {
            // An interface that is down is not gone.
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        let Some(due) = chance.fate(Instant::now()) else {
            continue;
        };
        number += 1;
        let frame = buffer.get(..length).unwrap_or_default().into();
        if let Err(TrySendError::Disconnected(_)) = sender.try_send(Reverse((due, number, frame))) {
            return;
        }
    }
}

fn write(to: &SyncDevice, receiver: &Receiver<UnderWay>) {
    let mut waiting: BinaryHeap<UnderWay> = BinaryHeap::new();
    loop {
        let now = Instant::now();
        let wait = waiting
            .peek()
            .map_or(IDLE, |Reverse((due, ..))| due.saturating_duration_since(now));
        if wait.is_zero() {
            if let Some(Reverse((.., frame))) = waiting.pop() {
                // Fails while the far end is down: lost, as on a real wire.
                let _ = to.send(&frame);
            }
            continue;
        }
        match receiver.recv_timeout(wait) {
            Ok(frame) => waiting.push(frame),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl Chance {
    /// When a frame that enters now arrives; `None` for one that is lost.
    fn fate(&mut self, now: Instant) -> Option<Instant> {
        if self.draw() < self.loss {
            return None;
        }
        Some(now + self.delay + self.jitter.mul_f64(self.draw()))
    }

    /// Between 0 and 1, by SplitMix64.
    fn draw(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.random;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) as f64 / u64::MAX as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_lost_as_asked_for_and_the_same_again() {
        let chance = Chance {
            delay: Duration::from_millis(20),
            jitter: Duration::from_millis(5),
            loss: 0.05,
            random: 7,
        };
        let now = Instant::now();
        let fates = || {
            let mut chance = chance.clone();
            (0..10_000).map(|_| chance.fate(now)).collect::<Vec<_>>()
        };
        let lost = fates().iter().filter(|fate| fate.is_none()).count();
        assert!((400..600).contains(&lost), "{lost}");
        assert_eq!(fates(), fates());
        let span = Duration::from_millis(20)..Duration::from_millis(25);
        assert!(
            fates()
                .iter()
                .flatten()
                .all(|due| span.contains(&due.duration_since(now)))
        );
    }
}
