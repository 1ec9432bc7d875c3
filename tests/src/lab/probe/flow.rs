//! A steady row of numbered UDP packets one way: which arrived, which were lost or doubled, how long the silences were.

use std::{
    collections::HashSet,
    mem,
    net::{SocketAddr, SocketAddrV4, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::lab::{Namespace, eventually};

/// Size of a packet's payload; its number is in the first eight bytes.
const SIZE: usize = 200;

/// Sends until stopped.
#[derive(Debug)]
pub struct Flow {
    stop: Arc<AtomicBool>,
    notes: Arc<Mutex<Notes>>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Notes {
    /// When packet n was sent.
    sent: Vec<Instant>,
    /// Numbers in the order of arrival.
    arrived: Vec<(Instant, usize)>,
}

/// What became of the packets that were sent in some span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowRecord {
    /// How many were sent.
    pub sent: usize,
    /// How many of them never arrived.
    pub lost: usize,
    /// How many arrived more than once.
    pub doubled: usize,
}

impl Flow {
    /// Sends from one namespace to `target`, which is bound in the other, one packet each `interval`.
    pub fn start(from: &Namespace, to: &Namespace, target: SocketAddrV4, interval: Duration) -> Result<Self> {
        let receiver = to
            .inside(|| UdpSocket::bind(target))?
            .with_context(|| format!("{target} in {}", to.name()))?;
        receiver.set_read_timeout(Some(Duration::from_millis(100)))?;
        let target = receiver.local_addr()?;
        let sender = from.inside(|| UdpSocket::bind(("0.0.0.0", 0)))??;
        sender.set_nonblocking(true)?;
        let (stop, notes) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Notes::default())));
        let sending = thread::spawn({
            let (stop, notes) = (Arc::clone(&stop), Arc::clone(&notes));
            move || send(&sender, target, interval, &stop, &notes)
        });
        let receiving = thread::spawn({
            let (stop, notes) = (Arc::clone(&stop), Arc::clone(&notes));
            move || receive(&receiver, &stop, &notes)
        });
        Ok(Self {
            stop,
            notes,
            threads: vec![sending, receiving],
        })
    }

    /// When the first packet arrived that was sent after `since`.
    #[must_use]
    pub fn first_after(&self, since: Instant) -> Option<Instant> {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let first = notes.sent.partition_point(|sent| *sent < since);
        notes
            .arrived
            .iter()
            .find(|(_, number)| *number >= first)
            .map(|(at, _)| *at)
    }

    /// Waits until a packet arrives that was sent after `since`.
    pub fn wait_after(&self, since: Instant, deadline: Duration) -> Result<Instant> {
        eventually("a packet of the flow", deadline, || {
            self.first_after(since).context("none arrived")
        })
    }

    /// The longest time between two arrivals from `since` on; the last arrival before counts as the first.
    #[must_use]
    pub fn silence_since(&self, since: Instant) -> Duration {
        let now = Instant::now();
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let first = notes.arrived.partition_point(|(at, _)| *at < since);
        let arrivals = notes.arrived.get(first.saturating_sub(1)..).unwrap_or_default();
        let times = arrivals.iter().map(|(at, _)| *at);
        let next = times.clone().skip(1).chain([now]);
        times
            .zip(next)
            .map(|(before, after)| after.saturating_duration_since(before))
            .max()
            .unwrap_or_else(|| now.saturating_duration_since(since))
    }

    /// The runs of lost packets among those sent between the two moments: when each was sent, and how many there were.
    #[must_use]
    pub fn lost_runs(&self, from: Instant, to: Instant) -> Vec<(Instant, usize)> {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let seen: HashSet<usize> = notes.arrived.iter().map(|(_, number)| *number).collect();
        let (mut runs, mut last): (Vec<(Instant, usize)>, Option<usize>) = (Vec::new(), None);
        for (number, sent) in notes.sent.iter().enumerate() {
            if !(from..to).contains(sent) || seen.contains(&number) {
                continue;
            }
            match runs.last_mut() {
                Some((_, count)) if last.map(|last| last + 1) == Some(number) => *count += 1,
                _ => runs.push((*sent, 1)),
            }
            last = Some(number);
        }
        runs
    }

    /// What became of the packets sent between the two moments. What is still under way counts as lost.
    #[must_use]
    pub fn record(&self, from: Instant, to: Instant) -> FlowRecord {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let first = notes.sent.partition_point(|sent| *sent < from);
        let end = notes.sent.partition_point(|sent| *sent < to);
        let (mut seen, mut doubled) = (HashSet::new(), 0);
        for (_, number) in notes.arrived.iter().filter(|(_, number)| (first..end).contains(number)) {
            if !seen.insert(*number) {
                doubled += 1;
            }
        }
        let sent = end.saturating_sub(first);
        FlowRecord {
            sent,
            lost: sent - seen.len(),
            doubled,
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in mem::take(&mut self.threads) {
            let _ = thread.join();
        }
    }
}

fn send(socket: &UdpSocket, target: SocketAddr, interval: Duration, stop: &AtomicBool, notes: &Mutex<Notes>) {
    let mut next = Instant::now();
    let mut packet = [0; SIZE];
    let mut number: u64 = 0;
    while !stop.load(Ordering::Relaxed) {
        packet[..8].copy_from_slice(&number.to_be_bytes());
        number += 1;
        notes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .sent
            .push(Instant::now());
        // Fails while there is no route or no room: then it is lost, as it should be.
        let _ = socket.send_to(&packet, target);
        next += interval;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn receive(socket: &UdpSocket, stop: &AtomicBool, notes: &Mutex<Notes>) {
    let mut packet = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, _)) = socket.recv_from(&mut packet) else {
            continue;
        };
        let now = Instant::now();
        let number = packet
            .get(..length)
            .and_then(|packet| packet.first_chunk::<8>())
            .and_then(|bytes| usize::try_from(u64::from_be_bytes(*bytes)).ok());
        if let Some(number) = number {
            notes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .arrived
                .push((now, number));
        }
    }
}
