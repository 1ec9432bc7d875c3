//! Watches the underlay: when a peer's packets come straight from it, and of what kind they are.

use std::{
    io::Read as _,
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
    thread: Option<JoinHandle<()>>,
}

impl DirectWatch {
    /// Starts to watch in `namespace` for datagrams from `source`.
    pub fn start(namespace: &Namespace, source: Ipv4Addr) -> Result<Self> {
        // ETH_P_IP in network order; a cooked socket starts at the IP header.
        let protocol = Protocol::from(i32::from(0x0800_u16.to_be()));
        let mut socket = namespace
            .inside(|| Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol)))?
            .context("no packet socket")?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let thread = thread::spawn({
            let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
            move || {
                let mut packet = vec![0; 65536];
                while !stop.load(Ordering::Relaxed) {
                    let Ok(length) = socket.read(&mut packet) else { continue };
                    let at = Instant::now();
                    let Some(kind) = packet.get(..length).and_then(|packet| kind_of(packet, source)) else {
                        continue;
                    };
                    seen.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(Seen { at, kind });
                }
            }
        });
        Ok(Self {
            stop,
            seen,
            thread: Some(thread),
        })
    }

    /// When the first datagram of that kind came, `None` so far.
    #[must_use]
    pub fn first(&self, kind: WireGuardKind) -> Option<Instant> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().find(|seen| seen.kind == kind).map(|seen| seen.at)
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
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn kind_of(packet: &[u8], source: Ipv4Addr) -> Option<WireGuardKind> {
    let from = Ipv4Addr::from(*packet.get(12..16)?.first_chunk::<4>()?);
    if packet.get(9) != Some(&17) || IpAddr::V4(from) != IpAddr::V4(source) {
        return None;
    }
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let payload = packet.get(header + 8..)?;
    Some(match payload {
        [1..=3, 0, 0, 0, ..] => WireGuardKind::Handshake,
        // A keep-alive is a sealed packet of nothing: 32 bytes. Only more than that is somebody's packet.
        [4, 0, 0, 0, ..] if payload.len() > 32 => WireGuardKind::Data,
        _ => WireGuardKind::Other,
    })
}
