//! Nothing that arrives makes the stack panic, and what it should not see it does not see.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpProtocol, IpRepr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber};

use super::super::{Stack, StackConfig};
use super::link::{v4, v6};
use crate::packet::PacketBuf;

const PORT: u16 = 80;

fn stack(now: Instant) -> Stack {
    let mut stack = Stack::new(StackConfig::new(1280), now);
    stack.set_addresses(&[v4(2), v6(2)]);
    stack.tcp_listen(PORT, 8).unwrap();
    stack.udp_bind(PORT).unwrap();
    stack
}

fn drain(stack: &mut Stack, now: Instant) -> Vec<PacketBuf> {
    stack.poll(now);
    std::iter::from_fn(|| stack.poll_transmit()).collect()
}

fn one(packet: PacketBuf) -> Vec<PacketBuf> {
    vec![packet]
}

fn ip(protocol: IpProtocol, source: IpAddr, destination: IpAddr, body: &[u8]) -> PacketBuf {
    let ip = IpRepr::new(source.into(), destination.into(), protocol, body.len(), 64);
    let mut packet = PacketBuf::zeroed(ip.buffer_len());
    ip.emit(&mut packet[..], &ChecksumCapabilities::default());
    packet[ip.header_len()..].copy_from_slice(body);
    packet
}

fn segment(source: IpAddr, destination: IpAddr, repr: &TcpRepr<'_>) -> PacketBuf {
    let mut body = vec![0; repr.buffer_len()];
    let checksums = ChecksumCapabilities::default();
    repr.emit(
        &mut TcpPacket::new_unchecked(&mut body),
        &source.into(),
        &destination.into(),
        &checksums,
    );
    ip(IpProtocol::Tcp, source, destination, &body)
}

fn syn(source: IpAddr, port: u16) -> TcpRepr<'static> {
    let _ = source;
    TcpRepr {
        src_port: port,
        dst_port: PORT,
        control: TcpControl::Syn,
        seq_number: TcpSeqNumber(1000),
        ack_number: None,
        window_len: 65_535,
        window_scale: Some(7),
        max_seg_size: Some(1240),
        sack_permitted: true,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
        payload_rest: &[],
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn arbitrary_bytes_never_panic(packets in vec(vec(any::<u8>(), 0..200), 0..8)) {
        let now = Instant::now();
        let mut stack = stack(now);
        stack.handle_packets(packets.iter().map(|bytes| PacketBuf::copied_from(bytes)), now);
        drain(&mut stack, now);
    }

    #[test]
    fn arbitrary_bodies_to_us_never_panic(
        over_v6: bool, protocol: u8, body in vec(any::<u8>(), 0..120), flips in vec((any::<u16>(), any::<u8>()), 0..4),
    ) {
        let now = Instant::now();
        let mut stack = stack(now);
        let (source, destination) = if over_v6 { (v6(1), v6(2)) } else { (v4(1), v4(2)) };
        let mut packet = ip(protocol.into(), source, destination, &body);
        for (at, bits) in flips {
            let at = usize::from(at) % packet.len();
            packet[at] ^= bits;
        }
        stack.handle_packets(one(packet), now);
        drain(&mut stack, now);
    }

    /// A conversation with a peer that keeps to no rule but the checksum.
    #[test]
    fn hostile_segments_never_panic(
        over_v6: bool,
        script in vec((any::<u8>(), -3_i64..3, any::<u32>(), any::<u16>(), 0_usize..3, 0_u64..3000), 1..40),
    ) {
        let start = Instant::now();
        let mut now = start;
        let mut stack = stack(now);
        let (source, destination) = if over_v6 { (v6(1), v6(2)) } else { (v4(1), v4(2)) };
        stack.handle_packets(one(segment(source, destination, &syn(source, 5000))), now);
        let mut theirs = 0_u32;
        let mut accepted = None;
        let payload = vec![1; 1200];
        for (flags, near, far, window, len, wait) in script {
            for packet in drain(&mut stack, now) {
                let header = if over_v6 { 40 } else { 20 };
                if packet.len() >= header + 20 {
                    theirs = u32::from_be_bytes(packet[header + 4..header + 8].try_into().unwrap());
                }
            }
            let listener = stack.listening.values().next().copied().unwrap();
            if let std::task::Poll::Ready(Some(id)) = stack.poll_accept(listener, &super::link::noop()) {
                accepted = Some(id);
            }
            if let Some(id) = accepted {
                let _ = stack.poll_write(id, &super::link::noop(), &payload);
                if flags & 0x40 != 0 {
                    let mut buffer = [0; 5000];
                    let _ = stack.poll_read(id, &super::link::noop(), &mut buffer);
                }
                if flags & 0x80 != 0 && len == 0 {
                    stack.tcp_shutdown(id);
                }
            }
            // Near the truth, or anywhere.
            let distance = |choice: u8| if flags & choice != 0 { far as i64 } else { near };
            let mut repr = syn(source, 5000);
            repr.control = match flags & 0x07 {
                0 => TcpControl::Syn,
                1 => TcpControl::Fin,
                2 if near == 1 => TcpControl::Rst,
                3 => TcpControl::Psh,
                _ => TcpControl::None,
            };
            if repr.control != TcpControl::Syn {
                repr.window_scale = None;
                repr.max_seg_size = None;
                repr.sack_permitted = false;
            }
            repr.seq_number = TcpSeqNumber((1001_i64 + distance(0x08)) as i32);
            repr.ack_number =
                (flags & 0x10 == 0).then_some(TcpSeqNumber((i64::from(theirs) + 1 + distance(0x20)) as i32));
            repr.window_len = window;
            // Of what was sent, of what never was, upside down, and in pieces.
            let behind = |octets: u32| theirs.wrapping_add(octets);
            repr.sack_ranges = [
                Some((behind(far & 0x7ff), behind((far >> 8) & 0x7ff))),
                (near > 0).then_some((behind(far & 0xff), behind((far & 0xff) + 1))),
                (near < 0).then_some((far, far.wrapping_mul(31))),
            ];
            repr.payload = &payload[..len * 600];
            stack.handle_packets(one(segment(source, destination, &repr)), now);
            now += Duration::from_millis(wait);
        }
        drain(&mut stack, now);
        drain(&mut stack, now + Duration::from_secs(1000));
    }
}

/// The window field of a SYN cannot be scaled, so smoltcp takes it for a larger one than it is.
#[test]
fn bytes_far_into_the_first_window_do_not_overrun_the_buffer() {
    let now = Instant::now();
    let mut stack = stack(now);
    let (source, destination) = (v4(1), v4(2));
    stack.handle_packets(one(segment(source, destination, &syn(source, 5000))), now);
    let answer = drain(&mut stack, now).remove(0);
    let theirs = i32::from_be_bytes(answer[24..28].try_into().unwrap());
    let payload = [1; 1200];
    for offset in (0..600_000).step_by(1200).rev() {
        let mut repr = syn(source, 5000);
        repr.control = TcpControl::None;
        (repr.window_scale, repr.max_seg_size, repr.sack_permitted) = (None, None, false);
        repr.seq_number = TcpSeqNumber(1001 + offset);
        repr.ack_number = Some(TcpSeqNumber(theirs.wrapping_add(1)));
        repr.payload = &payload;
        stack.handle_packets(one(segment(source, destination, &repr)), now);
    }
    drain(&mut stack, now);
}

#[test]
fn a_syn_flood_is_bounded_and_passes() {
    let start = Instant::now();
    let mut stack = stack(start);
    for port in 1..5000 {
        stack.handle_packets(one(segment(v4(1), v4(2), &syn(v4(1), port))), start);
        drain(&mut stack, start);
    }
    // Half of the backlog for one peer; another one still finds room.
    assert_eq!(stack.connection_count(), 4);
    stack.handle_packets(one(segment(v4(1), v4(2), &syn(v4(1), 6000))), start);
    assert_eq!(drain(&mut stack, start).len(), 0);
    stack.handle_packets(one(segment(v4(3), v4(2), &syn(v4(3), 6000))), start);
    assert_eq!(drain(&mut stack, start).len(), 1);
    let mut now = start;
    while let Some(next) = stack.poll_timeout() {
        now = now.max(next);
        drain(&mut stack, now);
        assert!(now - start < Duration::from_secs(60));
    }
    assert_eq!(stack.connection_count(), 0);
}

#[test]
fn what_is_not_for_us_or_from_nobody_gets_no_answer() {
    let now = Instant::now();
    let mut stack = stack(now);
    let any: IpAddr = [0, 0, 0, 0].into();
    let pairs = [
        (v4(1), v4(3)),
        (v4(1), [127, 0, 0, 1].into()),
        (v4(1), [224, 0, 0, 1].into()),
        (v4(1), [255, 255, 255, 255].into()),
        (v4(2), v4(2)),
        ([127, 0, 0, 1].into(), v4(2)),
        ([224, 0, 0, 1].into(), v4(2)),
        (any, v4(2)),
        (v6(2), v6(2)),
        ("::1".parse().unwrap(), v6(2)),
        ("::ffff:1.2.3.4".parse().unwrap(), v6(2)),
        (v6(1), "ff02::1".parse().unwrap()),
    ];
    for (source, destination) in pairs {
        stack.handle_packets(one(segment(source, destination, &syn(source, 5000))), now);
        assert!(drain(&mut stack, now).is_empty(), "{source} -> {destination}");
    }
    let metrics = stack.metrics();
    assert_eq!(metrics.dropped_foreign + metrics.dropped_source, pairs.len() as u64);
}

#[test]
fn fragments_and_extension_headers_are_dropped() {
    let now = Instant::now();
    let mut stack = stack(now);
    let mut fragment = segment(v4(1), v4(2), &syn(v4(1), 5000));
    fragment[6] = 0x20;
    let mut header = [0; 20];
    header.copy_from_slice(&fragment[..20]);
    smoltcp::wire::Ipv4Packet::new_unchecked(&mut header).fill_checksum();
    fragment[..20].copy_from_slice(&header);
    let hop_by_hop = ip(IpProtocol::HopByHop, v6(1), v6(2), &[6, 0, 1, 4, 0, 0, 0, 0]);
    let cut = PacketBuf::copied_from(&segment(v4(1), v4(2), &syn(v4(1), 5000))[..30]);
    let batch = [fragment, hop_by_hop, cut, PacketBuf::zeroed(0)];
    stack.handle_packets(batch, now);
    assert!(drain(&mut stack, now).is_empty());
    assert_eq!(stack.metrics().dropped_malformed, 4);
}

#[test]
fn padding_behind_a_packet_is_ignored() {
    let now = Instant::now();
    let mut stack = stack(now);
    let inner = segment(v4(1), v4(2), &syn(v4(1), 5000));
    let mut padded = PacketBuf::zeroed(inner.len() + 12);
    padded[..inner.len()].copy_from_slice(&inner);
    stack.handle_packets(one(padded), now);
    assert_eq!(drain(&mut stack, now).len(), 1);
}
