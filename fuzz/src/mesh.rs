//! Surfaces of `sandd-mesh`: datagrams, relay frames, overlay packets.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use sandd_control_client::keys::{DiscoPrivateKey, DiscoPublicKey, NodePrivateKey, NodePublicKey};
use sandd_control_client::netmap::{FilterDst, FilterRule, FilterSrc, IpRange};
use sandd_mesh::derp::{ClientInfo, Frame, FrameDecoder, ServerInfo, ServerLogin};
use sandd_mesh::disco::{self, DiscoBox, GeneveHeader, Message};
use sandd_mesh::filter::{PacketFilter, PeerContext};
use sandd_mesh::netstack::{Stack, StackConfig};
use sandd_mesh::packet::ip::{IpPacket, parse_quoted};
use sandd_mesh::packet::join::Joiner;
use sandd_mesh::packet::split::Splitter;
use sandd_mesh::packet::vnet::VnetHeader;
use sandd_mesh::packet::{PacketBuf, ecn, too_big, tsmp};
use sandd_mesh::stun;

const OWN_V4: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
const OWN_V6: Ipv6Addr = Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 1);

/// STUN requests and answers.
pub fn stun(data: &[u8]) {
    let _ = stun::looks_like(data);
    if let Some(tx) = stun::parse_request(data) {
        assert_eq!(stun::parse_request(&stun::binding_request(&tx)), Some(tx));
    }
    if let Some((tx, addr)) = stun::parse_response(data) {
        assert_eq!(
            stun::parse_response(&stun::binding_response(&tx, addr)),
            Some((tx, addr))
        );
    }
}

/// What a disco box holds, and the headers in front of one.
pub fn disco(data: &[u8]) {
    let _ = (disco::looks_like(data), disco::sender(data));
    if let Some((header, _)) = GeneveHeader::parse(data) {
        assert_eq!(
            GeneveHeader::parse(&[&header.encode()[..], &data[8..]].concat()).map(|(read, _)| read),
            Some(header)
        );
    }
    if let Ok(message) = Message::decode(data) {
        // Padding without a node key in front of it is read, but never written.
        if matches!(message, Message::Ping { node_key: None, .. }) {
            return;
        }
        assert_eq!(Message::decode(&message.encode()).as_ref(), Ok(&message));
    }
}

/// Whole disco packets.
pub fn disco_box(data: &[u8]) {
    static BOX: OnceLock<DiscoBox> = OnceLock::new();
    let sealed = BOX.get_or_init(|| {
        DiscoBox::new(
            &DiscoPrivateKey::from_bytes([0x40; 32]),
            &DiscoPublicKey::from_bytes([0x07; 32]),
        )
    });
    let _ = sealed.open(data);
}

/// A stream of DERP frames, as client and as server, cut where the first byte says.
pub fn derp_frames(data: &[u8]) {
    let Some((cut, stream)) = data.split_first() else {
        return;
    };
    for mut decoder in [FrameDecoder::client(), FrameDecoder::server()] {
        for piece in stream.chunks(usize::from(*cut).max(1)) {
            decoder.buffer().extend_from_slice(piece);
            loop {
                match decoder.next_frame() {
                    Ok(Some(raw)) => {
                        if let Ok(Some(frame)) = raw.parse() {
                            assert_frame_survives(&frame);
                        }
                    }
                    Ok(None) => break,
                    Err(_) => return,
                }
            }
        }
    }
}

fn assert_frame_survives(frame: &Frame<'_>) {
    let mut decoder = FrameDecoder::client();
    frame.append_to(decoder.buffer());
    let raw = decoder.next_frame();
    assert!(
        matches!(&raw, Ok(Some(raw)) if raw.parse() == Ok(Some(*frame))),
        "{frame:?}"
    );
}

/// Logins: sealed boxes, and the JSON in them as if it had opened.
pub fn derp_login(data: &[u8]) {
    if let Ok(info) = serde_json::from_slice::<ClientInfo>(data) {
        let again = serde_json::to_vec(&ClientInfo {
            has_mesh_key: false,
            ..info.clone()
        })
        .unwrap_or_default();
        let read = serde_json::from_slice::<ClientInfo>(&again).ok();
        assert_eq!(
            read,
            Some(ClientInfo {
                has_mesh_key: false,
                ..info
            })
        );
    }
    if let Ok(info) = serde_json::from_slice::<ServerInfo>(data) {
        let again = serde_json::to_vec(&info).unwrap_or_default();
        assert_eq!(serde_json::from_slice::<ServerInfo>(&again).ok(), Some(info));
    }
    // The box costs a key agreement, and JSON never is one.
    if data.first() != Some(&b'{') && data.len().is_multiple_of(16) {
        let login = ServerLogin::new(NodePrivateKey::from_bytes([0xa0; 32]));
        let key = NodePublicKey::from_bytes([0x58; 32]);
        assert!(login.client_info(&Frame::ClientInfo { key, sealed: data }).is_err());
    }
}

/// An overlay packet through the checked view and the filter, as it would come out of a tunnel and as it would go in.
pub fn ip_filter(data: &[u8]) {
    let _ = parse_quoted(data);
    let Ok(packet) = IpPacket::parse(data) else { return };
    assert!(packet.payload().len() <= data.len());
    if let Some(key) = tsmp::parse_disco_advertisement(&packet) {
        let again = tsmp::encode_disco_advertisement(packet.src(), packet.dst(), &key).unwrap_or_default();
        assert_eq!(
            IpPacket::parse(&again)
                .ok()
                .and_then(|read| tsmp::parse_disco_advertisement(&read)),
            Some(key)
        );
    }
    let capabilities = BTreeMap::new();
    let peer = PeerContext {
        jailed: data.len().is_multiple_of(7),
        capabilities: &capabilities,
    };
    let mut filter = PacketFilter::new();
    filter.set_rules(rules());
    filter.set_local(&[IpAddr::V4(OWN_V4).into(), IpAddr::V6(OWN_V6).into()]);
    let now = Instant::now();
    let first = filter.inbound(&packet, &peer, now);
    let _ = filter.outbound(&packet, now);
    // To itself, a packet is its own answer.
    if packet.src() != packet.dst() {
        assert_eq!(
            filter.inbound(&packet, &peer, now),
            first,
            "a packet is judged alike twice"
        );
    }
}

/// A super-packet of the device: split, joined and split again it is the same packets. And each by itself through what
/// changes or answers packets on their way.
pub fn super_packet(data: &[u8]) {
    let segments = split(data);
    let mut joiner = Joiner::new();
    joiner.set_udp(true);
    let mut again = Vec::new();
    let mut sink = |joined: &mut [u8]| again.extend(split(joined));
    for packet in segments.iter().map(Vec::as_slice).chain([data]) {
        joiner.push(packet, &mut sink);
    }
    joiner.flush(&mut sink);
    let mut expected = segments;
    expected.push(data.to_vec());
    assert_eq!(again.len(), expected.len());
    // Only the identification of IPv4 may be another one after a packet that was left out.
    for packets in [&mut again, &mut expected] {
        packets.sort();
    }
    let bytes = |packets: &[Vec<u8>]| packets.iter().map(Vec::len).sum::<usize>();
    assert_eq!(bytes(&again), bytes(&expected));
    for mut packet in expected {
        let before = packet.clone();
        let _ = ecn::combine(&mut packet, data.first().copied().unwrap_or(0));
        too_big::clamp_mss(&mut packet, 1280);
        assert_eq!(packet.len(), before.len());
        for own in [IpAddr::V4(OWN_V4), IpAddr::V6(OWN_V6)] {
            if let Some(answer) = too_big::answer(&packet, 1280, own) {
                assert!(answer.len() <= 1280);
                assert!(IpPacket::parse(&answer).is_ok());
            }
        }
    }
}

/// The packets of `[vnet header][packet]`; none when it cannot be split.
fn split(bytes: &[u8]) -> Vec<Vec<u8>> {
    let Some((vnet, packet)) = VnetHeader::parse(bytes).zip(bytes.get(VnetHeader::LEN..)) else {
        return Vec::new();
    };
    let Ok(splitter) = Splitter::new(&vnet, packet) else {
        return Vec::new();
    };
    splitter.segments().map(|segment| segment.to_vec()).collect()
}

fn rules() -> Arc<Vec<FilterRule>> {
    static RULES: OnceLock<Arc<Vec<FilterRule>>> = OnceLock::new();
    let range = |first: IpAddr, last: IpAddr| IpRange { first, last };
    let all_v4 = range(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::BROADCAST.into());
    let all_v6 = range(Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::from([0xff; 16]).into());
    let make = || {
        let dst = |range| FilterDst {
            range,
            first_port: 22,
            last_port: 8_765,
        };
        Arc::new(vec![FilterRule {
            src: vec![FilterSrc::Range(all_v4), FilterSrc::Range(all_v6)],
            dst: vec![dst(all_v4), dst(all_v6)],
            protocols: vec![1, 6, 17, 58],
            grants: Vec::new(),
        }])
    };
    Arc::clone(RULES.get_or_init(make))
}

/// Overlay packets into the userspace stack: two bytes of length, then the packet, again and again.
pub fn netstack(data: &[u8]) {
    let mut now = Instant::now();
    let mut stack = Stack::new(StackConfig::new(1_280), now);
    stack.set_addresses(&[OWN_V4.into(), OWN_V6.into()]);
    let mut rest = data;
    while let Some(([high, low], tail)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(tail.len());
        let (packet, tail) = tail.split_at(length);
        stack.handle_packets([PacketBuf::copied_from(packet)], now);
        now += Duration::from_millis(50);
        stack.poll(now);
        rest = tail;
    }
    let mut sent = 0;
    while let Some(packet) = stack.poll_transmit() {
        assert!(IpPacket::parse(&packet).is_ok(), "the stack sends well-formed packets");
        sent += 1;
    }
    // Every answer has its question: nothing amplifies.
    assert!(sent <= data.len(), "{sent} packets out of {} bytes", data.len());
    let _ = stack.poll_timeout();
}
