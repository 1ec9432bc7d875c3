//! The internet checksum (RFC 1071), alone or fused with a copy: splitting and joining touch each payload byte once.
//!
//! Words are summed in the machine's byte order, which RFC 1071 permits, and turned at the end. The inner loops are
//! written so that the compiler makes vector instructions of them on every target.

use std::net::IpAddr;

/// Bytes that one round of the inner loop takes.
const BLOCK: usize = 32;
/// 64-bit words in a block.
const LANES: usize = BLOCK / 8;

/// A sum under way: add parts in order, each of even length but the last.
#[derive(Debug, Clone, Copy, Default)]
pub struct Checksum(u64);

impl Checksum {
    /// Adds bytes as 16-bit words; an odd last byte is padded with zero.
    #[must_use]
    pub fn with(self, bytes: &[u8]) -> Self {
        let (blocks, rest) = bytes.as_chunks::<BLOCK>();
        let mut lanes = Lanes::default();
        for block in blocks {
            lanes.add(block);
        }
        Self(self.0 + lanes.sum() + tail(rest))
    }

    /// Copies `from` to `to` and adds it on the way. The shorter of the two decides how much.
    #[must_use]
    pub fn with_copy(self, to: &mut [u8], from: &[u8]) -> Self {
        let len = to.len().min(from.len());
        let (to_blocks, to_rest) = to[..len].as_chunks_mut::<BLOCK>();
        let (from_blocks, from_rest) = from[..len].as_chunks::<BLOCK>();
        let mut lanes = Lanes::default();
        for (to, from) in to_blocks.iter_mut().zip(from_blocks) {
            *to = *from;
            lanes.add(from);
        }
        to_rest.copy_from_slice(from_rest);
        Self(self.0 + lanes.sum() + tail(from_rest))
    }

    /// Adds one 16-bit word.
    #[must_use]
    pub fn with_word(self, word: u16) -> Self {
        Self(self.0 + u64::from(word.to_be()))
    }

    /// Adds two 16-bit words.
    #[must_use]
    pub fn with_words(self, words: u32) -> Self {
        Self(self.0 + u64::from(words.to_be()))
    }

    /// Adds the pseudo header of TCP, UDP and ICMPv6.
    #[must_use]
    pub fn with_pseudo_header(self, src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> Self {
        let sum = match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.with(&src.octets()).with(&dst.octets()),
            (IpAddr::V6(src), IpAddr::V6(dst)) => self.with(&src.octets()).with(&dst.octets()),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => self,
        };
        sum.with_word(u16::from(protocol))
            .with_words(u32::try_from(len).unwrap_or(u32::MAX))
    }

    /// The value that belongs into the header: folded and inverted.
    #[must_use]
    pub fn finish(self) -> u16 {
        !self.partial()
    }

    /// Folded but not inverted: what a header holds whose checksum somebody else will finish.
    #[must_use]
    pub fn partial(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::from_be(u16::try_from(sum).unwrap_or(u16::MAX))
    }
}

/// The checksum after one word of what it covers has changed (RFC 1624, equation 3).
#[must_use]
pub fn updated(checksum: u16, old: u16, new: u16) -> u16 {
    Checksum::default()
        .with_word(!checksum)
        .with_word(!old)
        .with_word(new)
        .finish()
}

/// Sums of the lower and upper halves of 64-bit words: 2^32 blocks fit before a lane could overflow.
#[derive(Default)]
struct Lanes {
    low: [u64; LANES],
    high: [u64; LANES],
}

impl Lanes {
    #[inline(always)]
    fn add(&mut self, block: &[u8; BLOCK]) {
        let (words, _) = block.as_chunks::<8>();
        for ((low, high), word) in self.low.iter_mut().zip(&mut self.high).zip(words) {
            let word = u64::from_ne_bytes(*word);
            *low += word & 0xffff_ffff;
            *high += word >> 32;
        }
    }

    fn sum(&self) -> u64 {
        let fold = |sum: u64| (sum & 0xffff_ffff) + (sum >> 32);
        self.low.iter().chain(&self.high).map(|lane| fold(*lane)).sum()
    }
}

/// What is left behind the blocks.
fn tail(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let (words, rest) = rest.as_chunks::<2>();
    sum += words
        .iter()
        .map(|word| u64::from(u16::from_ne_bytes(*word)))
        .sum::<u64>();
    if let [last] = rest {
        sum += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::reference::slow_sum;

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

    #[test]
    fn the_largest_sums_do_not_overflow() {
        let ones = vec![0xff; 65_535];
        assert_eq!(Checksum::default().with(&ones).partial(), slow_sum(&ones));
    }

    proptest! {
        #[test]
        fn every_length_and_split_equals_the_slow_sum(
            bytes in proptest::collection::vec(any::<u8>(), 0..300), at: proptest::sample::Index, word: u16,
        ) {
            let expected = slow_sum(&bytes);
            prop_assert_eq!(Checksum::default().with(&bytes).partial(), expected);
            let mut copy = vec![0; bytes.len()];
            prop_assert_eq!(Checksum::default().with_copy(&mut copy, &bytes).partial(), expected);
            prop_assert_eq!(&copy, &bytes);
            let (a, b) = bytes.split_at(at.index(bytes.len() + 1) & !1);
            prop_assert_eq!(Checksum::default().with(a).with(b).partial(), expected);
            if let Some(changed) = copy.first_chunk_mut::<2>() {
                let old = u16::from_be_bytes(*changed);
                *changed = word.to_be_bytes();
                let new = updated(!expected, old, word);
                // 0 and 0xffff are the same number; only a sum over nothing but zeros gives 0.
                prop_assert_eq!(new % 0xffff, !slow_sum(&copy) % 0xffff);
            }
        }
    }
}
