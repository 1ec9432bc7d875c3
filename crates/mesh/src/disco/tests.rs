//! Vectors of the real peer, its lenient parsing, and properties.

use std::net::SocketAddr;

use proptest::prelude::*;
use sandd_control_client::keys::{DiscoPrivateKey, DiscoPublicKey, NodePublicKey};

use super::*;
use crate::vectors::{bytes, vectors};

fn disco_key(all: &serde_json::Value, name: &str) -> (DiscoPrivateKey, DiscoPublicKey) {
    let private = DiscoPrivateKey::from_bytes(bytes(&all["keys"][name]["private"]).try_into().unwrap());
    let public = private.public();
    assert_eq!(public.to_string(), all["keys"][name]["text"].as_str().unwrap());
    (private, public)
}

#[test]
fn every_packet_opens_and_seals_byte_for_byte() {
    let all = vectors();
    let nonce: [u8; 24] = bytes(&all["disco"]["nonce"]).try_into().unwrap();
    let messages = all["disco"]["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 14);
    for vector in messages {
        let name = vector["name"].as_str().unwrap();
        let (from_private, from) = disco_key(&all, vector["from"].as_str().unwrap());
        let (to_private, to) = disco_key(&all, vector["to"].as_str().unwrap());
        let packet = bytes(&vector["packet"]);
        assert!(looks_like(&packet));
        assert_eq!(sender(&packet), Some(from));
        let message = DiscoBox::new(&to_private, &from).open(&packet).unwrap();
        let plain = message.encode();
        assert_eq!(plain, bytes(&vector["plaintext"]), "{name}");
        assert_eq!(
            DiscoBox::new(&from_private, &to).seal_with(&from, nonce, &plain),
            packet,
            "{name}"
        );
        if vector["geneve_packet"].is_string() {
            let wrapped = bytes(&vector["geneve_packet"]);
            let (header, rest) = GeneveHeader::parse(&wrapped).unwrap();
            assert_eq!(header.protocol, GeneveProtocol::Disco);
            assert_eq!(rest, &packet[..]);
            assert_eq!(header.encode(), wrapped[..8]);
        }
    }
}

#[test]
fn odd_input_is_read_as_the_real_peer_reads_it() {
    for vector in vectors()["disco"]["lax_parsing"].as_array().unwrap() {
        let name = vector["name"].as_str().unwrap();
        let read = Message::decode(&bytes(&vector["plaintext"]));
        assert_eq!(read.is_err(), vector["error"].is_string(), "{name}: {read:?}");
        match read {
            Ok(Message::Ping { node_key, padding, .. }) => {
                assert_eq!(Some(node_key.is_some()), vector["has_node_key"].as_bool(), "{name}");
                assert_eq!(Some(padding as u64), vector["padding"].as_u64(), "{name}");
            }
            Ok(Message::CallMeMaybe { endpoints }) => {
                assert_eq!(Some(endpoints.len() as u64), vector["endpoints"].as_u64(), "{name}");
            }
            Ok(_) | Err(_) => {}
        }
    }
}

#[test]
fn the_marker_of_our_own_nodes_survives_and_costs_stock_peers_nothing() {
    let node_key = Some(NodePublicKey::from_bytes([7; 32]));
    let ping = Message::Ping {
        tx: [1; 12],
        node_key,
        padding: 0,
        ours: Some(Features::current(Nat::Hard, true)),
    };
    let Ok(Message::Ping { ours, padding, .. }) = Message::decode(&ping.encode()) else {
        panic!("no ping")
    };
    assert_eq!(ours, Some(Features::current(Nat::Hard, true)));
    assert_eq!(padding, 12, "it looks like padding");
    let src: SocketAddr = "203.0.113.1:5".parse().unwrap();
    let pong = Message::Pong {
        tx: [1; 12],
        src,
        ours: Some(Features::current(Nat::Hard, true)),
    };
    assert_eq!(Message::decode(&pong.encode()), Ok(pong));
}

#[test]
fn a_box_for_somebody_else_does_not_open() {
    let (own, other) = (DiscoPrivateKey::generate(), DiscoPrivateKey::generate());
    let sealed = DiscoBox::new(&own, &other.public());
    let mut packet = sealed.seal(&own.public(), &Message::CallMeMaybe { endpoints: Vec::new() });
    assert!(DiscoBox::new(&other, &own.public()).open(&packet).is_ok());
    assert!(
        DiscoBox::new(&DiscoPrivateKey::generate(), &own.public())
            .open(&packet)
            .is_err()
    );
    let last = packet.len() - 1;
    packet[last] ^= 1;
    assert!(DiscoBox::new(&other, &own.public()).open(&packet).is_err());
}

proptest! {
    #[test]
    fn messages_round_trip(tx in any::<[u8; 12]>(), ips in proptest::collection::vec((any::<[u8; 4]>(), any::<u16>()), 0..20)) {
        let endpoints: Vec<SocketAddr> = ips.into_iter().map(SocketAddr::from).collect();
        for message in [
            Message::Ping { tx, node_key: Some(NodePublicKey::from_bytes([3; 32])), padding: 40, ours: None },
            Message::CallMeMaybe { endpoints },
        ] {
            prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn any_bytes_never_panic(plain in proptest::collection::vec(any::<u8>(), 0..400), kind in 0u8..12) {
        let _ = Message::decode(&plain);
        let mut typed = vec![kind, 0];
        typed.extend(&plain);
        let _ = Message::decode(&typed);
        let _ = sender(&plain);
        let _ = GeneveHeader::parse(&plain);
    }
}

#[test]
fn each_payload_is_taken_for_what_it_is() {
    let all = vectors();
    let payloads = all["demux"].as_array().unwrap();
    assert_eq!(payloads.len(), 7);
    for vector in payloads {
        let payload = bytes(&vector["payload"]);
        let class = vector["class"].as_str().unwrap();
        let wireguard = crate::wg::message::classify(&payload).is_some();
        let seen = if crate::stun::looks_like(&payload) {
            "stun"
        } else if let Some((header, _)) = GeneveHeader::parse(&payload) {
            if header.protocol == GeneveProtocol::Disco {
                "geneve-disco"
            } else {
                "geneve-wireguard"
            }
        } else if looks_like(&payload) {
            "disco"
        } else {
            "wireguard"
        };
        assert!(class.starts_with(seen), "{class} was taken for {seen}");
        assert_eq!(
            wireguard,
            class.starts_with("wireguard") && !class.contains("too short"),
            "{class}"
        );
    }
}
