//! The internet checksum (RFC 1071), in one pass over slices.

use std::net::IpAddr;

/// A sum under way: add parts in order, each of even length but the last.
#[derive(Debug, Clone, Copy, Default)]
pub struct Checksum(u64);

impl Checksum {
    /// Adds bytes as big-endian 16-bit words; an odd last byte is padded with zero.
    #[must_use]
    pub fn with(self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<2>();
        let mut sum = self.0;
        for word in words {
            sum += u64::from(u16::from_be_bytes(*word));
        }
        if let [last] = rest {
            sum += u64::from(*last) << 8;
        }
        Self(sum)
    }

    /// Adds the pseudo header of TCP, UDP and ICMPv6.
    #[must_use]
    pub fn with_pseudo_header(self, src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> Self {
        let sum = match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.with(&src.octets()).with(&dst.octets()),
            (IpAddr::V6(src), IpAddr::V6(dst)) => self.with(&src.octets()).with(&dst.octets()),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => self,
        };
        Self(sum.0 + u64::from(protocol) + len as u64)
    }

    /// The value that belongs into the header: folded and inverted.
    #[must_use]
    pub fn finish(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).unwrap_or(u16::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071() {
        let sum = Checksum::default()
            .with(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])
            .finish();
        assert_eq!(sum, !0xddf2);
    }

    #[test]
    fn a_header_with_its_checksum_sums_to_zero() {
        let header = [
            0x45, 0, 0, 0x35, 0, 0, 0, 0, 0x40, 0x63, 0, 0, 100, 64, 0, 1, 100, 64, 0, 2,
        ];
        let sum = Checksum::default().with(&header).finish();
        let mut whole = header;
        whole[10..12].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(Checksum::default().with(&whole).finish(), 0);
    }
}
