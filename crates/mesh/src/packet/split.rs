//! [`Splitter`]: one super-packet of the device becomes the packets that travel, each written straight into its slot.
//!
//! The first station of the way out. Segmentation as RFC 9293 and the kernel's `tcp_offload.c` and `udp_offload.c` do
//! it: lengths, IPv4 identification, sequence numbers and checksums anew, FIN and PSH on the last segment only.
//! Whatever the checksum field held does not matter; the payload is copied and summed in one pass.

use std::ops::Range;

use super::PacketBuf;
use super::checksum::Checksum;
use super::ip::{IpPacket, MalformedPacket, TCP, UDP};
use super::vnet::{GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, VnetHeader};

/// Where the checksum is in a TCP header.
pub(super) const TCP_CHECKSUM: usize = 16;
/// Where the checksum is in a UDP header.
pub(super) const UDP_CHECKSUM: usize = 6;
/// Length of a UDP header.
pub(super) const UDP_HEADER: usize = 8;
/// IPv6 extension headers walked at most; the parser has the same bound.
const MAX_EXTENSIONS: usize = 8;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Why a super-packet cannot be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// The IP packet lies about itself.
    #[error(transparent)]
    Malformed(#[from] MalformedPacket),
    /// The kind of segmentation is unknown or does not fit the packet.
    #[error("segmentation of kind {0:#x} does not fit the packet")]
    Kind(u8),
    /// Segments of no size.
    #[error("a segment size of zero")]
    SegmentSize,
    /// The header names a checksum outside of the packet, or not the transport's.
    #[error("the checksum's place does not fit the packet")]
    ChecksumPlace,
}

/// See the module's text.
#[derive(Debug)]
pub struct Splitter<'a> {
    packet: &'a [u8],
    work: Work,
}

#[derive(Debug)]
enum Work {
    /// The packet as it is.
    Copy,
    /// The packet with the checksum finished over `start..`, from the partial one that the field holds.
    Finish { start: usize, at: usize },
    /// Segments.
    Segments(Layout),
}

/// What all segments share.
#[derive(Debug)]
struct Layout {
    v6: bool,
    tcp: bool,
    /// CWR on the first segment only.
    cwr_first: bool,
    transport: usize,
    headers: usize,
    segment: usize,
    count: usize,
    /// Addresses, protocol and the part of the transport header that is equal in all segments.
    sum: Checksum,
    /// The part of an IPv4 header that is.
    ip_sum: Checksum,
}

impl<'a> Splitter<'a> {
    /// Checks a packet against the header in front of it. Bytes behind the length that the packet states are left out
    /// when it is split.
    ///
    /// # Errors
    /// [`SplitError`]; the packet is then to be dropped.
    pub fn new(vnet: &VnetHeader, packet: &'a [u8]) -> Result<Self, SplitError> {
        if vnet.gso_type == GSO_NONE && !vnet.needs_checksum() {
            return Ok(Self {
                packet,
                work: Work::Copy,
            });
        }
        let view = IpPacket::parse(packet)?;
        let v6 = view.src().is_ipv6();
        let total = view.total_len();
        let packet = packet.get(..total).ok_or(MalformedPacket)?;
        let transport = total.checked_sub(view.payload().len()).ok_or(MalformedPacket)?;
        let start = usize::from(vnet.csum_start);
        let at = start + usize::from(vnet.csum_offset);
        let plain = is_plain(packet, v6, transport);
        if vnet.gso_type == GSO_NONE {
            let checksum = match view.protocol() {
                TCP => TCP_CHECKSUM,
                UDP if usize::from(word(packet, transport + 4)) == total - transport => UDP_CHECKSUM,
                _ => usize::MAX,
            };
            let ours = plain && start == transport && usize::from(vnet.csum_offset) == checksum;
            let work = if ours {
                Work::Segments(Layout::new(packet, v6, view.protocol() == TCP, transport, None, false)?)
            } else if start >= 20 && at + 2 <= total {
                Work::Finish { start, at }
            } else {
                return Err(SplitError::ChecksumPlace);
            };
            return Ok(Self { packet, work });
        }
        let tcp = match (vnet.gso_type & !GSO_ECN, v6, view.protocol()) {
            (GSO_TCPV4, false, TCP) | (GSO_TCPV6, true, TCP) => true,
            (GSO_UDP_L4, _, UDP) => false,
            _ => return Err(SplitError::Kind(vnet.gso_type)),
        };
        if !plain {
            return Err(SplitError::Kind(vnet.gso_type));
        }
        if vnet.needs_checksum() && start != transport {
            return Err(SplitError::ChecksumPlace);
        }
        if vnet.gso_size == 0 {
            return Err(SplitError::SegmentSize);
        }
        let ecn = vnet.gso_type & GSO_ECN != 0;
        let layout = Layout::new(packet, v6, tcp, transport, Some(usize::from(vnet.gso_size)), ecn)?;
        Ok(Self {
            packet,
            work: Work::Segments(layout),
        })
    }

    /// Number of packets, at least 1.
    #[must_use]
    pub fn count(&self) -> usize {
        match &self.work {
            Work::Copy | Work::Finish { .. } => 1,
            Work::Segments(layout) => layout.count,
        }
    }

    /// Length of packet `index`; 0 when there is none. All but the last are equally long.
    #[must_use]
    pub fn len_of(&self, index: usize) -> usize {
        if index >= self.count() {
            return 0;
        }
        match &self.work {
            Work::Copy | Work::Finish { .. } => self.packet.len(),
            Work::Segments(layout) => layout.headers + layout.payload(index, self.packet.len()).len(),
        }
    }

    /// Each packet in a buffer of its own, for where they do not go straight to their place.
    pub fn segments(&self) -> impl Iterator<Item = PacketBuf> + '_ {
        (0..self.count()).map(|index| {
            let mut segment = PacketBuf::zeroed(self.len_of(index));
            self.write(index, &mut segment);
            segment
        })
    }

    /// Writes packet `index` to `out`, which is exactly [`len_of`](Self::len_of) long, else nothing is written.
    pub fn write(&self, index: usize, out: &mut [u8]) {
        debug_assert_eq!(out.len(), self.len_of(index));
        if out.len() != self.len_of(index) || out.is_empty() {
            return;
        }
        match &self.work {
            Work::Copy => out.copy_from_slice(self.packet),
            Work::Finish { start, at } => {
                let (head, body) = out.split_at_mut(*start);
                head.copy_from_slice(&self.packet[..*start]);
                let sum = Checksum::default().with_copy(body, &self.packet[*start..]);
                set(out, *at, not_zero(sum.finish()));
            }
            Work::Segments(layout) => layout.write(self.packet, index, out),
        }
    }
}

impl Layout {
    /// No segment size: everything is one segment.
    fn new(
        packet: &[u8],
        v6: bool,
        tcp: bool,
        transport: usize,
        segment: Option<usize>,
        cwr_first: bool,
    ) -> Result<Self, SplitError> {
        let header = packet.get(transport..).ok_or(MalformedPacket)?;
        let header_len = if tcp {
            usize::from(header.get(12).ok_or(MalformedPacket)? >> 4) * 4
        } else {
            UDP_HEADER
        };
        let least = if tcp { 20 } else { UDP_HEADER };
        if header_len < least || header.len() < header_len {
            return Err(MalformedPacket.into());
        }
        let headers = transport + header_len;
        let payload = packet.len() - headers;
        let segment = segment.unwrap_or(payload).max(1);
        let mut constant = [0; 60];
        let constant = &mut constant[..header_len];
        constant.copy_from_slice(&header[..header_len]);
        // Sequence number, flags and checksum; length and checksum.
        constant[4..8].fill(0);
        if tcp {
            constant[13] = 0;
            constant[16..18].fill(0);
        }
        let (addresses, protocol) = if v6 {
            (8..40, if tcp { TCP } else { UDP })
        } else {
            (12..20, packet[9])
        };
        let sum = Checksum::default()
            .with(&packet[addresses])
            .with_word(u16::from(protocol))
            .with(constant);
        let ip_sum = if v6 {
            Checksum::default()
        } else {
            Checksum::default()
                .with(&packet[..2])
                .with(&packet[6..10])
                .with(&packet[12..transport])
        };
        Ok(Self {
            v6,
            tcp,
            cwr_first,
            transport,
            headers,
            segment,
            count: payload.div_ceil(segment).max(1),
            sum,
            ip_sum,
        })
    }

    /// Where the payload of a segment is in a packet of `total` bytes.
    fn payload(&self, index: usize, total: usize) -> Range<usize> {
        let from = self
            .segment
            .saturating_mul(index)
            .saturating_add(self.headers)
            .min(total);
        from..from.saturating_add(self.segment).min(total)
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "no packet is longer than the 16-bit length it stated, and the identification wraps"
    )]
    fn write(&self, packet: &[u8], index: usize, out: &mut [u8]) {
        let (head, body) = out.split_at_mut(self.headers);
        head.copy_from_slice(&packet[..self.headers]);
        let sum = self.sum.with_copy(body, &packet[self.payload(index, packet.len())]);
        let total = head.len() + body.len();
        if self.v6 {
            set(head, 4, (total - 40) as u16);
        } else {
            let id = word(packet, 4).wrapping_add(index as u16);
            set(head, 2, total as u16);
            set(head, 4, id);
            set(head, 10, self.ip_sum.with_word(total as u16).with_word(id).finish());
        }
        let len = (total - self.transport) as u16;
        let sum = sum.with_word(len);
        let header = &mut head[self.transport..];
        if self.tcp {
            let [a, b, c, d] = [header[4], header[5], header[6], header[7]];
            let seq = u32::from_be_bytes([a, b, c, d]).wrapping_add((index * self.segment) as u32);
            header[4..8].copy_from_slice(&seq.to_be_bytes());
            if index + 1 < self.count {
                header[13] &= !(FIN | PSH);
            }
            if index > 0 && self.cwr_first {
                header[13] &= !CWR;
            }
            let sum = sum.with_words(seq).with_word(u16::from(header[13]));
            set(header, TCP_CHECKSUM, sum.finish());
        } else {
            set(header, 4, len);
            set(header, UDP_CHECKSUM, not_zero(sum.with_word(len).finish()));
        }
    }
}

/// No fragment, and no routing header: with one, the pseudo header holds another destination (RFC 8200, section 8.1).
fn is_plain(packet: &[u8], v6: bool, transport: usize) -> bool {
    if !v6 {
        return word(packet, 6) & 0x3fff == 0;
    }
    let (mut next, mut at) = (packet[6], 40);
    for _ in 0..MAX_EXTENSIONS {
        if at >= transport {
            return true;
        }
        if matches!(next, 43 | 44) {
            return false;
        }
        next = packet[at];
        at += (usize::from(packet[at + 1]) + 1) * 8;
    }
    at >= transport
}

/// A checksum of 0 would say that there is none (RFC 768, RFC 8200); the other zero means the same number.
fn not_zero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// The 16-bit word at `at`; 0 where there is none.
pub(super) fn word(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk::<2>())
        .map_or(0, |word| u16::from_be_bytes(*word))
}

/// Writes a 16-bit word.
pub(super) fn set(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests;
