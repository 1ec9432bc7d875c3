//! [`Joiner`]: packets of one flow become one super-packet again, for one write to the device.
//!
//! The last station of the way in, after source and filter were judged. Each packet is copied once, into the buffer of
//! its flow, and its checksum is verified on the way: what came broken stays broken for the receiver to see, since a
//! joined packet carries no checksum of its own. A packet never overtakes another of its flow.

use super::checksum::Checksum;
use super::ip::{TCP, UDP};
use super::split::{TCP_CHECKSUM, UDP_CHECKSUM, UDP_HEADER, set, word};
use super::vnet::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VnetHeader};

/// Flows that are open at once.
const FLOWS: usize = 8;
/// Packets in one super-packet.
const MAX_SEGMENTS: usize = 64;
/// Longest super-packet.
const MAX_JOINED: usize = 65_535;
/// Longest packet that any header can state.
const MAX_PACKET: usize = 65_575;
/// Room in front of each packet.
const VNET: usize = VnetHeader::LEN;

const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// See the module's text.
#[derive(Debug)]
pub struct Joiner {
    /// Oldest first.
    flows: Vec<Flow>,
    /// Buffers that no flow has, the one used last at the end.
    spare: Vec<Box<[u8]>>,
    tcp: bool,
    udp: bool,
}

/// One open super-packet.
struct Flow {
    key: Key,
    buffer: Box<[u8]>,
    /// Bytes of the packet behind the vnet header.
    len: usize,
    transport: usize,
    headers: usize,
    /// Payload of the first packet.
    segment: usize,
    count: usize,
    next_sequence: u32,
}

/// Addresses, ports, protocol and family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    ends: [u8; 36],
    protocol: u8,
    v6: bool,
}

/// A packet that may be joined.
struct Segment<'a> {
    packet: &'a [u8],
    key: Key,
    transport: usize,
    headers: usize,
    /// The receiver is to be woken.
    push: bool,
}

/// How a packet stands to the open flows.
enum Shape<'a> {
    Joinable(Segment<'a>),
    /// It must not overtake this flow.
    Behind(Key),
    /// It may belong to any.
    BehindAll,
    /// It belongs to none.
    Free,
}

/// What became of a packet that was offered to its flow.
enum Taken {
    /// The flow may go on.
    Open,
    /// Nothing may follow.
    Closed,
    /// It does not continue the flow.
    Other,
    /// Its checksum is wrong.
    Broken,
}

impl std::fmt::Debug for Flow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Flow({} packets, {} bytes)", self.count, self.len)
    }
}

impl Default for Joiner {
    fn default() -> Self {
        Self::new()
    }
}

impl Joiner {
    /// Joins TCP only. Buffers are made when they are needed first.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            flows: Vec::new(),
            spare: Vec::new(),
            tcp: true,
            udp: false,
        }
    }

    /// Whether the device takes joined TCP. Without, every packet passes singly.
    pub fn set_tcp(&mut self, joins: bool) {
        self.tcp = joins;
    }

    /// Whether the device takes joined UDP.
    pub fn set_udp(&mut self, joins: bool) {
        self.udp = joins;
    }

    /// Takes one packet, without anything behind the length that it states. `sink` is given whatever is complete:
    /// `[vnet header][IP packet]`, ready for one write.
    pub fn push(&mut self, packet: &[u8], sink: &mut impl FnMut(&mut [u8])) {
        match self.shape(packet) {
            Shape::Joinable(segment) => return self.join(&segment, sink),
            Shape::Behind(key) => {
                if let Some(at) = self.find(&key) {
                    self.close(at, sink);
                }
            }
            Shape::BehindAll => self.flush(sink),
            Shape::Free => {}
        }
        self.pass(packet, sink);
    }

    /// Gives everything that is open to `sink`, oldest first. Call it at the end of each turn.
    pub fn flush(&mut self, sink: &mut impl FnMut(&mut [u8])) {
        for mut flow in self.flows.drain(..) {
            sink(flow.complete());
            self.spare.push(flow.buffer);
        }
    }

    fn join(&mut self, segment: &Segment<'_>, sink: &mut impl FnMut(&mut [u8])) {
        if let Some(at) = self.find(&segment.key) {
            match self.flows[at].take(segment) {
                Taken::Open => return,
                Taken::Closed => return self.close(at, sink),
                Taken::Other => self.close(at, sink),
                Taken::Broken => {
                    self.close(at, sink);
                    return self.pass(segment.packet, sink);
                }
            }
        }
        // Nothing may follow it, so it need not wait either.
        if segment.push || segment.packet.len() > MAX_JOINED {
            return self.pass(segment.packet, sink);
        }
        let (mut flow, whole) = Flow::open(segment, self.buffer());
        if whole {
            if self.flows.len() >= FLOWS {
                self.close(0, sink);
            }
            self.flows.push(flow);
        } else {
            sink(flow.complete());
            self.spare.push(flow.buffer);
        }
    }

    fn find(&self, key: &Key) -> Option<usize> {
        self.flows.iter().position(|flow| flow.key == *key)
    }

    fn close(&mut self, at: usize, sink: &mut impl FnMut(&mut [u8])) {
        let mut flow = self.flows.remove(at);
        sink(flow.complete());
        self.spare.push(flow.buffer);
    }

    /// A packet by itself, unchanged.
    fn pass(&mut self, packet: &[u8], sink: &mut impl FnMut(&mut [u8])) {
        let mut buffer = self.buffer();
        if let Some(room) = buffer.get_mut(VNET..VNET + packet.len()) {
            room.copy_from_slice(packet);
            buffer[..VNET].fill(0);
            sink(&mut buffer[..VNET + packet.len()]);
        }
        self.spare.push(buffer);
    }

    fn buffer(&mut self) -> Box<[u8]> {
        self.spare
            .pop()
            .unwrap_or_else(|| vec![0; VNET + MAX_PACKET].into_boxed_slice())
    }

    fn shape<'a>(&self, packet: &'a [u8]) -> Shape<'a> {
        let v6 = match packet.first() {
            Some(0x45) => false,
            Some(first) if first >> 4 == 6 => true,
            _ => return Shape::BehindAll,
        };
        let transport = if v6 { 40 } else { 20 };
        if packet.len() < transport {
            return Shape::BehindAll;
        }
        let protocol = packet[if v6 { 6 } else { 9 }];
        match protocol {
            TCP | UDP => {}
            // Extension headers may hide a flow of ours.
            0 | 43 | 44 | 51 | 60 | 135 | 139 | 140 if v6 => return Shape::BehindAll,
            _ => return Shape::Free,
        }
        let total = if v6 {
            40 + usize::from(word(packet, 4))
        } else {
            usize::from(word(packet, 2))
        };
        let fragment = !v6 && word(packet, 6) & 0xbfff != 0;
        if fragment || total != packet.len() || packet.len() < transport + UDP_HEADER {
            return Shape::BehindAll;
        }
        let key = Key::of(packet, v6, protocol, transport);
        let header_sum = Checksum::default().with(&packet[..transport]);
        if !v6 && header_sum.finish() != 0 {
            return Shape::Behind(key);
        }
        let segment = if protocol == TCP {
            self.tcp.then(|| Segment::tcp(packet, key, transport)).flatten()
        } else {
            self.udp.then(|| Segment::udp(packet, key, transport)).flatten()
        };
        segment.map_or(Shape::Behind(key), Shape::Joinable)
    }
}

impl Key {
    /// The packet has 8 bytes of transport header at least.
    fn of(packet: &[u8], v6: bool, protocol: u8, transport: usize) -> Self {
        let from = if v6 { 8 } else { 12 };
        let mut ends = [0; 36];
        ends[..transport + 4 - from].copy_from_slice(&packet[from..transport + 4]);
        Self { ends, protocol, v6 }
    }
}

impl<'a> Segment<'a> {
    /// Plain data: nothing but ACK and PSH is set.
    fn tcp(packet: &'a [u8], key: Key, transport: usize) -> Option<Self> {
        let header = packet[transport..].first_chunk::<20>()?;
        let headers = transport + usize::from(header[12] >> 4) * 4;
        let plain = header[12] & 0x0f == 0 && header[13] & !PSH == ACK;
        (plain && headers >= transport + 20 && headers < packet.len()).then_some(Self {
            packet,
            key,
            transport,
            headers,
            push: header[13] & PSH != 0,
        })
    }

    fn udp(packet: &'a [u8], key: Key, transport: usize) -> Option<Self> {
        let headers = transport + UDP_HEADER;
        let exact = usize::from(word(packet, transport + 4)) == packet.len() - transport;
        let summed = word(packet, transport + UDP_CHECKSUM) != 0;
        (exact && summed && headers < packet.len()).then_some(Self {
            packet,
            key,
            transport,
            headers,
            push: false,
        })
    }

    fn payload(&self) -> &'a [u8] {
        &self.packet[self.headers..]
    }

    fn sequence(&self) -> u32 {
        let header = &self.packet[self.transport..];
        u32::from_be_bytes([header[4], header[5], header[6], header[7]])
    }

    /// Copies the payload; true when the checksum of the whole is right.
    fn copy_verified(&self, to: &mut [u8]) -> bool {
        let addresses = if self.key.v6 { 8 } else { 12 };
        Checksum::default()
            .with(&self.packet[addresses..self.headers])
            .with_word(u16::from(self.key.protocol))
            .with_word(len16(self.packet.len() - self.transport))
            .with_copy(to, self.payload())
            .finish()
            == 0
    }
}

impl Flow {
    /// The second value tells whether the packet's checksum is right.
    fn open(segment: &Segment<'_>, mut buffer: Box<[u8]>) -> (Self, bool) {
        let len = segment.packet.len();
        let payload = VNET + segment.headers..VNET + len;
        buffer[VNET..VNET + segment.headers].copy_from_slice(&segment.packet[..segment.headers]);
        let whole = segment.copy_verified(&mut buffer[payload.clone()]);
        let flow = Self {
            key: segment.key,
            buffer,
            len,
            transport: segment.transport,
            headers: segment.headers,
            segment: payload.len(),
            count: 1,
            next_sequence: segment.sequence().wrapping_add(len32(payload.len())),
        };
        (flow, whole)
    }

    fn take(&mut self, segment: &Segment<'_>) -> Taken {
        let payload = segment.payload().len();
        let end = self.len + payload;
        if payload > self.segment || end > MAX_JOINED || !self.continued_by(segment) {
            return Taken::Other;
        }
        if !segment.copy_verified(&mut self.buffer[VNET + self.len..VNET + end]) {
            return Taken::Broken;
        }
        self.len = end;
        self.count += 1;
        self.next_sequence = self.next_sequence.wrapping_add(len32(payload));
        if segment.push {
            self.buffer[VNET + self.transport + 13] |= PSH;
        }
        if segment.push || payload < self.segment || self.count == MAX_SEGMENTS {
            Taken::Closed
        } else {
            Taken::Open
        }
    }

    /// Same headers but for what splitting makes anew.
    fn continued_by(&self, segment: &Segment<'_>) -> bool {
        let (head, next) = (&self.buffer[VNET..VNET + self.headers], segment.packet);
        let same = |range: std::ops::Range<usize>| head[range.clone()] == next[range];
        let network = if self.key.v6 {
            same(0..4) && same(7..8)
        } else {
            same(0..2) && same(6..9)
        };
        let (transport, headers) = (self.transport, self.headers);
        // Acknowledgement and offset, window, urgent pointer and options.
        let tcp = || {
            segment.sequence() == self.next_sequence
                && same(transport + 8..transport + 13)
                && same(transport + 14..transport + 16)
                && same(transport + 18..headers)
        };
        headers == segment.headers && network && (self.key.protocol == UDP || tcp())
    }

    /// The vnet header and the packet, with lengths and checksums as the device expects them.
    fn complete(&mut self) -> &mut [u8] {
        if self.count == 1 {
            self.buffer[..VNET].fill(0);
            return &mut self.buffer[..VNET + self.len];
        }
        let tcp = self.key.protocol == TCP;
        let csum_offset = if tcp { TCP_CHECKSUM } else { UDP_CHECKSUM };
        let vnet = VnetHeader {
            flags: NEEDS_CSUM,
            gso_type: match (tcp, self.key.v6) {
                (true, false) => GSO_TCPV4,
                (true, true) => GSO_TCPV6,
                (false, _) => GSO_UDP_L4,
            },
            hdr_len: len16(self.headers),
            gso_size: len16(self.segment),
            csum_start: len16(self.transport),
            csum_offset: len16(csum_offset),
        };
        self.buffer[..VNET].copy_from_slice(&vnet.encode());
        let packet = &mut self.buffer[VNET..VNET + self.len];
        let transport_len = len16(self.len - self.transport);
        let addresses = if self.key.v6 {
            set(packet, 4, len16(self.len - 40));
            8
        } else {
            set(packet, 2, len16(self.len));
            set(packet, 10, 0);
            let sum = Checksum::default().with(&packet[..20]).finish();
            set(packet, 10, sum);
            12
        };
        let sum = Checksum::default()
            .with(&packet[addresses..self.transport])
            .with_word(u16::from(self.key.protocol))
            .with_word(transport_len)
            .partial();
        set(packet, self.transport + csum_offset, sum);
        if !tcp {
            set(packet, self.transport + 4, transport_len);
        }
        &mut self.buffer[..VNET + self.len]
    }
}

/// Lengths in here are bounded by what a header can state.
fn len16(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}

fn len32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
