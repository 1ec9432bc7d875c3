//! The steady state: two engines, one stream of super-packets, and nothing is allocated for it.

use super::*;
use crate::packet::join::Joiner;
use crate::packet::vnet::{GSO_TCPV4, NEEDS_CSUM};

const SEGMENT: usize = 1_240;
const SEGMENTS: usize = 45;
const HEADERS: usize = 40;

/// A device that joins what it gets and forgets it.
struct Sink {
    joiner: Joiner,
    bytes: usize,
    packets: usize,
}

impl Overlay for Sink {
    fn deliver(&mut self, packet: &mut [u8]) {
        let Self { joiner, bytes, packets } = self;
        *packets += 1;
        joiner.push(packet, &mut |joined| *bytes += joined.len());
    }
}

/// A super-packet of TCP as a kernel device gives it: partial checksum, to be cut into 45 segments.
fn super_packet(from: IpAddr, to: IpAddr) -> (VnetHeader, Vec<u8>) {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (from, to) else {
        panic!("the hosts of this world have IPv4 addresses")
    };
    let mut packet = vec![0u8; HEADERS + SEGMENT * SEGMENTS];
    let total = u16::try_from(packet.len()).unwrap();
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[6] = 0x40;
    packet[8] = 64;
    packet[9] = 6;
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    packet[20..24].copy_from_slice(&[0xc0, 0x00, 0x13, 0x89]);
    packet[32] = 5 << 4;
    packet[33] = 0x10;
    packet[34] = 0xff;
    let header = VnetHeader {
        flags: NEEDS_CSUM,
        gso_type: GSO_TCPV4,
        hdr_len: 40,
        gso_size: u16::try_from(SEGMENT).unwrap(),
        csum_start: 20,
        csum_offset: 16,
    };
    (header, packet)
}

/// Carries one super-packet from the first host to the second, as their drivers would.
fn carry(hosts: &mut [Host], header: &VnetHeader, packet: &[u8], wire: &mut [u8], sink: &mut Sink, now: Instant) {
    let [sender, receiver] = hosts else { panic!("two hosts") };
    sender.engine.handle_overlay(header, packet, now);
    while let Some(batch) = sender.engine.queue().front() {
        let (stride, len) = (batch.stride(), batch.contents().len());
        wire[..len].copy_from_slice(batch.contents());
        sender.engine.queue().pop();
        receiver
            .engine
            .handle_udp(sender.addr, 0, &mut wire[..len], stride, now, sink);
    }
    sink.joiner.flush(&mut |joined| sink.bytes += joined.len());
}

#[test]
fn a_stream_allocates_nothing() {
    let mut world = World::new(2);
    world.meet();
    world.ping(0, 1);
    world.pass(Duration::from_secs(3));
    let ips = [0, 1].map(|at: usize| world.hosts[at].node.addresses[0].addr());
    let (header, packet) = super_packet(ips[0], ips[1]);
    let mut wire = vec![0u8; 65_536];
    let mut sink = Sink {
        joiner: Joiner::new(),
        bytes: 0,
        packets: 0,
    };
    let now = world.now;
    for _ in 0..10 {
        carry(&mut world.hosts, &header, &packet, &mut wire, &mut sink, now);
    }
    let (warm_bytes, warm_packets) = (sink.bytes, sink.packets);
    assert_eq!(warm_packets, 10 * SEGMENTS, "every segment arrives");
    let rounds = 2_300;
    let counted = allocation_counter::measure(|| {
        for _ in 0..rounds {
            carry(&mut world.hosts, &header, &packet, &mut wire, &mut sink, now);
        }
    });
    assert_eq!(sink.packets - warm_packets, rounds * SEGMENTS);
    assert!(sink.bytes - warm_bytes >= rounds * packet.len());
    assert_eq!(counted.count_total, 0, "{counted:?} for {} packets", rounds * SEGMENTS);
}
