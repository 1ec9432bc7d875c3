//! The joiner against the slow reference, and against splitting.

use proptest::prelude::*;

use super::*;
use crate::packet::reference::{self, Sample, samples};
use crate::packet::split::Splitter;

fn joined(packets: &[Vec<u8>], udp: bool) -> Vec<Vec<u8>> {
    let mut joiner = Joiner::new();
    joiner.set_udp(udp);
    let mut out = Vec::new();
    let mut sink = |bytes: &mut [u8]| out.push(bytes.to_vec());
    for packet in packets {
        joiner.push(packet, &mut sink);
    }
    joiner.flush(&mut sink);
    joiner.flush(&mut |_: &mut [u8]| panic!("everything was flushed"));
    out
}

fn split(bytes: &[u8]) -> Vec<Vec<u8>> {
    let vnet = VnetHeader::parse(bytes).unwrap();
    let splitter = Splitter::new(&vnet, &bytes[VNET..]).unwrap();
    splitter.segments().map(|segment| segment.to_vec()).collect()
}

/// What happens to the next packet of a flow.
#[derive(Debug, Clone)]
enum Step {
    Full,
    Short(u8),
    Long,
    Push,
    Flags(u8),
    Empty,
    Field(u8),
    Gap,
    Broken(proptest::sample::Index),
    Changed(proptest::sample::Index, u8),
    Cut(proptest::sample::Index),
    Other(Vec<u8>),
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        30 => Just(Step::Full),
        2 => any::<u8>().prop_map(Step::Short),
        1 => Just(Step::Long),
        2 => Just(Step::Push),
        1 => any::<u8>().prop_map(Step::Flags),
        1 => Just(Step::Empty),
        2 => any::<u8>().prop_map(Step::Field),
        1 => Just(Step::Gap),
        1 => any::<proptest::sample::Index>().prop_map(Step::Broken),
        1 => (any::<proptest::sample::Index>(), any::<u8>()).prop_map(|(at, to)| Step::Changed(at, to)),
        1 => any::<proptest::sample::Index>().prop_map(Step::Cut),
        1 => proptest::collection::vec(any::<u8>(), 0..80).prop_map(Step::Other),
    ]
}

/// Plays the steps of up to 12 flows of all kinds.
fn play(size: usize, story: Vec<(u8, Step)>) -> Vec<Vec<u8>> {
    let mut flows: Vec<Sample> = (0..12_u8)
        .map(|flow| Sample {
            flow,
            ..Sample::plain(flow % 2 == 0, flow % 3 != 0, Vec::new())
        })
        .collect();
    let mut packets = Vec::new();
    for (number, (flow, step)) in story.into_iter().enumerate() {
        let sample = &mut flows[usize::from(flow) % 12];
        sample.flags = 0x10;
        let mut len = size;
        match &step {
            Step::Short(by) => len -= usize::from(*by) % size,
            Step::Long => len += 1,
            Step::Push => sample.flags = 0x18,
            Step::Flags(flags) => sample.flags = *flags,
            Step::Empty => len = 0,
            Step::Gap => sample.sequence = sample.sequence.wrapping_add(1),
            Step::Field(which) => match which % 6 {
                0 => sample.tos ^= 3,
                1 => sample.ttl ^= 1,
                2 => sample.window ^= 0x0100,
                3 => sample.ack = sample.ack.wrapping_add(1),
                4 => sample.dont_fragment ^= true,
                _ if sample.tcp => sample.tcp_options[5] ^= 1,
                _ => {}
            },
            Step::Full | Step::Broken(_) | Step::Changed(..) | Step::Cut(_) | Step::Other(_) => {}
        }
        sample.payload = (0..len).map(|at| (at * number) as u8).collect();
        let mut packet = sample.build();
        sample.id = sample.id.wrapping_add(1);
        sample.sequence = sample.sequence.wrapping_add(len as u32);
        match step {
            Step::Broken(at) => *at.get_mut(&mut packet) ^= 0x40,
            Step::Changed(at, to) => {
                let at = at.index(60.min(packet.len()));
                packet[at] = to;
            }
            Step::Cut(at) => packet.truncate(at.index(packet.len())),
            Step::Other(bytes) => packet = bytes,
            Step::Full | Step::Short(_) | Step::Long | Step::Push => {}
            Step::Flags(_) | Step::Empty | Step::Field(_) | Step::Gap => {}
        }
        packets.push(packet);
    }
    packets
}

/// Flow by flow. IPv4 identifications are left out: splitting numbers them anew.
fn by_flow(mut packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    for packet in &mut packets {
        if packet.len() >= 24 && packet[0] >> 4 == 4 {
            for at in [4, 5, 10, 11] {
                packet[at] = 0;
            }
        }
    }
    packets.sort_by_key(|packet| match packet.first().map(|first| first >> 4) {
        Some(4) if packet.len() >= 24 => [&[4, packet[9]], &packet[12..24]].concat(),
        Some(6) if packet.len() >= 44 => [&[6, packet[6]], &packet[8..44]].concat(),
        _ => packet.clone(),
    });
    packets
}

proptest! {
    #[test]
    fn any_story_equals_the_reference_and_splits_to_the_same_packets(
        size in 1_usize..200, udp: bool, flows in 1_u8..=12,
        story in proptest::collection::vec((any::<u8>(), steps()), 0..200),
    ) {
        let story = story.into_iter().map(|(flow, step)| (flow % flows, step)).collect();
        let packets = play(size, story);
        let out = joined(&packets, udp);
        prop_assert!(out == reference::join(&packets, udp));
        let again: Vec<_> = out.iter().flat_map(|bytes| split(bytes)).collect();
        prop_assert!(by_flow(again) == by_flow(packets), "the same packets, each once, in order within each flow");
    }

    #[test]
    fn splitting_and_joining_gives_the_super_packet_back(
        sample in samples(65_535), size in 1_u16..=9000, flags: bool,
    ) {
        let size = usize::from(size).max(sample.payload.len() / 64 + 1);
        let mut sample = sample;
        sample.ip_options.clear();
        if flags {
            sample.flags = 0x10 | sample.flags & 8;
        }
        let packet = sample.build();
        let vnet = sample.vnet(size as u16, false);
        let whole = [vnet.encode().to_vec(), packet].concat();
        let segments = split(&whole);
        let out = joined(&segments, true);
        let again: Vec<_> = out.iter().flat_map(|bytes| split(bytes)).collect();
        prop_assert!(again == segments);
        if flags && segments.len() > 1 {
            // Only the checksum is now the partial one.
            prop_assert_eq!(out.len(), 1);
            let at = VNET + usize::from(vnet.csum_start + vnet.csum_offset);
            let mut joined = out[0].clone();
            joined[at..at + 2].copy_from_slice(&whole[at..at + 2]);
            prop_assert!(joined == whole);
        }
    }

    #[test]
    fn any_bytes_never_panic_and_pass_unchanged(packets in proptest::collection::vec(
        proptest::collection::vec(any::<u8>(), 0..100), 0..20,
    )) {
        let out: Vec<_> = joined(&packets, true).into_iter().map(|bytes| bytes[VNET..].to_vec()).collect();
        prop_assert_eq!(out, packets);
    }
}

#[test]
fn a_stream_fills_super_packets() {
    let mut sample = Sample::plain(false, true, vec![5; 1368]);
    let packets: Vec<_> = (0..45)
        .map(|_| {
            let packet = sample.build();
            sample.id = sample.id.wrapping_add(1);
            sample.sequence = sample.sequence.wrapping_add(1368);
            packet
        })
        .collect();
    let out = joined(&packets, false);
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].len(), VNET + 52 + 45 * 1368);
    assert_eq!(split(&out[0]), packets);
    let mut singly = Joiner::new();
    singly.set_tcp(false);
    let mut count = 0;
    for packet in &packets {
        singly.push(packet, &mut |bytes: &mut [u8]| {
            count += 1;
            assert_eq!(bytes[VNET..], packet[..]);
        });
    }
    assert_eq!(count, 45);
}

#[test]
fn small_packets_stop_at_64_and_large_ones_at_the_longest() {
    let same = |len: usize, count: usize| vec![Sample::plain(true, false, vec![1; len]).build(); count];
    let lens = |out: &[Vec<u8>]| out.iter().map(|bytes| bytes.len() - VNET).collect::<Vec<_>>();
    assert_eq!(lens(&joined(&same(10, 130), true)), [48 + 640, 48 + 640, 48 + 20]);
    assert_eq!(lens(&joined(&same(30_000, 3), true)), [48 + 60_000, 48 + 30_000]);
    assert_eq!(lens(&joined(&same(10, 3), false)), [58; 3]);
}

#[test]
fn what_is_longer_than_any_packet_is_dropped() {
    assert!(joined(&[vec![0; MAX_PACKET + 1]], true).is_empty());
    assert_eq!(joined(&[vec![0; MAX_PACKET]], true).len(), 1);
}
