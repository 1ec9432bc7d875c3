//! [`Trace`]: what a world did, as a hash that is the same for the same seed, and for people when they ask: lines, and the
//! datagrams as a capture (pcap, LINKTYPE_RAW), relayed ones between the addresses 127.3.3.40 and the host's.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// Lines kept.
const LINES: usize = 400;
/// Bytes of a capture.
const CAPTURE: usize = 64 << 20;
const LINKTYPE_RAW: u32 = 101;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Trace {
    start: Instant,
    hash: u64,
    pub(super) datagrams: u64,
    records: bool,
    lines: VecDeque<String>,
    capture: Vec<u8>,
}

impl Trace {
    pub(super) fn new(start: Instant, records: bool) -> Self {
        let mut capture = Vec::new();
        if records {
            capture.extend(0xa1b2_c3d4_u32.to_le_bytes());
            capture.extend(2_u16.to_le_bytes());
            capture.extend(4_u16.to_le_bytes());
            capture.extend([0; 8]);
            capture.extend(65_535_u32.to_le_bytes());
            capture.extend(LINKTYPE_RAW.to_le_bytes());
        }
        Self {
            start,
            hash: 0xcbf2_9ce4_8422_2325,
            datagrams: 0,
            records,
            lines: VecDeque::new(),
            capture,
        }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn into_parts(self) -> (Vec<String>, Vec<u8>) {
        (self.lines.into(), self.capture)
    }

    /// What people read. It is not written when nobody will.
    pub(super) fn note(&mut self, now: Instant, line: impl FnOnce() -> String) {
        if !self.records {
            return;
        }
        if self.lines.len() >= LINES {
            self.lines.pop_front();
        }
        let at = now.saturating_duration_since(self.start).as_secs_f64();
        self.lines.push_back(format!("{at:>10.3}  {}", line()));
    }

    /// A fact that must be the same in every run.
    pub(super) fn fact(&mut self, now: Instant, kind: u8, words: &[u64]) {
        let at = now.saturating_duration_since(self.start).as_nanos();
        let at = u64::try_from(at).unwrap_or(u64::MAX);
        for word in [at, u64::from(kind)].iter().chain(words) {
            self.hash = (self.hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        }
    }

    /// A datagram arrived at a host.
    pub(super) fn datagram(&mut self, now: Instant, src: SocketAddr, dst: SocketAddr, payload: &[u8]) {
        self.datagrams += 1;
        let first = payload.first().copied().unwrap_or(0);
        self.fact(now, first, &[word(src), word(dst), payload.len() as u64]);
        if self.records && self.capture.len() < CAPTURE {
            let packet = ip_packet(src, dst, payload);
            let at = now.saturating_duration_since(self.start);
            self.record(at, &packet);
        }
    }

    fn record(&mut self, at: Duration, packet: &[u8]) {
        let seconds = u32::try_from(at.as_secs()).unwrap_or(u32::MAX);
        let len = u32::try_from(packet.len()).unwrap_or(u32::MAX);
        for word in [seconds, at.subsec_micros(), len, len] {
            self.capture.extend(word.to_le_bytes());
        }
        self.capture.extend(packet);
    }
}

/// The address that stands for a relay.
pub(super) fn relay_addr(region: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(127, 3, 3, 40), region))
}

fn word(addr: SocketAddr) -> u64 {
    let ip = match addr.ip() {
        IpAddr::V4(ip) => u64::from(ip.to_bits()),
        IpAddr::V6(ip) => {
            let bits = ip.to_bits();
            u64::try_from(bits >> 64).unwrap_or(0) ^ u64::try_from(bits & u128::from(u64::MAX)).unwrap_or(0)
        }
    };
    ip << 16 ^ u64::from(addr.port())
}

fn ip_packet(src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let len = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes();
    let udp = len(payload.len() + 8);
    let mut packet = Vec::with_capacity(payload.len() + 48);
    if let (IpAddr::V4(from), IpAddr::V4(to)) = (src.ip(), dst.ip()) {
        packet.extend([0x45, 0]);
        packet.extend(len(payload.len() + 28));
        packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
        packet.extend(from.octets());
        packet.extend(to.octets());
    } else {
        packet.extend([0x60, 0, 0, 0]);
        packet.extend(udp);
        packet.extend([17, 64]);
        for addr in [src, dst] {
            let ip = match addr.ip() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            packet.extend(ip.octets());
        }
    }
    packet.extend(src.port().to_be_bytes());
    packet.extend(dst.port().to_be_bytes());
    packet.extend(udp);
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}
