//! Packets that are larger than the direct path to their peer carries.

use super::*;
use crate::packet::ip::Transport;
use crate::packet::reference::Sample;

#[test]
fn the_sender_is_told_in_the_name_of_the_destination() {
    let mut world = World::new(2);
    world.meet();
    let ips = [0, 1].map(|at: usize| world.hosts[at].node.addresses[0].addr());
    let packet = encode_echo_request(ips[0], ips[1], 77, 1, &[7; 1_300]).unwrap();
    assert!(world.ping(0, 1).is_some());
    assert!(matches!(
        world.hosts[0].engine.peer_status(world.now)[0].path,
        PeerPath::Direct(_)
    ));
    let now = world.now;
    world.hosts[0]
        .engine
        .handle_overlay(&VnetHeader::default(), &packet, now);
    world.settle();
    let told = world.hosts[0].delivered.pop().expect("an answer");
    let view = IpPacket::parse(&told).unwrap();
    assert_eq!((view.src(), view.dst()), (ips[1], ips[0]));
    let Transport::IcmpError { quoted } = view.transport() else {
        panic!("{view:?}")
    };
    assert!(packet.starts_with(quoted));
    assert_eq!(view.payload()[6..8], 1_280_u16.to_be_bytes());
    assert_eq!(world.hosts[0].engine.counters().dropped_too_big, 1);
    assert!(world.hosts[1].delivered.is_empty());
}

#[test]
fn a_super_packet_is_judged_by_its_segments() {
    let mut world = World::new(2);
    world.meet();
    assert!(world.ping(0, 1).is_some());
    let mut sample = Sample::plain(false, true, vec![1; 6_000]);
    sample.tcp_options.clear();
    let mut packet = sample.build();
    // From the first host to the second.
    packet[12..20].copy_from_slice(&[100, 64, 0, 1, 100, 64, 0, 2]);
    let now = world.now;
    for (size, delivered, dropped) in [(1_240, 5, 0), (1_241, 0, 5)] {
        let header = sample.vnet(size, false);
        world.hosts[0].engine.handle_overlay(&header, &packet, now);
        world.settle();
        assert_eq!(world.hosts[1].delivered.len(), delivered);
        world.hosts[1].delivered.clear();
        assert_eq!(world.hosts[0].engine.counters().dropped_too_big, dropped);
    }
}
