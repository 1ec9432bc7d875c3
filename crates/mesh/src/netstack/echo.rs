//! The ICMP echo client behind `Mesh::ping`: a request out, its reply matched, the time between.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpProtocol, IpRepr};

use super::{SocketError, Stack};
use crate::packet::PacketBuf;

/// As many bytes as the usual `ping` carries.
const PAYLOAD: [u8; 56] = [0x5a; 56];
const HOP_LIMIT: u8 = 64;

/// Names one echo request: what its reply must repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EchoId {
    ident: u16,
    sequence: u16,
}

/// All requests under way.
#[derive(Debug, Default)]
pub(super) struct Echoes {
    pending: BTreeMap<EchoId, Echo>,
    unsent: usize,
    sequence: u16,
}

#[derive(Debug)]
struct Echo {
    remote: IpAddr,
    sent: Option<Instant>,
    answered: Option<Duration>,
    waiter: Option<Waker>,
}

impl Echoes {
    pub(super) const fn has_unsent(&self) -> bool {
        self.unsent > 0
    }
}

impl Stack {
    /// Begins to ping; the request leaves with the next poll.
    pub(crate) fn echo_begin(&mut self, remote: IpAddr) -> Result<EchoId, SocketError> {
        let shown = SocketAddr::new(remote, 0);
        if !super::ingress::is_host(remote) {
            return Err(SocketError::Unreachable(shown));
        }
        self.source_for(remote).ok_or(SocketError::NoAddress(shown))?;
        self.echoes.sequence = self.echoes.sequence.wrapping_add(1);
        let id = EchoId {
            ident: self.random.next_u16(),
            sequence: self.echoes.sequence,
        };
        self.echoes.pending.insert(
            id,
            Echo {
                remote,
                sent: None,
                answered: None,
                waiter: None,
            },
        );
        self.echoes.unsent += 1;
        self.driver_due = true;
        Ok(id)
    }

    /// The round-trip time, once the reply is there.
    pub(crate) fn poll_echo(&mut self, id: EchoId, context: &Context<'_>) -> Poll<Result<Duration, SocketError>> {
        let Some(echo) = self.echoes.pending.get_mut(&id) else {
            return Poll::Ready(Err(SocketError::Closed));
        };
        if let Some(time) = echo.answered {
            return Poll::Ready(Ok(time));
        }
        echo.waiter = Some(context.waker().clone());
        Poll::Pending
    }

    /// Nobody waits any more.
    pub(crate) fn echo_end(&mut self, id: EchoId) {
        if self.echoes.pending.remove(&id).is_some_and(|echo| echo.sent.is_none()) {
            self.echoes.unsent -= 1;
        }
    }

    pub(super) fn send_echoes(&mut self) {
        if !self.echoes.has_unsent() {
            return;
        }
        let source_of = |addresses: &[IpAddr], remote: IpAddr| {
            addresses
                .iter()
                .copied()
                .find(|address| address.is_ipv4() == remote.is_ipv4())
        };
        for (id, echo) in self.echoes.pending.iter_mut().filter(|(_, echo)| echo.sent.is_none()) {
            if !self.device.has_room() {
                return;
            }
            echo.sent = Some(self.now);
            self.echoes.unsent -= 1;
            // Without an address any more there is nothing to send; the waiter's timeout tells.
            if let Some(packet) =
                source_of(&self.addresses, echo.remote).and_then(|ours| request(ours, echo.remote, *id))
            {
                self.device.send(packet);
            }
        }
    }

    pub(super) fn handle_echo_reply(&mut self, remote: IpAddr, ident: u16, sequence: u16) {
        let Some(echo) = self.echoes.pending.get_mut(&EchoId { ident, sequence }) else {
            return;
        };
        if let (Some(sent), None, true) = (echo.sent, echo.answered, echo.remote == remote) {
            echo.answered = Some(self.now.saturating_duration_since(sent));
            self.wakeups.extend(echo.waiter.take());
        }
    }
}

/// A whole IP packet with an echo request; `None` when the families differ.
fn request(source: IpAddr, destination: IpAddr, id: EchoId) -> Option<PacketBuf> {
    let EchoId { ident, sequence } = id;
    let checksums = ChecksumCapabilities::default();
    match (source, destination) {
        (IpAddr::V4(_), IpAddr::V4(_)) => {
            let icmp = Icmpv4Repr::EchoRequest {
                ident,
                seq_no: sequence,
                data: &PAYLOAD,
            };
            let (mut packet, header) = ip_packet(source, destination, IpProtocol::Icmp, icmp.buffer_len());
            icmp.emit(&mut Icmpv4Packet::new_unchecked(&mut packet[header..]), &checksums);
            Some(packet)
        }
        (IpAddr::V6(v6_source), IpAddr::V6(v6_destination)) => {
            let icmp = Icmpv6Repr::EchoRequest {
                ident,
                seq_no: sequence,
                data: &PAYLOAD,
            };
            let (mut packet, header) = ip_packet(source, destination, IpProtocol::Icmpv6, icmp.buffer_len());
            let mut body = Icmpv6Packet::new_unchecked(&mut packet[header..]);
            icmp.emit(&v6_source, &v6_destination, &mut body, &checksums);
            Some(packet)
        }
        _ => None,
    }
}

fn ip_packet(source: IpAddr, destination: IpAddr, protocol: IpProtocol, len: usize) -> (PacketBuf, usize) {
    let ip = IpRepr::new(source.into(), destination.into(), protocol, len, HOP_LIMIT);
    let mut packet = PacketBuf::zeroed(ip.buffer_len());
    ip.emit(&mut packet[..], &ChecksumCapabilities::default());
    (packet, ip.header_len())
}
