//! Frames and both logins against the real peer's bytes, odd input, and properties.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::BytesMut;
use proptest::prelude::*;
use sandd_control_client::keys::{NodePrivateKey, NodePublicKey};
use serde_json::Value;

use super::sealed::NaclBox;
use super::*;
use crate::vectors::{bytes, vectors};

fn private(name: &str) -> NodePrivateKey {
    NodePrivateKey::from_bytes(bytes(&vectors()["keys"][name]["private"]).try_into().unwrap())
}

fn frame_bytes(name: &str) -> Vec<u8> {
    let all = vectors();
    let frames = all["derp"]["frames"].as_array().unwrap();
    bytes(&frames.iter().find(|frame| frame["name"] == name).unwrap()["frame"])
}

fn decode_one(bytes: &[u8]) -> RawFrame {
    let mut decoder = FrameDecoder::client();
    decoder.buffer().extend_from_slice(bytes);
    let frame = decoder.next_frame().unwrap().unwrap();
    assert!(decoder.buffer().is_empty());
    frame
}

fn expected<'a>(case: &Value, payload: &'a [u8]) -> Option<Frame<'a>> {
    let key = |field: &str| private(case[field].as_str().unwrap()).public();
    let b = private("node_b").public();
    Some(match case["name"].as_str().unwrap() {
        "server_key" => Frame::ServerKey {
            key: private("derp_server").public(),
        },
        "note_preferred_home" => Frame::NotePreferred { home: true },
        "note_preferred_not_home" => Frame::NotePreferred { home: false },
        "send_packet" => Frame::SendPacket {
            dst: key("dst"),
            packet: payload,
        },
        "recv_packet" => Frame::RecvPacket {
            src: key("src"),
            packet: payload,
        },
        "forward_packet" => Frame::ForwardPacket {
            src: key("src"),
            dst: key("dst"),
            packet: payload,
        },
        "keep_alive" => Frame::KeepAlive,
        "peer_gone_disconnected" | "peer_gone_old_form" => Frame::PeerGone {
            key: b,
            reason: PeerGoneReason::Disconnected,
        },
        "peer_gone_not_here" => Frame::PeerGone {
            key: b,
            reason: PeerGoneReason::NotHere,
        },
        "peer_present" => {
            let addr = Some(case["addr"].as_str().unwrap().parse().unwrap());
            Frame::PeerPresent { key: b, addr, flags: 1 }
        }
        "ping" => Frame::Ping([0xd0, 0xd1, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7]),
        "pong" => Frame::Pong([0xd0, 0xd1, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7]),
        "health_problem" => Frame::Health {
            problem: b"duplicate client",
        },
        "health_ok" => Frame::Health { problem: b"" },
        "restarting" => Frame::Restarting {
            reconnect_in: Duration::from_secs(1),
            try_for: Duration::from_secs(5),
        },
        "watch_conns" => Frame::WatchConns,
        "close_peer" => Frame::ClosePeer { key: b },
        _ => return None,
    })
}

#[test]
fn every_frame_equals_its_vector_both_ways() {
    let all = vectors();
    let mut seen = 0;
    for case in all["derp"]["frames"].as_array().unwrap() {
        let wire = bytes(&case["frame"]);
        let raw = decode_one(&wire);
        let payload = case["payload"]
            .as_str()
            .map(|text| hex::decode(text).unwrap())
            .unwrap_or_default();
        let Some(expected) = expected(case, &payload) else {
            continue;
        };
        assert_eq!(raw.parse().unwrap().unwrap(), expected, "{}", case["name"]);
        if case["name"] != "peer_gone_old_form" {
            assert_eq!(expected.encode()[..], wire, "{}", case["name"]);
        }
        seen += 1;
    }
    assert_eq!(seen, 18);
}

#[test]
fn the_login_reads_the_vectors() {
    let login = ServerLogin::new(private("derp_server"));
    let raw = decode_one(&frame_bytes("client_info"));
    let (key, info) = login.client_info(&raw.parse().unwrap().unwrap()).unwrap();
    assert_eq!((key, info), (private("node_a").public(), ClientInfo::current()));

    let mut client = ClientLogin::new(private("node_a"));
    let raw = decode_one(&frame_bytes("server_key"));
    let server = ClientLogin::server_key(&raw.parse().unwrap().unwrap()).unwrap();
    client.greet(server, &ClientInfo::current(), &mut BytesMut::new());
    assert_eq!(client.server(), Some(private("derp_server").public()));
    let info = |name| {
        let raw = decode_one(&frame_bytes(name));
        match raw.parse().unwrap() {
            Some(Frame::ServerInfo { sealed }) => client.server_info(sealed).unwrap(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(info("server_info"), ServerInfo::current());
    let limited = ServerInfo {
        version: 2,
        bytes_per_second: 1_000_000,
        bytes_burst: 65_568,
    };
    assert_eq!(info("server_info_rate_limited"), limited);
}

#[test]
fn infos_are_written_as_the_vectors_have_them() {
    let nonce = bytes(&vectors()["disco"]["nonce"]);
    let (a, server) = (private("node_a"), private("derp_server"));
    let sealed = NaclBox::new(&a.to_bytes(), server.public().as_bytes());
    let text = serde_json::to_vec(&ClientInfo::current()).unwrap();
    assert_eq!(sealed.seal_for_tests(&nonce, &text), frame_bytes("client_info")[37..]);
    let text = serde_json::to_vec(&ServerInfo::current()).unwrap();
    assert_eq!(sealed.seal_for_tests(&nonce, &text), frame_bytes("server_info")[5..]);
}

#[test]
fn client_infos_are_accepted_as_real_servers_do() {
    let login = ServerLogin::new(private("derp_server"));
    let a = private("node_a");
    let sealer = NaclBox::new(&a.to_bytes(), private("derp_server").public().as_bytes());
    for form in vectors()["derp"]["client_info_json_forms"].as_array().unwrap() {
        let sealed = sealer.seal_for_tests(&[9; 24], form["json"].as_str().unwrap().as_bytes());
        let read = login.client_info(&Frame::ClientInfo {
            key: a.public(),
            sealed: &sealed,
        });
        assert_eq!(read.is_ok(), form["accepted"].as_bool().unwrap(), "{}", form["json"]);
        let Ok((_, info)) = read else { continue };
        assert_eq!(u64::from(info.version), form["version"].as_u64().unwrap());
        assert_eq!(info.can_ack_pings, form["can_ack_pings"].as_bool().unwrap());
        assert_eq!(info.has_mesh_key, form["has_mesh_key"].as_bool().unwrap());
    }
}

#[test]
fn both_ends_log_in_and_a_foreign_key_does_not() {
    let (client_key, server_key) = (NodePrivateKey::generate(), NodePrivateKey::generate());
    let server = ServerLogin::new(server_key.clone());
    let mut wire = BytesMut::new();
    server.greet(&mut wire);
    let raw = decode_one(&wire);
    let greeted = ClientLogin::server_key(&raw.parse().unwrap().unwrap()).unwrap();
    assert_eq!(greeted, server_key.public());

    let mut client = ClientLogin::new(client_key.clone());
    let mut wire = BytesMut::new();
    client.greet(greeted, &ClientInfo::current(), &mut wire);
    let raw = decode_one(&wire);
    let frame = raw.parse().unwrap().unwrap();
    assert_eq!(
        server.client_info(&frame).unwrap(),
        (client_key.public(), ClientInfo::current())
    );
    let other = ServerLogin::new(NodePrivateKey::generate());
    assert!(matches!(other.client_info(&frame), Err(LoginError::Unopened)));

    let mut wire = BytesMut::new();
    server.admit(&client_key.public(), &ServerInfo::current(), &mut wire);
    assert_eq!(client.server_info(&wire[5..]).unwrap(), ServerInfo::current());
    assert!(matches!(client.server_info(&wire[6..]), Err(LoginError::Unopened)));
    assert!(matches!(
        server.client_info(&Frame::KeepAlive),
        Err(LoginError::Unexpected { got: 6, .. })
    ));
    assert!(matches!(
        ClientLogin::server_key(&Frame::KeepAlive),
        Err(LoginError::Unexpected { got: 6, .. })
    ));
}

#[test]
fn a_length_is_refused_before_its_bytes_are_awaited() {
    for (mut decoder, kind, length) in [
        (FrameDecoder::client(), 5u8, (1u32 << 20) + 1),
        (FrameDecoder::server(), 2, (256 << 10) + 1),
        (FrameDecoder::server(), 4, (64 << 10) + 65),
        (FrameDecoder::server(), 0x77, u32::MAX),
    ] {
        decoder.buffer().extend_from_slice(&[kind]);
        decoder.buffer().extend_from_slice(&length.to_be_bytes());
        assert_eq!(decoder.next_frame().unwrap_err().kind, kind);
        assert!(decoder.next_frame().is_err(), "it stays refused");
    }
}

#[test]
fn unknown_frames_are_skipped_and_misfits_refused() {
    assert_eq!(Frame::parse(0x7f, b"anything"), Ok(None));
    for (kind, length) in [
        (0x01, 39),
        (0x02, 31),
        (0x04, 31),
        (0x05, 31),
        (0x07, 0),
        (0x07, 2),
        (0x08, 31),
        (0x0a, 63),
        (0x10, 1),
        (0x11, 31),
        (0x11, 33),
        (0x12, 7),
        (0x13, 7),
        (0x15, 7),
    ] {
        let body = vec![0x44; length];
        assert_eq!(
            Frame::parse(kind, &body),
            Err(MalformedFrame { kind, length }),
            "{kind:#x}"
        );
    }
    let long = vec![0; 32 + MAX_PACKET + 1];
    assert!(Frame::parse(0x04, &long).is_err());
    assert!(Frame::parse(0x04, &long[1..]).is_ok());
    assert!(!append_send_packet(
        &private("node_b").public(),
        &long[..MAX_PACKET + 1],
        &mut BytesMut::new()
    ));
}

#[test]
fn a_packet_leaves_its_frame_without_its_key() {
    let raw = decode_one(&frame_bytes("recv_packet"));
    assert_eq!(raw.into_tail(32)[..], *b"payload");
}

fn node_key() -> impl Strategy<Value = NodePublicKey> {
    any::<[u8; 32]>().prop_map(NodePublicKey::from_bytes)
}

fn addr() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port))
}

fn arbitrary_frame(kind: u8, a: NodePublicKey, b: NodePublicKey, addr: SocketAddr, data: &[u8]) -> Frame<'_> {
    let seed = a.as_bytes();
    let ms = |at: usize| Duration::from_millis(u64::from(u32::from_be_bytes([seed[at], seed[1], seed[2], 1])));
    let eight = [seed[0], seed[1], 2, 3, 4, 5, 6, 7];
    match kind {
        0 => Frame::ServerKey { key: a },
        1 => Frame::ClientInfo { key: a, sealed: data },
        2 => Frame::ServerInfo { sealed: data },
        3 => Frame::SendPacket { dst: a, packet: data },
        4 => Frame::RecvPacket { src: a, packet: data },
        5 => Frame::KeepAlive,
        6 => Frame::NotePreferred { home: seed[0] & 1 == 1 },
        7 => Frame::PeerGone {
            key: a,
            reason: PeerGoneReason::Disconnected,
        },
        8 => Frame::PeerGone {
            key: a,
            reason: PeerGoneReason::Other(2 | seed[0]),
        },
        9 => Frame::PeerPresent {
            key: a,
            addr: Some(addr),
            flags: seed[0],
        },
        10 => Frame::ForwardPacket {
            src: a,
            dst: b,
            packet: data,
        },
        11 => Frame::WatchConns,
        12 => Frame::ClosePeer { key: a },
        13 => Frame::Ping(eight),
        14 => Frame::Pong(eight),
        15 => Frame::Health { problem: data },
        _ => Frame::Restarting {
            reconnect_in: ms(0),
            try_for: ms(3),
        },
    }
}

proptest! {
    #[test]
    fn streams_of_frames_survive_any_cut(
        kinds in proptest::collection::vec((0u8..17, node_key(), node_key(), addr(), proptest::collection::vec(any::<u8>(), 0..90)), 0..8),
        cut in 1usize..50,
    ) {
        let frames: Vec<_> = kinds.iter().map(|(kind, a, b, addr, data)| arbitrary_frame(*kind, *a, *b, *addr, data)).collect();
        let mut wire = BytesMut::new();
        frames.iter().for_each(|frame| frame.append_to(&mut wire));
        let mut decoder = FrameDecoder::client();
        let mut got = Vec::new();
        for piece in wire.chunks(cut) {
            decoder.buffer().extend_from_slice(piece);
            while let Some(raw) = decoder.next_frame().unwrap() {
                got.push(raw);
            }
        }
        prop_assert!(decoder.buffer().is_empty());
        let got: Vec<_> = got.iter().map(|raw| raw.parse().unwrap().unwrap()).collect();
        prop_assert_eq!(got, frames);
    }

    #[test]
    fn infos_survive(version: u32, can_ack_pings: bool, is_prober: bool, bytes_per_second: u64, bytes_burst: u64) {
        let client = ClientInfo { version, can_ack_pings, is_prober, has_mesh_key: false };
        let text = serde_json::to_string(&client).unwrap();
        prop_assert_eq!(serde_json::from_str::<ClientInfo>(&text).unwrap(), client);
        let server = ServerInfo { version, bytes_per_second, bytes_burst };
        let text = serde_json::to_string(&server).unwrap();
        prop_assert_eq!(serde_json::from_str::<ServerInfo>(&text).unwrap(), server);
    }

    #[test]
    fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind: u8) {
        let _ = Frame::parse(kind, &bytes);
        for mut decoder in [FrameDecoder::client(), FrameDecoder::server()] {
            decoder.buffer().extend_from_slice(&bytes);
            while let Ok(Some(raw)) = decoder.next_frame() {
                let _ = raw.parse();
            }
        }
        let login = ServerLogin::new(NodePrivateKey::from_bytes([1; 32]));
        let _ = login.client_info(&Frame::ClientInfo { key: NodePublicKey::from_bytes([3; 32]), sealed: &bytes });
    }
}
