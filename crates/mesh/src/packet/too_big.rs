//! Packets that are too large for the way ahead: the answer to their sender, and the MSS of connections that pass.
//!
//! Both only touch what the device gives us. The answer is RFC 1191's "fragmentation needed" or RFC 4443's "packet too
//! big". The clamp is for connections of hosts behind a node, which not every network lets that answer reach; a node
//! forwards for nobody yet, so nothing on a packet's way calls it.

use std::net::IpAddr;

use super::checksum::{Checksum, updated};
use super::ip::{ICMP, ICMPV6, IpPacket, TCP, Transport, encode_ip};
use super::split::{TCP_CHECKSUM, set, word};

/// What every path of IPv6 carries.
const SMALLEST_V6: usize = 1280;
/// The least that a link carries, and so the most that our answer may fill (RFC 791, RFC 1812).
const SMALLEST_V4: usize = 576;
const SYN: u8 = 0x02;
/// Kind and length of the option (RFC 9293).
const MSS: [u8; 2] = [2, 4];

/// The message for the sender of `packet`, that no more than `mtu` bytes pass; `from` is who says so. Nothing for what
/// must not be answered: errors, later fragments, packets to many or from nobody, and another family than `from`'s.
///
/// A packet of IPv4 that may be fragmented is answered, too: we do not cut, and its sender can.
#[must_use]
pub fn answer(packet: &[u8], mtu: usize, from: IpAddr) -> Option<Vec<u8>> {
    let view = IpPacket::parse(packet).ok()?;
    let v6 = from.is_ipv6();
    let many = match view.dst() {
        IpAddr::V4(dst) => dst.is_multicast() || dst.is_broadcast(),
        IpAddr::V6(dst) => dst.is_multicast(),
    };
    let nobody = view.src().is_unspecified() || view.src().is_multicast();
    let silent = matches!(view.transport(), Transport::IcmpError { .. } | Transport::LaterFragment);
    if many || nobody || silent || view.src().is_ipv6() != v6 {
        return None;
    }
    let (kind, code, headers, most) = if v6 {
        (2, 0, 48, SMALLEST_V6)
    } else {
        (3, 4, 28, SMALLEST_V4)
    };
    let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
    let mut message = vec![kind, code, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend(&packet[..packet.len().min(view.total_len()).min(most - headers)]);
    let sum = if v6 {
        Checksum::default().with_pseudo_header(from, view.src(), ICMPV6, message.len())
    } else {
        Checksum::default()
    };
    let sum = sum.with(&message).finish();
    set(&mut message, 2, sum);
    encode_ip(from, view.src(), if v6 { ICMPV6 } else { ICMP }, &message)
}

/// Lowers the MSS option of a TCP packet with SYN, so that segments fit into `mtu`; true when something was changed. The
/// checksum stays as right or wrong as it was.
pub fn clamp_mss(packet: &mut [u8], mtu: usize) -> bool {
    let Ok(view) = IpPacket::parse(packet) else {
        return false;
    };
    if view.protocol() != TCP || view.transport() == Transport::LaterFragment {
        return false;
    }
    let headers = if view.src().is_ipv6() { 60 } else { 40 };
    let at = view.total_len() - view.payload().len();
    let most = u16::try_from(mtu.saturating_sub(headers)).unwrap_or(u16::MAX);
    let Some(tcp) = packet.get_mut(at..) else { return false };
    let end = usize::from(tcp[12] >> 4) * 4;
    if tcp[13] & SYN == 0 || end > tcp.len() {
        return false;
    }
    let mut option = 20;
    while option + 1 < end {
        match [tcp[option], tcp[option + 1]] {
            [0, _] => return false,
            [1, _] => option += 1,
            MSS if option + 4 <= end => {
                let old = word(tcp, option + 2);
                if old <= most {
                    return false;
                }
                set(tcp, option + 2, most);
                // An option may begin at an odd place; the checksum's words then lie across it.
                let (old, new) = if option % 2 == 0 {
                    (old, most)
                } else {
                    (old.swap_bytes(), most.swap_bytes())
                };
                let sum = updated(word(tcp, TCP_CHECKSUM), old, new);
                set(tcp, TCP_CHECKSUM, sum);
                return true;
            }
            // A length below 2 would never end.
            [_, len] if len >= 2 => option += usize::from(len),
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::reference::{Sample, is_whole, samples};

    fn own(v6: bool) -> IpAddr {
        if v6 { "fd7a::9" } else { "100.64.9.9" }.parse().unwrap()
    }

    #[test]
    fn both_families_are_told_the_size() {
        for (v6, most) in [(false, 576), (true, 1280)] {
            let packet = Sample::plain(v6, true, vec![1; 1400]).build();
            let told = answer(&packet, 1280, own(v6)).unwrap();
            assert_eq!(told.len(), most);
            let view = IpPacket::parse(&told).unwrap();
            let sent = IpPacket::parse(&packet).unwrap();
            assert_eq!((view.src(), view.dst()), (own(v6), sent.src()));
            let Transport::IcmpError { quoted } = view.transport() else {
                panic!("{view:?}")
            };
            assert!(packet.starts_with(quoted));
            let message = view.payload();
            assert_eq!(message[..2], if v6 { [2, 0] } else { [3, 4] });
            assert_eq!(message[4..8], [0, 0, 5, 0]);
            let pseudo = Checksum::default().with_pseudo_header(view.src(), view.dst(), 58, message.len());
            let sum = if v6 { pseudo } else { Checksum::default() };
            assert_eq!(sum.with(message).finish(), 0);
            assert_eq!(answer(&told, 600, own(v6)), None, "an error is not answered");
            assert_eq!(answer(&packet, 600, own(!v6)), None);
        }
    }

    #[test]
    fn what_must_not_be_answered_is_not() {
        let packet = Sample::plain(false, false, vec![1; 1400]).build();
        assert!(answer(&packet, 1280, own(false)).is_some());
        let with = |at: usize, bytes: &[u8]| {
            let mut packet = packet.clone();
            packet[at..at + bytes.len()].copy_from_slice(bytes);
            packet
        };
        for bad in [
            with(16, &[224, 0, 0, 1]),
            with(16, &[255; 4]),
            with(12, &[0; 4]),
            with(6, &[0, 100]),
            with(2, &[9, 9]),
        ] {
            assert_eq!(answer(&bad, 1280, own(false)), None);
        }
    }

    #[test]
    fn only_a_larger_mss_of_a_syn_is_clamped() {
        for v6 in [false, true] {
            let headers = if v6 { 60 } else { 40 };
            for (flags, options, expected) in [
                (0x02, vec![2, 4, 5, 180], Some(vec![2, 4])),
                (0x12, vec![1, 1, 1, 2, 4, 5, 180, 0], Some(vec![1, 1, 1, 2, 4])),
                (0x02, vec![3, 3, 7, 2, 4, 5, 180, 0], Some(vec![3, 3, 7, 2, 4])),
                (0x02, vec![2, 4, 1, 0], None),
                (0x10, vec![2, 4, 5, 180], None),
                (0x02, vec![0, 2, 4, 5], None),
                (0x02, vec![9, 0, 2, 4], None),
                (0x02, vec![1, 1, 2, 4], None),
            ] {
                let mut sample = Sample::plain(v6, true, Vec::new());
                (sample.flags, sample.tcp_options) = (flags, options);
                let mut packet = sample.build();
                let before = packet.clone();
                assert_eq!(clamp_mss(&mut packet, 1280), expected.is_some(), "{sample:?}");
                if let Some(start) = expected {
                    let at = start.len();
                    let mss = 1280 - headers as u16;
                    sample.tcp_options[at..at + 2].copy_from_slice(&mss.to_be_bytes());
                    assert!(packet == sample.build());
                    assert!(!clamp_mss(&mut packet, 1280));
                } else {
                    assert!(packet == before);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_shape_keeps_its_checksum_and_never_panics(
            sample in samples(300), at in 0_usize..80, to: u8, mtu in 0_usize..70_000, change: bool,
        ) {
            let mut packet = sample.build();
            if change && at < packet.len() {
                packet[at] = to;
            }
            let _ = answer(&packet, mtu, own(sample.v6));
            clamp_mss(&mut packet, mtu);
            prop_assert!(change || is_whole(&packet, sample.headers().0, sample.tcp));
        }
    }
}
