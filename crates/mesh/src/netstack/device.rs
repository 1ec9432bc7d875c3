//! The queues that smoltcp takes for a network device.
//!
//! One packet waits to be received; a bounded queue waits to be sent. A packet to one of our own addresses never
//! leaves: it is put aside and received by the stack itself.

use std::collections::VecDeque;
use std::net::IpAddr;

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use super::ingress;
use super::sequence::SentMax;
use crate::packet::PacketBuf;

/// Sockets stop sending at this length.
const TRANSMIT_LIMIT: usize = 512;
/// Answers to received packets (ACK, RST, echo) are dropped at this one.
const ANSWER_LIMIT: usize = 2 * TRANSMIT_LIMIT;

/// The stack's side of the line to the engine.
#[derive(Debug)]
pub(super) struct QueueDevice {
    mtu: usize,
    received: Option<PacketBuf>,
    transmit: VecDeque<PacketBuf>,
    looped: VecDeque<PacketBuf>,
    local: Vec<IpAddr>,
    dropped: u64,
    /// Of the connection that has its turn, with whether RST is of its own will.
    mending: Option<(SentMax, bool)>,
}

impl QueueDevice {
    pub(super) const fn new(mtu: usize) -> Self {
        Self {
            mtu,
            received: None,
            transmit: VecDeque::new(),
            looped: VecDeque::new(),
            local: Vec::new(),
            dropped: 0,
            mending: None,
        }
    }

    pub(super) fn set_local(&mut self, addresses: &[IpAddr]) {
        self.local = addresses.to_vec();
    }

    /// Lays the packet out for the next `poll_ingress_single`.
    pub(super) fn receive_next(&mut self, packet: PacketBuf) {
        self.received = Some(packet);
    }

    /// Until [`end_turn`](Self::end_turn) the packets come from the connection that this belongs to.
    pub(super) fn begin_turn(&mut self, sent: SentMax, resets: bool) {
        self.mending = Some((sent, resets));
    }

    pub(super) fn end_turn(&mut self) -> SentMax {
        self.mending.take().map(|(sent, _)| sent).unwrap_or_default()
    }

    pub(super) fn has_room(&self) -> bool {
        self.transmit.len() < TRANSMIT_LIMIT
    }

    /// Less than half full: worth waking those who wait for room.
    pub(super) fn is_roomy(&self) -> bool {
        self.transmit.len() < TRANSMIT_LIMIT / 2
    }

    pub(super) fn send(&mut self, mut packet: PacketBuf) {
        if let Some((sent, resets)) = &mut self.mending {
            sent.mend(&mut packet, *resets);
        }
        let to_self = ingress::destination(&packet).is_some_and(|address| self.local.contains(&address));
        let queue = if to_self { &mut self.looped } else { &mut self.transmit };
        if queue.len() < ANSWER_LIMIT {
            queue.push_back(packet);
        } else {
            self.dropped += 1;
        }
    }

    /// The packet that was sent last, if it is still here.
    pub(super) fn last_sent(&self) -> Option<&PacketBuf> {
        self.transmit.back()
    }

    pub(super) fn pop_transmit(&mut self) -> Option<PacketBuf> {
        let packet = self.transmit.pop_front();
        if self.transmit.is_empty() && self.transmit.capacity() > TRANSMIT_LIMIT / 8 {
            self.transmit = VecDeque::new();
        }
        packet
    }

    pub(super) fn pop_looped(&mut self) -> Option<PacketBuf> {
        self.looped.pop_front()
    }

    pub(super) fn has_looped(&self) -> bool {
        !self.looped.is_empty()
    }

    pub(super) const fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl Device for QueueDevice {
    type RxToken<'a> = Received;
    type TxToken<'a> = Slot<'a>;

    fn receive(&mut self, _timestamp: Instant) -> Option<(Received, Slot<'_>)> {
        let packet = self.received.take()?;
        Some((Received(packet), Slot(self)))
    }

    fn transmit(&mut self, _timestamp: Instant) -> Option<Slot<'_>> {
        self.has_room().then_some(Slot(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

/// A packet on its way into smoltcp.
#[derive(Debug)]
pub(super) struct Received(PacketBuf);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

/// Room for a packet out of smoltcp.
#[derive(Debug)]
pub(super) struct Slot<'a>(&'a mut QueueDevice);

impl TxToken for Slot<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = PacketBuf::zeroed(len);
        let result = f(&mut packet);
        self.0.send(packet);
        result
    }
}
