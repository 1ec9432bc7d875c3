//! A steady row of ICMP echo requests: when the first was answered, how many were lost, how long the longest silence was.

use std::{
    io::Read as _,
    mem,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::{Namespace, eventually};

/// Each row has an identifier of its own, for a raw socket sees the answers of all.
static IDENTIFIER: AtomicU16 = AtomicU16::new(1);

/// Sends echo requests until stopped.
#[derive(Debug)]
pub struct Pinger {
    stop: Arc<AtomicBool>,
    samples: Arc<Mutex<Vec<Sample>>>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    sent: Instant,
    answered: Option<Instant>,
}

/// What a row of echo requests came to. A request of the last second before the end is not counted.
#[derive(Debug, Clone, Copy)]
pub struct PingRecord {
    /// When the first answer came.
    pub first_answer: Option<Instant>,
    /// Requests sent after the first answer came. Those before it waited for a path, in a queue that may be full.
    pub sent: usize,
    /// How many of those went unanswered.
    pub lost: usize,
    /// The longest time between two answers.
    pub longest_silence: Duration,
    /// The median round trip.
    pub median: Duration,
}

impl PingRecord {
    /// An error that says how much was lost and for how long, if anything was.
    pub fn ensure_nothing_lost(&self) -> Result<()> {
        ensure!(
            self.lost == 0,
            "{} of {} lost, silence {:?}",
            self.lost,
            self.sent,
            self.longest_silence
        );
        Ok(())
    }
}

impl Pinger {
    /// Starts to ping `target` from within `namespace`, one request each `interval`.
    pub fn start(namespace: &Namespace, target: Ipv4Addr, interval: Duration) -> Result<Self> {
        let socket = namespace
            .inside(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)))?
            .context("no raw socket")?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let identifier = IDENTIFIER.fetch_add(1, Ordering::Relaxed);
        let stop = Arc::new(AtomicBool::new(false));
        let samples = Arc::new(Mutex::new(Vec::new()));
        let receiver = socket.try_clone()?;
        let sending = thread::spawn({
            let (stop, samples) = (Arc::clone(&stop), Arc::clone(&samples));
            move || send(&socket, target, identifier, interval, &stop, &samples)
        });
        let receiving = thread::spawn({
            let (stop, samples) = (Arc::clone(&stop), Arc::clone(&samples));
            move || receive(receiver, target, identifier, &stop, &samples)
        });
        Ok(Self {
            stop,
            samples,
            threads: vec![sending, receiving],
        })
    }

    /// Waits for the first answer and returns its moment.
    pub fn first_answer(&self, deadline: Duration) -> Result<Instant> {
        eventually("first echo reply", deadline, || {
            self.record_now().first_answer.context("no reply")
        })
    }

    /// What came so far.
    #[must_use]
    pub fn record_now(&self) -> PingRecord {
        let horizon = Instant::now().checked_sub(Duration::from_secs(1));
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let first_answer = samples.iter().filter_map(|sample| sample.answered).min();
        let counted: Vec<Sample> = samples
            .iter()
            .copied()
            .filter(|sample| first_answer.is_some_and(|first| sample.sent >= first))
            .filter(|sample| sample.answered.is_some() || horizon.is_some_and(|horizon| sample.sent < horizon))
            .collect();
        drop(samples);
        let mut answers: Vec<Instant> = counted.iter().filter_map(|sample| sample.answered).collect();
        answers.sort_unstable();
        let mut trips: Vec<Duration> = counted
            .iter()
            .filter_map(|sample| Some(sample.answered?.duration_since(sample.sent)))
            .collect();
        trips.sort_unstable();
        PingRecord {
            first_answer,
            sent: counted.len(),
            lost: counted.len() - answers.len(),
            longest_silence: answers
                .windows(2)
                .filter_map(|pair| Some(pair.get(1)?.duration_since(*pair.first()?)))
                .max()
                .unwrap_or_default(),
            median: trips.get(trips.len() / 2).copied().unwrap_or_default(),
        }
    }

    /// Stops and returns what it came to.
    #[must_use]
    pub fn stop(mut self) -> PingRecord {
        self.end();
        self.record_now()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in mem::take(&mut self.threads) {
            let _ = thread.join();
        }
    }
}

impl Drop for Pinger {
    fn drop(&mut self) {
        self.end();
    }
}

fn send(
    socket: &Socket,
    target: Ipv4Addr,
    identifier: u16,
    interval: Duration,
    stop: &AtomicBool,
    samples: &Mutex<Vec<Sample>>,
) {
    let target = SocketAddr::new(IpAddr::V4(target), 0).into();
    let mut next = Instant::now();
    for sequence in 0..=u16::MAX {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        samples.lock().unwrap_or_else(PoisonError::into_inner).push(Sample {
            sent: Instant::now(),
            answered: None,
        });
        // Fails while there is no route: then it counts as unanswered, as it should.
        let _ = socket.send_to(&echo_request(identifier, sequence), &target);
        next += interval;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn receive(mut socket: Socket, target: Ipv4Addr, identifier: u16, stop: &AtomicBool, samples: &Mutex<Vec<Sample>>) {
    let mut packet = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let Ok(length) = socket.read(&mut packet) else { continue };
        let now = Instant::now();
        let Some(sequence) = packet
            .get(..length)
            .and_then(|packet| answered(packet, target, identifier))
        else {
            continue;
        };
        if let Some(sample) = samples
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_mut(usize::from(sequence))
        {
            sample.answered.get_or_insert(now);
        }
    }
}

/// The sequence number of an echo reply to us, in an IPv4 packet.
fn answered(packet: &[u8], target: Ipv4Addr, identifier: u16) -> Option<u16> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    if packet.get(12..16)? != target.octets() {
        return None;
    }
    let [kind, _, _, _, id0, id1, seq0, seq1] = *packet.get(header..)?.first_chunk::<8>()?;
    (kind == 0 && u16::from_be_bytes([id0, id1]) == identifier).then(|| u16::from_be_bytes([seq0, seq1]))
}

fn echo_request(identifier: u16, sequence: u16) -> [u8; 64] {
    let mut packet = [0; 64];
    let [id0, id1] = identifier.to_be_bytes();
    let [seq0, seq1] = sequence.to_be_bytes();
    packet[0] = 8;
    packet[4..8].copy_from_slice(&[id0, id1, seq0, seq1]);
    let sum: u32 = packet
        .chunks_exact(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or_default();
    packet[2..4].copy_from_slice(&checksum.to_be_bytes());
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_request_makes_its_words_sum_to_all_ones() {
        let packet = echo_request(0xbeef, 0x1234);
        let mut sum: u32 = packet
            .chunks_exact(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        assert_eq!(sum, 0xffff);
    }
}
