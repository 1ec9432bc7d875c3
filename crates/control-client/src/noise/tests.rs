//! Every vector of `testdata/vectors-ts2021.json` (made with Tailscale's own implementation), then what no vector shows.

use base64::Engine as _;
use bytes::BytesMut;
use proptest::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::handshake::Symmetric;
use super::*;
use crate::keys::{MachinePrivateKey, MachinePublicKey};

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../testdata/vectors-ts2021.json")).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(text(value)).unwrap()
}

fn raw_private(value: &Value) -> MachinePrivateKey {
    MachinePrivateKey::from_bytes(bytes(value).try_into().unwrap())
}

struct Fixed {
    client: MachinePrivateKey,
    client_ephemeral: MachinePrivateKey,
    control: MachinePrivateKey,
    control_ephemeral: MachinePrivateKey,
}

fn fixed() -> Fixed {
    let noise = &vectors()["noise"];
    Fixed {
        client: MachinePrivateKey::from_secret_text(text(&noise["client_static_private"])).unwrap(),
        client_ephemeral: raw_private(&noise["client_ephemeral_private"]),
        control: MachinePrivateKey::from_secret_text(text(&noise["control_static_private"])).unwrap(),
        control_ephemeral: raw_private(&noise["control_ephemeral_private"]),
    }
}

/// A client and a coordinator with the vectors' keys.
fn connected() -> (Transport, Transport) {
    let keys = fixed();
    let (initiator, initiation) =
        Initiator::start_with(&keys.client, &keys.control.public(), 130, keys.client_ephemeral).unwrap();
    let accepted = Responder::accept_with(&keys.control, &initiation, keys.control_ephemeral).unwrap();
    (initiator.finish(&accepted.response).unwrap(), accepted.transport)
}

#[test]
fn vector_keys_match() {
    let all = vectors();
    let noise = &all["noise"];
    let keys = fixed();
    assert_eq!(keys.client.public().to_string(), text(&noise["client_static_public"]));
    assert_eq!(keys.control.public().to_string(), text(&noise["control_static_public"]));
    assert_eq!(
        &keys.client_ephemeral.public().as_bytes()[..],
        bytes(&noise["client_ephemeral_public"])
    );
    assert_eq!(
        &keys.control_ephemeral.public().as_bytes()[..],
        bytes(&noise["control_ephemeral_public"])
    );
    for entry in all["key_text"].as_array().unwrap() {
        let public = text(&entry["public_text"]);
        match text(&entry["kind"]) {
            "machine" => {
                let key = MachinePrivateKey::from_secret_text(text(&entry["private_text"])).unwrap();
                assert_eq!(key.public().to_string(), public);
            }
            "node" => {
                let key = crate::keys::NodePrivateKey::from_secret_text(text(&entry["private_text"])).unwrap();
                assert_eq!(key.public().to_string(), public);
            }
            "disco" => {
                let key = crate::keys::DiscoPrivateKey::from_bytes(bytes(&entry["private_hex"]).try_into().unwrap());
                assert_eq!(key.public().to_string(), public);
            }
            "machine zero" => assert!(public.parse::<MachinePublicKey>().unwrap().is_zero()),
            other => panic!("unknown kind {other}"),
        }
    }
}

#[test]
fn vector_handshake_matches_on_both_sides() {
    let all = vectors();
    let noise = &all["noise"];
    let keys = fixed();
    let (initiator, initiation) =
        Initiator::start_with(&keys.client, &keys.control.public(), 130, keys.client_ephemeral).unwrap();
    assert_eq!(&initiation[..], bytes(&noise["initiation_hex"]));
    assert_eq!(
        base64::prelude::BASE64_STANDARD.encode(initiation),
        text(&noise["initiation_base64"])
    );
    assert_eq!(&initiation[..5], bytes(&noise["initiation_header_hex"]));
    assert_eq!(hex::encode(initiator.state().hash), text(&noise["steps"][7]["h"]));

    let accepted = Responder::accept_with(&keys.control, &initiation, keys.control_ephemeral).unwrap();
    assert_eq!(accepted.client, keys.client.public());
    assert_eq!(accepted.version, 130);
    assert_eq!(&accepted.response[..], bytes(&noise["response_hex"]));
    initiator.finish(&accepted.response).unwrap();
}

#[test]
fn vector_steps_match_one_by_one() {
    let all = vectors();
    let noise = &all["noise"];
    let keys = fixed();
    let steps = noise["steps"].as_array().unwrap();
    let check = |index: usize, state: &Symmetric| {
        assert_eq!(hex::encode(state.hash), text(&steps[index]["h"]), "h of step {index}");
        assert_eq!(
            hex::encode(&state.chaining_key[..]),
            text(&steps[index]["ck"]),
            "ck of step {index}"
        );
        if let Some(key) = steps[index].get("k") {
            assert_eq!(hex::encode(&state.key[..]), text(key), "k of step {index}");
        }
    };
    let dh = |index: usize, shared: &[u8; 32]| assert_eq!(hex::encode(shared), text(&steps[index]["dh"]));

    let mut state = Symmetric::new(130, &keys.control.public());
    check(2, &state);
    state.mix_hash(keys.client_ephemeral.public().as_bytes());
    check(3, &state);
    let shared = keys.client_ephemeral.diffie_hellman(keys.control.public().as_bytes());
    dh(4, &shared);
    state.mix_key(&shared).unwrap();
    check(4, &state);
    let mut sealed = *keys.client.public().as_bytes();
    let tag = state.encrypt(&mut sealed).unwrap();
    assert_eq!([&sealed[..], &tag].concat(), bytes(&steps[5]["ciphertext"]));
    check(5, &state);
    let shared = keys.client.diffie_hellman(keys.control.public().as_bytes());
    dh(6, &shared);
    state.mix_key(&shared).unwrap();
    check(6, &state);
    assert_eq!(&state.encrypt(&mut []).unwrap()[..], bytes(&steps[7]["ciphertext"]));
    check(7, &state);
    state.mix_hash(keys.control_ephemeral.public().as_bytes());
    check(8, &state);
    let shared = keys
        .client_ephemeral
        .diffie_hellman(keys.control_ephemeral.public().as_bytes());
    dh(9, &shared);
    state.mix_key(&shared).unwrap();
    check(9, &state);
    let shared = keys.client.diffie_hellman(keys.control_ephemeral.public().as_bytes());
    dh(10, &shared);
    state.mix_key(&shared).unwrap();
    check(10, &state);
    assert_eq!(&state.encrypt(&mut []).unwrap()[..], bytes(&steps[11]["ciphertext"]));
    check(11, &state);

    assert_eq!(hex::encode(state.hash), text(&noise["handshake_hash"]));
    assert_eq!(hex::encode(&state.chaining_key[..]), text(&noise["final_chaining_key"]));
    let (to_server, to_client) = state.split();
    assert_eq!(hex::encode(&to_server[..]), text(&noise["key_client_to_server_k1"]));
    assert_eq!(hex::encode(&to_client[..]), text(&noise["key_server_to_client_k2"]));
}

#[test]
fn vector_records_of_the_server_open() {
    let (mut client, mut server) = connected();
    for entry in vectors()["records"]["server_to_client"].as_array().unwrap() {
        let wire = bytes(&entry["wire_hex"]);
        client.decoder.push(&wire);
        assert_eq!(
            client.decoder.next_plaintext().unwrap().unwrap(),
            bytes(&entry["plaintext_hex"])
        );
        let mut sealed = BytesMut::new();
        server
            .sealer
            .seal(&bytes(&entry["plaintext_hex"]), &mut sealed)
            .unwrap();
        assert_eq!(sealed, wire);
    }
}

#[test]
fn vector_records_of_the_client_match_over_the_nonce_carry() {
    let all = vectors();
    let records = &all["records"];
    let listed = records["client_to_server"].as_array().unwrap();
    let (mut client, mut server) = connected();
    for n in 0u64..258 {
        let entry = listed.iter().find(|entry| entry["n"].as_u64() == Some(n));
        let plaintext = entry.map_or_else(
            || vec![u8::try_from(n).unwrap()],
            |entry| bytes(&entry["plaintext_hex"]),
        );
        let mut sealed = BytesMut::new();
        client.sealer.seal(&plaintext, &mut sealed).unwrap();
        if let Some(entry) = entry {
            assert_eq!(sealed, bytes(&entry["wire_hex"]), "record {n}");
        }
        server.decoder.push(&sealed);
        assert_eq!(server.decoder.next_plaintext().unwrap().unwrap(), plaintext);
    }
    let large: Vec<u8> = (0..5000usize).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let mut sealed = BytesMut::new();
    client.sealer.seal(&large, &mut sealed).unwrap();
    let expected = &records["large_write"];
    assert_eq!(sealed.len() as u64, expected["total_wire_length"].as_u64().unwrap());
    assert_eq!(&sealed[..3], bytes(&expected["first_record_header_hex"]));
    assert_eq!(&sealed[4096..4099], bytes(&expected["second_record_header_hex"]));
    assert_eq!(hex::encode(Sha256::digest(&sealed)), text(&expected["wire_sha256"]));
}

#[test]
fn vector_error_frame_is_told() {
    let all = vectors();
    let wire = bytes(&all["error_frame"]["wire_hex"]);
    let said = text(&all["error_frame"]["text"]);
    assert_eq!(encode_error_frame(said), wire);
    assert_eq!(take_response(&wire), Err(HandshakeError::Refused(said.to_owned())));
    assert_eq!(take_response(&wire[..10]), Ok(None));
}

#[test]
fn vector_early_payload_survives_every_cut() {
    let all = vectors();
    let early = &all["early_payload"];
    let mut whole = bytes(&early["magic_hex"]);
    whole.extend(bytes(&early["length_hex"]));
    whole.extend(text(&early["json"]).as_bytes());
    let challenge = text(&early["challenge_public"]).parse().unwrap();
    assert_eq!(
        EarlyPayload {
            node_key_challenge: Some(challenge)
        }
        .encode(),
        whole
    );
    whole.extend(b"h2");
    for cut in 0..whole.len() - 2 {
        let mut decoder = EarlyDecoder::default();
        assert!(decoder.push(&whole[..cut]).unwrap().is_none(), "cut at {cut}");
        let outcome = decoder.push(&whole[cut..]).unwrap().unwrap();
        assert_eq!(outcome.payload.unwrap().node_key_challenge, Some(challenge));
        assert_eq!(&outcome.rest[..], b"h2");
    }
}

#[test]
fn early_payload_may_be_absent_or_hostile() {
    let settings = bytes(&vectors()["records"]["server_to_client"][3]["plaintext_hex"]);
    let outcome = EarlyDecoder::default().push(&settings).unwrap().unwrap();
    assert_eq!(outcome.payload, None);
    assert_eq!(outcome.rest, settings);
    let huge = [0xff, 0xff, 0xff, b'T', b'S', 0xff, 0, 0, 0];
    assert!(matches!(
        EarlyDecoder::default().push(&huge),
        Err(EarlyError::TooLong(_))
    ));
    let no_json = [0xff, 0xff, 0xff, b'T', b'S', 0, 0, 0, 1, b'?'];
    assert!(matches!(
        EarlyDecoder::default().push(&no_json),
        Err(EarlyError::Json(_))
    ));
}

#[test]
fn records_are_read_however_they_are_cut() {
    let (mut client, mut server) = connected();
    let mut wire = BytesMut::new();
    for part in ["one", "two", "three"] {
        client.sealer.seal(part.as_bytes(), &mut wire).unwrap();
    }
    let mut read = Vec::new();
    for byte in &wire {
        server.decoder.push(&[*byte]);
        while let Some(plaintext) = server.decoder.next_plaintext().unwrap() {
            read.push(plaintext);
        }
    }
    assert_eq!(
        read,
        ["one", "two", "three"].map(|part| BytesMut::from(part.as_bytes()))
    );
}

#[test]
fn an_oversized_or_foreign_header_ends_the_connection() {
    for header in [[4u8, 0x0f, 0xfe], [4, 0, 15], [1, 0, 32]] {
        let (mut client, _server) = connected();
        client.decoder.push(&header);
        assert!(
            matches!(client.decoder.next_plaintext(), Err(RecordError::Header { .. })),
            "{header:?}"
        );
    }
}

#[test]
fn an_empty_record_is_skipped_and_a_flipped_bit_is_final() {
    let (mut client, mut server) = connected();
    let mut wire = BytesMut::new();
    server.sealer.seal(b"x", &mut wire).unwrap();
    let last = wire.len() - 1;
    wire[last] ^= 1;
    client.decoder.push(&wire);
    assert_eq!(client.decoder.next_plaintext(), Err(RecordError::Authentication));
    let mut good = BytesMut::new();
    server.sealer.seal(b"y", &mut good).unwrap();
    client.decoder.push(&good);
    assert_eq!(client.decoder.next_plaintext(), Err(RecordError::Authentication));
}

#[test]
fn the_wrong_control_key_is_noticed_by_both() {
    let keys = fixed();
    let stranger = MachinePrivateKey::generate();
    let (initiator, initiation) = Initiator::start(&keys.client, &keys.control.public(), 131).unwrap();
    assert_eq!(
        Responder::accept(&stranger, &initiation).unwrap_err(),
        HandshakeError::Authentication
    );
    let mut response = Responder::accept(&keys.control, &initiation).unwrap().response;
    response[40] ^= 1;
    assert_eq!(initiator.finish(&response).unwrap_err(), HandshakeError::Authentication);
    let zero = MachinePublicKey::from_bytes([0; 32]);
    assert_eq!(
        Initiator::start(&keys.client, &zero, 131).unwrap_err(),
        HandshakeError::WeakKey
    );
}

proptest! {
    #[test]
    fn sealed_data_comes_back(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9000), 0..6), cut in 1usize..5000) {
        let (mut client, mut server) = connected();
        let mut wire = BytesMut::new();
        for part in &parts {
            client.sealer.seal(part, &mut wire).unwrap();
        }
        let mut read = Vec::new();
        for chunk in wire.chunks(cut) {
            server.decoder.push(chunk);
            while let Some(plaintext) = server.decoder.next_plaintext().unwrap() {
                prop_assert!(plaintext.len() <= MAX_PLAINTEXT);
                read.extend_from_slice(&plaintext);
            }
        }
        prop_assert_eq!(read, parts.concat());
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(garbage in prop::collection::vec(any::<u8>(), 0..6000)) {
        let (mut client, _server) = connected();
        client.decoder.push(&garbage);
        while let Ok(Some(_)) = client.decoder.next_plaintext() {}
        let _ = take_response(&garbage);
        let _ = Responder::accept(&fixed().control, &garbage);
        let _ = EarlyDecoder::default().push(&garbage);
    }
}
