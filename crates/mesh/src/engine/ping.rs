//! Echo requests of the node itself, below the device: they work in userspace and TUN mode alike and tell the path.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use sandd_control_client::netmap::RegionId;

use super::{Engine, Underlay};
use crate::packet::ip::{EchoReply, IpPacket, encode_echo_request};
use crate::peer_relay::Via;
use crate::status::PeerPath;

const MAX_PINGS: usize = 256;

/// How a ping ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PingOutcome {
    pub(crate) seq: u16,
    /// Round trip and path; nothing when the time was up.
    pub(crate) reply: Option<(Duration, PeerPath)>,
}

#[derive(Debug)]
struct Pending {
    to: IpAddr,
    sent: Instant,
    deadline: Instant,
}

/// Requests without an answer, by sequence number.
#[derive(Debug)]
pub(super) struct Pings {
    identifier: u16,
    next: u16,
    pending: BTreeMap<u16, Pending>,
}

impl Pings {
    pub(super) fn new() -> Self {
        let mut bytes = [0u8; 2];
        crate::random::fill(&mut bytes);
        Self {
            identifier: u16::from_be_bytes(bytes),
            next: 0,
            pending: BTreeMap::new(),
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.pending.values().map(|pending| pending.deadline).min()
    }

    pub(super) fn expire(&mut self, now: Instant) -> Vec<PingOutcome> {
        let over: Vec<_> = self
            .pending
            .iter()
            .filter(|(_, p)| now >= p.deadline)
            .map(|(seq, _)| *seq)
            .collect();
        self.pending.retain(|_, pending| now < pending.deadline);
        over.into_iter().map(|seq| PingOutcome { seq, reply: None }).collect()
    }

    /// The outcome of a ping that this packet answers; `from` is where it came from, nothing for this node itself.
    pub(super) fn take_reply(
        &mut self,
        packet: &IpPacket<'_>,
        from: Option<Underlay>,
        now: Instant,
    ) -> Option<PingOutcome> {
        let EchoReply { identifier, sequence } = packet.echo_reply()?;
        if identifier != self.identifier {
            return None;
        }
        let pending = self
            .pending
            .get(&sequence)
            .filter(|pending| pending.to == packet.src())?;
        let rtt = now.saturating_duration_since(pending.sent);
        self.pending.remove(&sequence);
        let path = match from {
            Some(Underlay::Udp(addr)) => PeerPath::Direct(addr),
            Some(Underlay::PeerRelay(Via { addr, vni })) => PeerPath::PeerRelayed { by: None, addr, vni },
            Some(Underlay::Derp {
                region: RegionId(region),
                ..
            }) => PeerPath::Relayed(region),
            None => PeerPath::Local,
        };
        Some(PingOutcome {
            seq: sequence,
            reply: Some((rtt, path)),
        })
    }
}

impl Engine {
    /// Sends an echo request; its outcome carries the number that is returned. Nothing when we have no address of
    /// that family or too many pings are under way.
    pub(crate) fn ping(&mut self, to: IpAddr, timeout: Duration, now: Instant) -> Option<u16> {
        let from = self.own_ips.iter().copied().find(|own| own.is_ipv6() == to.is_ipv6())?;
        if self.pings.pending.len() >= MAX_PINGS {
            return None;
        }
        let seq = self.pings.next;
        self.pings.next = seq.wrapping_add(1);
        let request = encode_echo_request(from, to, self.pings.identifier, seq, b"sandd ping")?;
        self.pings.pending.insert(
            seq,
            Pending {
                to,
                sent: now,
                deadline: now + timeout,
            },
        );
        self.send_overlay(&request, now);
        Some(seq)
    }
}
