//! [`IpPacket`]: a checked view over one IPv4 or IPv6 packet, as far as routing and filtering need it (S-13).
//!
//! Every length is checked before it is used; extension headers are walked with a bound; what hides its ports behind
//! a fragment is told apart. A packet that parses is safe to index by this view, nothing more is promised.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::Checksum;

/// ICMP for IPv4.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMP for IPv6.
pub const ICMPV6: u8 = 58;
/// SCTP.
pub const SCTP: u8 = 132;
/// IPv6 extension headers walked at most.
const MAX_EXTENSIONS: usize = 8;
/// A later fragment must start behind any header a filter reads.
const MIN_FRAGMENT_OFFSET: usize = 40;

/// Bytes that are no well-formed packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a well-formed IP packet")]
pub struct MalformedPacket;

/// The transport part, as far as a filter reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport<'a> {
    /// TCP with its flags.
    Tcp {
        /// Source port.
        src: u16,
        /// Destination port.
        dst: u16,
        /// SYN set and ACK clear: the packet opens a connection.
        opens: bool,
    },
    /// UDP or SCTP.
    Ports {
        /// Source port.
        src: u16,
        /// Destination port.
        dst: u16,
    },
    /// Echo request with its identifier.
    EchoRequest {
        /// Identifier.
        id: u16,
    },
    /// Echo reply with identifier and sequence number.
    EchoReply {
        /// Identifier.
        id: u16,
        /// Sequence number.
        sequence: u16,
    },
    /// An ICMP error about the packet that is quoted.
    IcmpError {
        /// First bytes of the packet that caused it.
        quoted: &'a [u8],
    },
    /// Anything else, named by its protocol number.
    Other,
    /// A later fragment: its first one was judged.
    LaterFragment,
}

/// See the module's text.
#[derive(Debug, Clone, Copy)]
pub struct IpPacket<'a> {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    transport: Transport<'a>,
    payload: &'a [u8],
    total_len: usize,
}

/// Identifier and sequence number of an echo reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EchoReply {
    /// Identifier.
    pub identifier: u16,
    /// Sequence number.
    pub sequence: u16,
}

impl<'a> IpPacket<'a> {
    /// Reads a packet. Bytes behind the length that its header states are not looked at.
    ///
    /// # Errors
    /// [`MalformedPacket`] for a wrong version, a length that lies, a header that is cut off, an IPv4 address mapped
    /// into IPv6, or a fragment that hides its ports.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, MalformedPacket> {
        match bytes.first().map(|byte| byte >> 4) {
            Some(4) => Self::parse_v4(bytes),
            Some(6) => Self::parse_v6(bytes),
            _ => Err(MalformedPacket),
        }
    }

    /// Source address.
    #[must_use]
    pub fn src(&self) -> IpAddr {
        self.src
    }

    /// Destination address.
    #[must_use]
    pub fn dst(&self) -> IpAddr {
        self.dst
    }

    /// IP protocol number.
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Transport part.
    #[must_use]
    pub fn transport(&self) -> Transport<'a> {
        self.transport
    }

    /// Bytes of the whole packet, as its header states.
    #[must_use]
    pub fn total_len(&self) -> usize {
        self.total_len
    }

    /// What follows the IP header.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The echo reply in it, if it is one.
    #[must_use]
    pub fn echo_reply(&self) -> Option<EchoReply> {
        match self.transport {
            Transport::EchoReply { id, sequence } => Some(EchoReply {
                identifier: id,
                sequence,
            }),
            Transport::Tcp { .. }
            | Transport::Ports { .. }
            | Transport::EchoRequest { .. }
            | Transport::IcmpError { .. }
            | Transport::Other
            | Transport::LaterFragment => None,
        }
    }

    fn parse_v4(bytes: &'a [u8]) -> Result<Self, MalformedPacket> {
        let header_len = usize::from(bytes[0] & 0x0f) * 4;
        let total = usize::from(word(bytes, 2)?);
        if header_len < 20 || total < header_len {
            return Err(MalformedPacket);
        }
        let packet = bytes.get(..total).ok_or(MalformedPacket)?;
        let flags = word(packet, 6)?;
        let fragment_offset = usize::from(flags & 0x1fff) * 8;
        let src = IpAddr::V4(Ipv4Addr::from(array::<4>(packet, 12)?));
        let dst = IpAddr::V4(Ipv4Addr::from(array::<4>(packet, 16)?));
        let payload = packet.get(header_len..).ok_or(MalformedPacket)?;
        Self::finish(src, dst, packet[9], payload, fragment_offset, total)
    }

    fn parse_v6(bytes: &'a [u8]) -> Result<Self, MalformedPacket> {
        let len = usize::from(word(bytes, 4)?);
        let packet = bytes
            .get(..len.checked_add(40).ok_or(MalformedPacket)?)
            .ok_or(MalformedPacket)?;
        let src = Ipv6Addr::from(array::<16>(packet, 8)?);
        let dst = Ipv6Addr::from(array::<16>(packet, 24)?);
        // An IPv4 address in IPv6 clothes would slip past rules for IPv4.
        if src.to_ipv4_mapped().is_some() || dst.to_ipv4_mapped().is_some() {
            return Err(MalformedPacket);
        }
        let mut protocol = packet[6];
        let mut payload = &packet[40..];
        let mut fragment_offset = 0;
        let finish = |protocol, payload, offset| {
            Self::finish(
                IpAddr::V6(src),
                IpAddr::V6(dst),
                protocol,
                payload,
                offset,
                packet.len(),
            )
        };
        for _ in 0..MAX_EXTENSIONS {
            let skip = match protocol {
                // Hop-by-hop, routing, destination options.
                0 | 43 | 60 => (usize::from(*payload.get(1).ok_or(MalformedPacket)?) + 1) * 8,
                44 => {
                    fragment_offset = usize::from(word(payload, 2)? & 0xfff8);
                    8
                }
                _ => return finish(protocol, payload, fragment_offset),
            };
            protocol = *payload.first().ok_or(MalformedPacket)?;
            payload = payload.get(skip..).ok_or(MalformedPacket)?;
            if fragment_offset > 0 {
                return finish(protocol, payload, fragment_offset);
            }
        }
        Err(MalformedPacket)
    }

    fn finish(
        src: IpAddr,
        dst: IpAddr,
        protocol: u8,
        payload: &'a [u8],
        fragment_offset: usize,
        total_len: usize,
    ) -> Result<Self, MalformedPacket> {
        let transport = match fragment_offset {
            0 => transport(protocol, payload)?,
            // It could overwrite the ports that the first fragment showed.
            1..MIN_FRAGMENT_OFFSET => return Err(MalformedPacket),
            MIN_FRAGMENT_OFFSET.. => Transport::LaterFragment,
        };
        Ok(Self {
            src,
            dst,
            protocol,
            transport,
            payload,
            total_len,
        })
    }
}

fn transport(protocol: u8, payload: &[u8]) -> Result<Transport<'_>, MalformedPacket> {
    match protocol {
        TCP => {
            let header = payload.get(..20).ok_or(MalformedPacket)?;
            Ok(Transport::Tcp {
                src: word(header, 0)?,
                dst: word(header, 2)?,
                opens: header[13] & 0x12 == 0x02,
            })
        }
        UDP => {
            let header = payload.get(..8).ok_or(MalformedPacket)?;
            Ok(Transport::Ports {
                src: word(header, 0)?,
                dst: word(header, 2)?,
            })
        }
        SCTP => {
            let header = payload.get(..12).ok_or(MalformedPacket)?;
            Ok(Transport::Ports {
                src: word(header, 0)?,
                dst: word(header, 2)?,
            })
        }
        ICMP | ICMPV6 => {
            let header = payload.get(..8).ok_or(MalformedPacket)?;
            let (id, sequence) = (word(header, 4)?, word(header, 6)?);
            Ok(match (protocol, header[0]) {
                (ICMP, 8) | (ICMPV6, 128) => Transport::EchoRequest { id },
                (ICMP, 0) | (ICMPV6, 129) => Transport::EchoReply { id, sequence },
                (ICMP, 3 | 4 | 5 | 11 | 12) | (ICMPV6, 1..=4) => Transport::IcmpError { quoted: &payload[8..] },
                _ => Transport::Other,
            })
        }
        _ => Ok(Transport::Other),
    }
}

/// Source, destination, protocol and ports of the packet that an ICMP error quotes; it may be cut off behind them.
#[must_use]
pub fn parse_quoted(bytes: &[u8]) -> Option<(IpAddr, IpAddr, u8, u16, u16)> {
    let (src, dst, protocol, payload) = match bytes.first()? >> 4 {
        4 => {
            let header_len = usize::from(bytes[0] & 0x0f) * 4;
            let src = IpAddr::V4(Ipv4Addr::from(array::<4>(bytes, 12).ok()?));
            let dst = IpAddr::V4(Ipv4Addr::from(array::<4>(bytes, 16).ok()?));
            (src, dst, *bytes.get(9)?, bytes.get(header_len.max(20)..)?)
        }
        6 => {
            let src = IpAddr::V6(Ipv6Addr::from(array::<16>(bytes, 8).ok()?));
            let dst = IpAddr::V6(Ipv6Addr::from(array::<16>(bytes, 24).ok()?));
            (src, dst, *bytes.get(6)?, bytes.get(40..)?)
        }
        _ => return None,
    };
    match protocol {
        ICMP | ICMPV6 => Some((src, dst, protocol, word(payload, 4).ok()?, 0)),
        TCP | UDP | SCTP => Some((src, dst, protocol, word(payload, 0).ok()?, word(payload, 2).ok()?)),
        _ => None,
    }
}

/// A whole echo request. Nothing when the families differ or the payload is too long for one packet.
#[must_use]
pub fn encode_echo_request(src: IpAddr, dst: IpAddr, id: u16, sequence: u16, payload: &[u8]) -> Option<Vec<u8>> {
    let (kind, protocol) = if src.is_ipv4() { (8, ICMP) } else { (128, ICMPV6) };
    let mut message = vec![kind, 0, 0, 0];
    message.extend_from_slice(&id.to_be_bytes());
    message.extend_from_slice(&sequence.to_be_bytes());
    message.extend_from_slice(payload);
    let sum = if src.is_ipv4() {
        Checksum::default().with(&message)
    } else {
        Checksum::default()
            .with_pseudo_header(src, dst, protocol, message.len())
            .with(&message)
    };
    message[2..4].copy_from_slice(&sum.finish().to_be_bytes());
    encode_ip(src, dst, protocol, &message)
}

/// An IP header in front of a payload. Nothing when the families differ or the payload is too long.
#[must_use]
pub fn encode_ip(src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> Option<Vec<u8>> {
    let mut packet;
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let total = u16::try_from(payload.len() + 20).ok()?;
            packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
            packet[2..4].copy_from_slice(&total.to_be_bytes());
            packet.extend_from_slice(&src.octets());
            packet.extend_from_slice(&dst.octets());
            let sum = Checksum::default().with(&packet).finish();
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let len = u16::try_from(payload.len()).ok()?;
            packet = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
            packet[4..6].copy_from_slice(&len.to_be_bytes());
            packet.extend_from_slice(&src.octets());
            packet.extend_from_slice(&dst.octets());
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    }
    packet.extend_from_slice(payload);
    Some(packet)
}

fn word(bytes: &[u8], at: usize) -> Result<u16, MalformedPacket> {
    array::<2>(bytes, at).map(u16::from_be_bytes)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], MalformedPacket> {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk::<N>())
        .copied()
        .ok_or(MalformedPacket)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_echo_request_reads_back_in_both_families() {
        for (src, dst) in [("100.64.0.1", "100.64.0.2"), ("fd7a::1", "fd7a::2")] {
            let bytes = encode_echo_request(ip(src), ip(dst), 7, 9, b"payload").unwrap();
            let packet = IpPacket::parse(&bytes).unwrap();
            assert_eq!((packet.src(), packet.dst()), (ip(src), ip(dst)));
            assert_eq!(packet.transport(), Transport::EchoRequest { id: 7 });
        }
        assert_eq!(encode_echo_request(ip("::1"), ip("10.0.0.1"), 1, 1, b""), None);
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let good = encode_echo_request(ip("10.0.0.1"), ip("10.0.0.2"), 1, 1, b"abc").unwrap();
        for change in [(0usize, 0x44u8), (0, 0x4f), (0, 0x55), (3, 200), (3, 10)] {
            let mut bad = good.clone();
            bad[change.0] = change.1;
            assert!(IpPacket::parse(&bad).is_err(), "{change:?}");
        }
        for len in 0..good.len() {
            assert!(IpPacket::parse(&good[..len]).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn fragments_cannot_hide_ports() {
        let mut tiny = encode_ip(ip("10.0.0.1"), ip("10.0.0.2"), TCP, &[0; 40]).unwrap();
        tiny[7] = 1;
        assert!(IpPacket::parse(&tiny).is_err(), "a fragment that overlaps the ports");
        tiny[7] = 6;
        assert_eq!(IpPacket::parse(&tiny).unwrap().transport(), Transport::LaterFragment);
        let short = encode_ip(ip("10.0.0.1"), ip("10.0.0.2"), TCP, &[0; 8]).unwrap();
        assert!(IpPacket::parse(&short).is_err(), "a first fragment without its header");
    }

    #[test]
    fn mapped_addresses_are_refused() {
        let packet = encode_ip(ip("::ffff:10.0.0.1"), ip("fd7a::1"), UDP, &[0; 8]).unwrap();
        assert!(IpPacket::parse(&packet).is_err());
    }

    #[test]
    fn extension_headers_are_walked_and_bounded() {
        let mut payload = vec![60, 0, 1, 4, 0, 0, 0, 0];
        payload.extend([17, 0, 1, 4, 0, 0, 0, 0]);
        payload.extend([0x12, 0x34, 0, 53, 0, 8, 0, 0]);
        let bytes = encode_ip(ip("fd7a::1"), ip("fd7a::2"), 0, &payload).unwrap();
        let packet = IpPacket::parse(&bytes).unwrap();
        assert_eq!(packet.protocol(), UDP);
        assert_eq!(packet.transport(), Transport::Ports { src: 0x1234, dst: 53 });
        let endless = [60u8, 0, 1, 4, 0, 0, 0, 0].repeat(20);
        let bytes = encode_ip(ip("fd7a::1"), ip("fd7a::2"), 60, &endless).unwrap();
        assert!(IpPacket::parse(&bytes).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = IpPacket::parse(&bytes);
            let _ = parse_quoted(&bytes);
        }

        #[test]
        fn changed_packets_never_panic(at in 0usize..60, to in any::<u8>(), cut in 0usize..80) {
            let mut bytes = encode_ip(ip("fd7a::1"), ip("fd7a::2"), 43, &[17, 1, 0, 0].repeat(10)).unwrap();
            bytes[at] = to;
            bytes.truncate(80 - cut);
            let _ = IpPacket::parse(&bytes);
        }
    }
}
