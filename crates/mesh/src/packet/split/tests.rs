//! The splitter against the slow reference, and what it refuses.

use proptest::prelude::*;

use super::*;
use crate::packet::reference::{Sample, is_whole, samples, split};
use crate::packet::vnet::NEEDS_CSUM;

fn all(vnet: &VnetHeader, packet: &[u8]) -> Vec<Vec<u8>> {
    let splitter = Splitter::new(vnet, packet).unwrap();
    (0..splitter.count())
        .map(|index| {
            let mut out = vec![0xee; splitter.len_of(index)];
            splitter.write(index, &mut out);
            out
        })
        .collect()
}

proptest! {
    #[test]
    fn every_shape_and_size_equals_the_reference(
        sample in samples(4_000), size in 1_u16..1500, ecn: bool, hint: u16, garbage: [u8; 2],
    ) {
        let mut packet = sample.build();
        let vnet = VnetHeader { hdr_len: hint, ..sample.vnet(size, ecn && sample.tcp) };
        let expected = split(&vnet, &packet);
        // The checksum that the device left there is of no account.
        let (transport, _) = sample.headers();
        let at = transport + usize::from(vnet.csum_offset);
        packet[at..at + 2].copy_from_slice(&garbage);
        let segments = all(&vnet, &packet);
        prop_assert!(segments == expected);
        for segment in &segments {
            prop_assert!(is_whole(segment, transport, sample.tcp));
            prop_assert!(IpPacket::parse(segment).is_ok());
        }
    }

    #[test]
    fn large_ones_equal_the_reference(sample in samples(65_535), size in 500_u16..9000) {
        let packet = sample.build();
        let vnet = sample.vnet(size, false);
        prop_assert!(all(&vnet, &packet) == split(&vnet, &packet));
    }

    #[test]
    fn a_single_packet_gets_its_checksum(sample in samples(2_000), garbage: [u8; 2], zero: bool) {
        let packet = sample.build();
        let (transport, _) = sample.headers();
        let vnet = VnetHeader { gso_type: GSO_NONE, gso_size: 0, ..sample.vnet(0, false) };
        let mut unfinished = packet.clone();
        let at = transport + usize::from(vnet.csum_offset);
        unfinished[at..at + 2].copy_from_slice(&if zero { [0, 0] } else { garbage });
        prop_assert!(all(&vnet, &unfinished) == [packet]);
    }

    #[test]
    fn any_bytes_never_panic(
        sample in samples(300), changes in proptest::collection::vec((0_usize..120, any::<u8>()), 0..6),
        cut in 0_usize..400, vnet: [u8; VnetHeader::LEN], plain: bool, size: u16,
    ) {
        let mut packet = sample.build();
        for (at, to) in changes {
            if let Some(byte) = packet.get_mut(at) {
                *byte = to;
            }
        }
        packet.truncate(packet.len().saturating_sub(cut.saturating_sub(100)));
        let vnet = if plain { sample.vnet(size, false) } else { VnetHeader::parse(&vnet).unwrap() };
        if let Ok(splitter) = Splitter::new(&vnet, &packet) {
            let mut payload = 0;
            for index in 0..splitter.count() {
                let mut out = vec![0; splitter.len_of(index)];
                splitter.write(index, &mut out);
                payload += out.len();
            }
            prop_assert!(payload >= packet.len().min(20) || packet.is_empty());
            prop_assert_eq!(splitter.len_of(splitter.count()), 0);
        }
    }
}

#[test]
fn without_a_wish_the_packet_stays_as_it_is() {
    for bytes in [&b""[..], b"x", b"not a packet at all"] {
        assert_eq!(all(&VnetHeader::default(), bytes), [bytes]);
    }
}

#[test]
fn what_is_behind_the_packet_is_left_out() {
    let sample = Sample::plain(false, true, vec![7; 3000]);
    let packet = sample.build();
    let longer = [packet.clone(), vec![9; 40]].concat();
    let vnet = sample.vnet(1000, false);
    assert_eq!(all(&vnet, &longer), all(&vnet, &packet));
}

#[test]
fn kinds_that_do_not_fit_are_refused() {
    let error = |vnet: VnetHeader, packet: &[u8]| Splitter::new(&vnet, packet).unwrap_err();
    let tcp = Sample::plain(false, true, vec![7; 3000]);
    let packet = tcp.build();
    let good = tcp.vnet(1000, false);
    for kind in [GSO_TCPV6, GSO_UDP_L4, 3, 2, 99] {
        let vnet = VnetHeader { gso_type: kind, ..good };
        assert_eq!(error(vnet, &packet), SplitError::Kind(kind));
    }
    assert_eq!(
        error(VnetHeader { gso_size: 0, ..good }, &packet),
        SplitError::SegmentSize
    );
    assert_eq!(
        error(VnetHeader { csum_start: 24, ..good }, &packet),
        SplitError::ChecksumPlace
    );
    assert_eq!(error(good, &packet[..2000]), SplitError::Malformed(MalformedPacket));
    let mut fragment = packet.clone();
    fragment[6] |= 0x20;
    assert_eq!(error(good, &fragment), SplitError::Kind(GSO_TCPV4));
    let far = VnetHeader {
        gso_type: GSO_NONE,
        csum_start: 3030,
        csum_offset: 40,
        ..good
    };
    assert_eq!(error(far, &packet), SplitError::ChecksumPlace);
}

#[test]
fn another_checksum_is_finished_where_it_is() {
    // GRE with a checksum over itself, without pseudo header.
    let mut packet = vec![0x45, 0, 0, 33, 0, 0, 0, 0, 64, 47, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    packet.extend([0x80, 0, 8, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5]);
    let vnet = VnetHeader {
        flags: NEEDS_CSUM,
        csum_start: 20,
        csum_offset: 4,
        ..VnetHeader::default()
    };
    let out = all(&vnet, &packet);
    assert_eq!(crate::packet::reference::slow_sum(&out[0][20..]), 0xffff);
    assert_eq!(out[0][..24], packet[..24]);
}

#[test]
fn extension_headers_are_stepped_over_but_not_routing() {
    let sample = Sample::plain(true, true, vec![3; 2000]);
    let with = |kind: u8| {
        let mut packet = sample.build();
        packet.splice(40..40, [6, 0, 1, 4, 0, 0, 0, 0]);
        packet[6] = kind;
        let len = u16::try_from(packet.len() - 40).unwrap();
        packet[4..6].copy_from_slice(&len.to_be_bytes());
        packet
    };
    let vnet = VnetHeader {
        csum_start: 48,
        ..sample.vnet(900, false)
    };
    for kind in [0, 60] {
        let segments = all(&vnet, &with(kind));
        assert_eq!(segments.len(), 3);
        for segment in segments {
            let mut without = segment.clone();
            without.drain(40..48);
            without[6] = 6;
            assert!(is_whole(&without, 40, true));
        }
    }
    assert_eq!(
        Splitter::new(&vnet, &with(43)).unwrap_err(),
        SplitError::Kind(GSO_TCPV6)
    );
}
