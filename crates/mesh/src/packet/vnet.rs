//! [`VnetHeader`]: what stands in front of a super-packet, both ways between the device and us.
//!
//! The layout is `struct virtio_net_hdr` of Linux' `virtio_net.h`, in the machine's byte order, as a TUN device with
//! `IFF_VNET_HDR` speaks it. The userspace stack speaks it, too, so that both devices look alike.

/// The checksum is not finished: sum from `csum_start` to the end, the result belongs at `csum_offset` behind it.
pub const NEEDS_CSUM: u8 = 1;
/// No segmentation: one packet.
pub const GSO_NONE: u8 = 0;
/// TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// UDP datagrams of equal length, both families.
pub const GSO_UDP_L4: u8 = 5;
/// Set beside a TCP kind: CWR stands on the first segment only.
pub const GSO_ECN: u8 = 0x80;

/// See the module's text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// [`NEEDS_CSUM`] or nothing; other bits are hints.
    pub flags: u8,
    /// One of the `GSO_` kinds.
    pub gso_type: u8,
    /// Length of all headers; a hint that is not to be trusted.
    pub hdr_len: u16,
    /// Payload bytes of each segment but the last.
    pub gso_size: u16,
    /// Where the transport header begins.
    pub csum_start: u16,
    /// Where in it the checksum is.
    pub csum_offset: u16,
}

impl VnetHeader {
    /// Bytes on the wire.
    pub const LEN: usize = 10;

    /// Reads the header in front of `bytes`; nothing when they are too short.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let [flags, gso_type, a, b, c, d, e, f, g, h] = *bytes.first_chunk::<{ Self::LEN }>()?;
        Some(Self {
            flags,
            gso_type,
            hdr_len: u16::from_ne_bytes([a, b]),
            gso_size: u16::from_ne_bytes([c, d]),
            csum_start: u16::from_ne_bytes([e, f]),
            csum_offset: u16::from_ne_bytes([g, h]),
        })
    }

    /// The bytes that stand in front of the packet.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let [a, b] = self.hdr_len.to_ne_bytes();
        let [c, d] = self.gso_size.to_ne_bytes();
        let [e, f] = self.csum_start.to_ne_bytes();
        let [g, h] = self.csum_offset.to_ne_bytes();
        [self.flags, self.gso_type, a, b, c, d, e, f, g, h]
    }

    /// Whether the checksum is still to be finished.
    #[must_use]
    pub fn needs_checksum(&self) -> bool {
        self.flags & NEEDS_CSUM != 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_layout_is_the_kernels() {
        let header = VnetHeader {
            flags: NEEDS_CSUM,
            gso_type: GSO_TCPV6 | GSO_ECN,
            hdr_len: 0x0102,
            gso_size: 0x0304,
            csum_start: 0x0506,
            csum_offset: 0x0708,
        };
        let mut expected = vec![1, 0x84];
        for word in [0x0102_u16, 0x0304, 0x0506, 0x0708] {
            expected.extend(word.to_ne_bytes());
        }
        assert_eq!(header.encode().to_vec(), expected);
        assert!(header.needs_checksum());
        assert_eq!(VnetHeader::parse(&expected[..9]), None);
    }

    proptest! {
        #[test]
        fn ten_bytes_come_back(bytes: [u8; VnetHeader::LEN]) {
            prop_assert_eq!(VnetHeader::parse(&bytes).map(|header| header.encode()), Some(bytes));
        }
    }
}
