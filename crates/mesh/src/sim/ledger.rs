//! [`Ledger`]: every packet that was given to a node's device, and what became of it. Each arrives at most once, at the right
//! node, unchanged; and by its due time, where the [judge](super::judge) has set one.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::control::mesh_ip;

const HEADER: usize = 28;
/// Headers and the number.
pub(super) const LEAST: usize = HEADER + 8;
const PORT: u16 = 7_777;

/// One packet.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) at: Instant,
    /// Of the pair, when it was sent.
    pub(super) epoch: u64,
    size: usize,
    /// It has a due time.
    judged: bool,
    arrived: bool,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    sent: Vec<Sent>,
    due: BTreeSet<(Instant, usize)>,
    pub(super) delivered: u64,
    /// The longest that a packet with a due time took.
    pub(super) slowest: Duration,
}

impl Ledger {
    /// A new packet, to be handed to the device of `from`.
    pub(super) fn write(&mut self, from: usize, to: usize, size: usize, at: Instant, epoch: u64) -> Vec<u8> {
        let number = self.sent.len();
        let size = size.max(LEAST);
        self.sent.push(Sent {
            from,
            to,
            at,
            epoch,
            size,
            judged: false,
            arrived: false,
        });
        packet(number, from, to, size)
    }

    /// The last packet written must arrive by then.
    pub(super) fn set_due(&mut self, due: Instant) {
        let number = self.sent.len().saturating_sub(1);
        if let Some(sent) = self.sent.get_mut(number) {
            sent.judged = true;
            self.due.insert((due, number));
        }
    }

    /// A packet came out of the device of `host`. An offence is told in words.
    pub(super) fn read(&mut self, host: usize, bytes: &[u8], now: Instant) -> Result<(), String> {
        let number = bytes
            .get(HEADER..LEAST)
            .and_then(|number| number.try_into().ok())
            .map(u64::from_be_bytes)
            .and_then(|number| usize::try_from(number).ok());
        let Some((number, sent)) = number.and_then(|number| Some((number, self.sent.get_mut(number)?))) else {
            return Err(format!("host {host} was given {} bytes that nobody sent", bytes.len()));
        };
        if sent.to != host {
            return Err(format!("packet {number} for host {} came to host {host}", sent.to));
        }
        if packet(number, sent.from, sent.to, sent.size) != bytes {
            return Err(format!("packet {number} to host {host} was changed on its way"));
        }
        if sent.arrived {
            return Err(format!("packet {number} came to host {host} twice"));
        }
        sent.arrived = true;
        self.delivered += 1;
        if sent.judged {
            self.slowest = self.slowest.max(now.saturating_duration_since(sent.at));
        }
        Ok(())
    }

    /// Packets whose time is up and that have not come.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<(usize, Sent)> {
        let mut late = Vec::new();
        while self.due.first().is_some_and(|(due, _)| *due <= now) {
            let Some((_, number)) = self.due.pop_first() else { break };
            late.extend(
                self.sent
                    .get(number)
                    .filter(|sent| !sent.arrived)
                    .map(|sent| (number, sent.clone())),
            );
        }
        late
    }

    pub(super) fn len(&self) -> usize {
        self.sent.len()
    }
}

/// UDP over IPv4 without a UDP checksum; what follows the number follows from it.
fn packet(number: usize, from: usize, to: usize, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    let (total, udp) = (half(size), half(size - 20));
    let (src, dst): (Ipv4Addr, Ipv4Addr) = (mesh_ip(from), mesh_ip(to));
    bytes[0] = 0x45;
    bytes[2..4].copy_from_slice(&total.to_be_bytes());
    bytes[8] = 64;
    bytes[9] = 17;
    bytes[12..16].copy_from_slice(&src.octets());
    bytes[16..20].copy_from_slice(&dst.octets());
    bytes[20..22].copy_from_slice(&PORT.to_be_bytes());
    bytes[22..24].copy_from_slice(&PORT.to_be_bytes());
    bytes[24..26].copy_from_slice(&udp.to_be_bytes());
    bytes[HEADER..LEAST].copy_from_slice(&(number as u64).to_be_bytes());
    let mut state = number as u64;
    for byte in &mut bytes[LEAST..] {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        *byte = state.to_be_bytes()[0];
    }
    bytes
}

fn half(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}
