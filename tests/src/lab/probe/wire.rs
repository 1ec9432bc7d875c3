//! Watches the underlay: when a peer's packets come straight from it, and of what kind they are.

use std::{
    io::Read as _,
    mem,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::{Namespace, eventually};

/// What a UDP payload is, as far as its first bytes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireGuardKind {
    /// A handshake message.
    Handshake,
    /// A sealed packet.
    Data,
    /// Something else: disco, STUN.
    Other,
}

/// One datagram of the watched address.
#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Instant,
    kind: WireGuardKind,
}

/// Notes every UDP datagram that arrives from one underlay address.
#[derive(Debug)]
pub struct DirectWatch {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Seen>>>,
    threads: Vec<JoinHandle<()>>,
}

/// ETH_P_IP and ETH_P_IPV6.
const PROTOCOLS: [u16; 2] = [0x0800, 0x86dd];

impl DirectWatch {
    /// Starts to watch in `namespace` for datagrams from `source`.
    pub fn start(namespace: &Namespace, source: Ipv4Addr) -> Result<Self> {
        Self::watch(namespace, Some(IpAddr::V4(source)))
    }

    /// Starts to watch in `namespace` for datagrams from anywhere, of both versions of IP.
    pub fn anywhere(namespace: &Namespace) -> Result<Self> {
        Self::watch(namespace, None)
    }

    fn watch(namespace: &Namespace, source: Option<IpAddr>) -> Result<Self> {
        let mut watch = Self {
            stop: Arc::new(AtomicBool::new(false)),
            seen: Arc::new(Mutex::new(Vec::new())),
            threads: Vec::new(),
        };
        for protocol in PROTOCOLS {
            // A cooked socket starts at the IP header; bound to one protocol it sees only what comes in.
            let protocol = Protocol::from(i32::from(protocol.to_be()));
            let socket = namespace
                .inside(|| Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol)))?
                .context("no packet socket")?;
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            let (stop, seen) = (Arc::clone(&watch.stop), Arc::clone(&watch.seen));
            watch
                .threads
                .push(thread::spawn(move || note(socket, source, &stop, &seen)));
        }
        Ok(watch)
    }

    /// When the first datagram of that kind came, `None` so far.
    #[must_use]
    pub fn first(&self, kind: WireGuardKind) -> Option<Instant> {
        self.first_since(kind, None)
    }

    /// When the first datagram of that kind came after `since`, `None` so far.
    #[must_use]
    pub fn first_since(&self, kind: WireGuardKind, since: Option<Instant>) -> Option<Instant> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = |seen: &&Seen| seen.kind == kind && since.is_none_or(|since| seen.at > since);
        seen.iter().find(wanted).map(|seen| seen.at)
    }

    /// How many datagrams of that kind came between the two moments.
    #[must_use]
    pub fn count_between(&self, kind: WireGuardKind, from: Instant, to: Instant) -> usize {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter()
            .filter(|seen| seen.kind == kind && (from..to).contains(&seen.at))
            .count()
    }

    /// How many datagrams of that kind came.
    #[must_use]
    pub fn count(&self, kind: WireGuardKind) -> usize {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|seen| seen.kind == kind).count()
    }

    /// Waits for the first sealed packet that came without a relay.
    pub fn first_data(&self, deadline: Duration) -> Result<Instant> {
        eventually("a sealed packet on the direct path", deadline, || {
            self.first(WireGuardKind::Data).context("none came")
        })
    }
}

impl Drop for DirectWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in mem::take(&mut self.threads) {
            let _ = thread.join();
        }
    }
}

fn note(mut socket: Socket, source: Option<IpAddr>, stop: &AtomicBool, seen: &Mutex<Vec<Seen>>) {
    let mut packet = vec![0; 65536];
    while !stop.load(Ordering::Relaxed) {
        let Ok(length) = socket.read(&mut packet) else { continue };
        let at = Instant::now();
        if let Some(kind) = packet.get(..length).and_then(|packet| kind_of(packet, source)) {
            seen.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(Seen { at, kind });
        }
    }
}

fn kind_of(packet: &[u8], source: Option<IpAddr>) -> Option<WireGuardKind> {
    let (from, protocol, header) = match packet.first()? >> 4 {
        4 => (
            IpAddr::from(*packet.get(12..16)?.first_chunk::<4>()?),
            *packet.get(9)?,
            usize::from(packet.first()? & 0x0f) * 4,
        ),
        _ => (
            IpAddr::from(*packet.get(8..24)?.first_chunk::<16>()?),
            *packet.get(6)?,
            40,
        ),
    };
    if protocol != 17 || source.is_some_and(|source| source != from) {
        return None;
    }
    let payload = packet.get(header + 8..)?;
    Some(match payload {
        [1..=3, 0, 0, 0, ..] => WireGuardKind::Handshake,
        // A keep-alive is a sealed packet of nothing: 32 bytes. Only more than that is somebody's packet.
        [4, 0, 0, 0, ..] if payload.len() > 32 => WireGuardKind::Data,
        _ => WireGuardKind::Other,
    })
}
