//! Explicit congestion notification through the tunnel, both ways as RFC 6040 says.
//!
//! On the way out the datagram carries the mark of the packet in it. On the way in a router's mark on the datagram is
//! handed on to the packet, or costs a packet its life that cannot carry the news.

use super::checksum::updated;

/// The sender does not understand marks.
pub const NOT_ECT: u8 = 0b00;
/// Understands marks.
pub const ECT_1: u8 = 0b01;
/// Understands marks.
pub const ECT_0: u8 = 0b10;
/// Congestion was experienced.
pub const CE: u8 = 0b11;

/// The mark of a packet, which its datagram is to carry (RFC 6040, section 4.1, normal mode).
#[must_use]
pub fn of(packet: &[u8]) -> u8 {
    match packet {
        [first, second, ..] if first >> 4 == 4 => second & CE,
        [first, second, ..] if first >> 4 == 6 => second >> 4 & CE,
        _ => NOT_ECT,
    }
}

/// Gives a packet the mark that follows from its own and from the one its datagram arrived with (RFC 6040, section 4.2);
/// false when the packet is to be dropped. A checksum of IPv4 stays as right or wrong as it was.
#[must_use]
pub fn combine(packet: &mut [u8], outer: u8) -> bool {
    let inner = of(packet);
    let mark = match (inner, outer & CE) {
        (NOT_ECT, CE) => return false,
        (ECT_0, ECT_1) => ECT_1,
        (ECT_0 | ECT_1, CE) => CE,
        _ => return true,
    };
    if packet[0] >> 4 == 6 {
        packet[1] = packet[1] & !(CE << 4) | mark << 4;
    } else {
        let old = u16::from_be_bytes([packet[0], packet[1]]);
        packet[1] = packet[1] & !CE | mark;
        let new = u16::from_be_bytes([packet[0], packet[1]]);
        if let Some([high, low]) = packet.get_mut(10..12) {
            [*high, *low] = updated(u16::from_be_bytes([*high, *low]), old, new).to_be_bytes();
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::reference::{Sample, is_whole};

    /// Figure 4 of RFC 6040: rows are the packet's mark, columns the datagram's, both in the order of the RFC.
    const ORDER: [u8; 4] = [NOT_ECT, ECT_0, ECT_1, CE];
    const TABLE: [[Option<u8>; 4]; 4] = [
        [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None],
        [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)],
        [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)],
        [Some(CE), Some(CE), Some(CE), Some(CE)],
    ];

    #[test]
    fn the_whole_table_in_both_families() {
        for v6 in [false, true] {
            for (inner, row) in ORDER.iter().zip(TABLE) {
                for (outer, expected) in ORDER.iter().zip(row) {
                    let mut sample = Sample::plain(v6, true, vec![1; 30]);
                    sample.tos = 0xa8 | inner;
                    let mut packet = sample.build();
                    assert_eq!(of(&packet), *inner);
                    let kept = combine(&mut packet, *outer);
                    assert_eq!(kept, expected.is_some(), "{inner:02b} in {outer:02b}");
                    if let Some(mark) = expected {
                        sample.tos = 0xa8 | mark;
                        assert!(packet == sample.build(), "{inner:02b} in {outer:02b}");
                        assert!(is_whole(&packet, sample.headers().0, true));
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40), outer: u8) {
            let mut changed = bytes.clone();
            let kept = combine(&mut changed, outer);
            prop_assert!(kept || of(&bytes) == NOT_ECT);
            prop_assert_eq!(changed.len(), bytes.len());
        }
    }
}
