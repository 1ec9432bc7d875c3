//! The queues that smoltcp takes for a network device.
//!
//! One packet at a time is laid out to be received ([`Feed`]); a bounded queue waits to be sent. What is to be sent may
//! be a super-packet: up to [`SEGMENTS`] segments of one connection under one header, which the way out splits where it
//! also computes the checksums. A packet to one of our own addresses never leaves: it is put aside and received by the
//! stack itself. Buffers that were used serve again.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::num::NonZeroUsize;

use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken};
use smoltcp::time::Instant;

use super::ingress;
use crate::packet::PacketBuf;
use crate::packet::vnet::{GSO_TCPV4, GSO_TCPV6, NEEDS_CSUM, VnetHeader};

/// Sockets stop sending when this many packets wait, or these bytes.
const TRANSMIT_LIMIT: usize = 512;
const TRANSMIT_BYTES: usize = 256 * 1024;
/// Answers to received packets (ACK, RST, echo) are dropped at this one.
const ANSWER_LIMIT: usize = 2 * TRANSMIT_LIMIT;
/// As many segments as one send of a datagram batch carries at the usual sizes.
const SEGMENTS: usize = 45;
/// The length field of an IP header ends there.
const LARGEST: usize = 65_535;
/// Buffers that are kept for later packets, small ones and large ones.
const SPARE: usize = 16;
/// What a packet without many bytes fits into.
const SMALL: usize = 2_048;
/// Where the checksum is in a TCP header.
const TCP_CHECKSUM: u16 = 16;

/// A packet to be sent, with what is left to be done to it.
pub(super) type Outgoing = (VnetHeader, PacketBuf);

/// The stack's side of the line to the engine.
#[derive(Debug)]
pub(super) struct QueueDevice {
    transmit: VecDeque<Outgoing>,
    transmit_bytes: usize,
    looped: VecDeque<PacketBuf>,
    local: Vec<IpAddr>,
    dropped: u64,
    spare_small: Vec<PacketBuf>,
    spare_large: Vec<PacketBuf>,
}

impl QueueDevice {
    pub(super) const fn new() -> Self {
        Self {
            transmit: VecDeque::new(),
            transmit_bytes: 0,
            looped: VecDeque::new(),
            local: Vec::new(),
            dropped: 0,
            spare_small: Vec::new(),
            spare_large: Vec::new(),
        }
    }

    pub(super) fn set_local(&mut self, addresses: &[IpAddr]) {
        self.local = addresses.to_vec();
    }

    pub(super) fn has_room(&self) -> bool {
        self.transmit.len() < TRANSMIT_LIMIT && self.transmit_bytes < TRANSMIT_BYTES
    }

    /// Less than half full: worth waking those who wait for room.
    pub(super) fn is_roomy(&self) -> bool {
        self.transmit.len() < TRANSMIT_LIMIT / 2 && self.transmit_bytes < TRANSMIT_BYTES / 2
    }

    /// A buffer for `len` bytes, none of which matters.
    pub(super) fn buffer(&mut self, len: usize) -> PacketBuf {
        let spare = if len <= SMALL {
            self.spare_small.pop()
        } else {
            self.spare_large.pop()
        };
        let mut packet = spare.unwrap_or_else(|| PacketBuf::zeroed(if len <= SMALL { SMALL } else { LARGEST }));
        packet.reset(len);
        packet
    }

    /// Takes a buffer back.
    pub(super) fn recycle(&mut self, packet: PacketBuf) {
        let spare = match packet.capacity() {
            LARGEST.. => &mut self.spare_large,
            SMALL.. => &mut self.spare_small,
            _ => return,
        };
        if spare.len() < SPARE {
            spare.push(packet);
        }
    }

    /// Sends a finished packet.
    pub(super) fn send(&mut self, packet: PacketBuf) {
        self.enqueue(VnetHeader::default(), packet);
    }

    fn enqueue(&mut self, offload: VnetHeader, packet: PacketBuf) {
        let to_self = ingress::destination(&packet).is_some_and(|address| self.local.contains(&address));
        let waiting = if to_self {
            self.looped.len()
        } else {
            self.transmit.len()
        };
        if waiting >= ANSWER_LIMIT {
            self.dropped += 1;
            self.recycle(packet);
        } else if to_self {
            self.looped.push_back(packet);
        } else {
            self.transmit_bytes += packet.len();
            self.transmit.push_back((offload, packet));
        }
    }

    /// The packet that was sent last, if it is still here.
    pub(super) fn last_sent(&self) -> Option<&PacketBuf> {
        self.transmit.back().map(|(_, packet)| packet)
    }

    pub(super) fn pop_transmit(&mut self) -> Option<Outgoing> {
        let outgoing = self.transmit.pop_front()?;
        self.transmit_bytes = self.transmit_bytes.saturating_sub(outgoing.1.len());
        Some(outgoing)
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

    fn take_segment(&mut self, meta: PacketMeta, mut packet: PacketBuf) {
        let mut offload = VnetHeader::default();
        match (meta.segmentation_offload_size, ingress::tcp_header(&packet)) {
            (Some(size), Some((start, len, v6))) => {
                offload = VnetHeader {
                    flags: NEEDS_CSUM,
                    gso_type: if v6 { GSO_TCPV6 } else { GSO_TCPV4 },
                    hdr_len: start.saturating_add(len),
                    gso_size: size.get(),
                    csum_start: start,
                    csum_offset: TCP_CHECKSUM,
                };
            }
            (None, Some(_)) => ingress::fill_tcp_checksum(&mut packet),
            (_, None) => {}
        }
        self.enqueue(offload, packet);
    }
}

impl Device for QueueDevice {
    type RxToken<'a> = Received<'a>;
    type TxToken<'a> = Slot<'a>;

    fn receive(&mut self, _timestamp: Instant) -> Option<(Received<'_>, Slot<'_>)> {
        None
    }

    fn transmit(&mut self, _timestamp: Instant) -> Option<Slot<'_>> {
        self.has_room().then(|| Slot(self, PacketMeta::default()))
    }

    /// The MTU is the path's and told to each socket; checksums of TCP are ours or the splitter's, and that of an IPv4
    /// header was looked at before.
    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = LARGEST;
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::Rx;
        capabilities.segmentation.tcpv4 = NonZeroUsize::new(LARGEST);
        capabilities.segmentation.tcpv6 = NonZeroUsize::new(LARGEST);
        capabilities.segmentation.max_segments = NonZeroUsize::new(SEGMENTS);
        capabilities
    }
}

/// The queues with one packet laid out to be received.
#[derive(Debug)]
pub(super) struct Feed<'a> {
    pub(super) queues: &'a mut QueueDevice,
    pub(super) packet: Option<&'a [u8]>,
    /// The transport checksum was verified before.
    pub(super) verified: bool,
}

impl Device for Feed<'_> {
    type RxToken<'b>
        = Received<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Slot<'b>
    where
        Self: 'b;

    fn receive(&mut self, _timestamp: Instant) -> Option<(Received<'_>, Slot<'_>)> {
        let received = Received {
            packet: self.packet.take()?,
            verified: self.verified,
        };
        Some((received, Slot(self.queues, PacketMeta::default())))
    }

    fn transmit(&mut self, timestamp: Instant) -> Option<Slot<'_>> {
        self.queues.transmit(timestamp)
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.queues.capabilities()
    }
}

/// A packet on its way into smoltcp.
#[derive(Debug)]
pub(super) struct Received<'a> {
    packet: &'a [u8],
    verified: bool,
}

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.packet)
    }

    fn meta(&self) -> PacketMeta {
        let mut meta = PacketMeta::default();
        meta.checksum_verified = self.verified;
        meta
    }
}

/// Room for a packet out of smoltcp.
#[derive(Debug)]
pub(super) struct Slot<'a>(&'a mut QueueDevice, PacketMeta);

impl TxToken for Slot<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = self.0.buffer(len);
        let result = f(&mut packet);
        self.0.take_segment(self.1, packet);
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.1 = meta;
    }
}
