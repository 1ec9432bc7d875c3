//! Surfaces of `sandd-control-client`: everything that comes from a coordinator, or from a node at ours.

use std::sync::OnceLock;
use std::time::{Duration, UNIX_EPOCH};

use bytes::BytesMut;
use sandd_control_client::keys::{
    ChallengePublicKey, DiscoPublicKey, MachinePrivateKey, MachinePublicKey, NodePrivateKey, NodePublicKey,
};
use sandd_control_client::map_stream::{MapDecoder, encode};
use sandd_control_client::netmap::MapSession;
use sandd_control_client::noise::{
    CAPABILITY_VERSION, EarlyDecoder, EarlyPayload, Initiator, RESPONSE_LEN, Responder, take_response,
};
use sandd_control_client::wire::{MapRequest, MapResponse, RegisterRequest, RegisterResponse, ServerKeys};
use sandd_control_client::{AuthKey, ControlUrl};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Initiations at the coordinator, responses at the node.
pub fn noise_handshake(data: &[u8]) {
    static CONTROL: OnceLock<MachinePrivateKey> = OnceLock::new();
    let control = CONTROL.get_or_init(|| MachinePrivateKey::from_bytes([0x98; 32]));
    let _ = Responder::accept(control, data);
    if let Ok(Some(response)) = take_response(data) {
        let machine = MachinePrivateKey::from_bytes([0xc8; 32]);
        if let Ok((initiator, _)) = Initiator::start(&machine, &control.public(), CAPABILITY_VERSION) {
            assert!(initiator.finish(&response).is_err(), "nobody guesses a response");
        }
    }
}

/// Records: cut where the first byte says, damaged where the second does, read in full or not at all.
pub fn noise_records(data: &[u8]) {
    let Some(([cut, damage], plain)) = data.split_first_chunk::<2>() else {
        return;
    };
    let (control, machine) = (MachinePrivateKey::generate(), MachinePrivateKey::generate());
    let Ok((initiator, initiation)) = Initiator::start(&machine, &control.public(), CAPABILITY_VERSION) else {
        return;
    };
    let Ok(mut accepted) = Responder::accept(&control, &initiation) else {
        return;
    };
    let response: [u8; RESPONSE_LEN] = accepted.response;
    let Ok(mut ours) = initiator.finish(&response) else {
        return;
    };
    let mut wire = BytesMut::new();
    if ours.sealer.seal(plain, &mut wire).is_err() {
        return;
    }
    let at = usize::from(*damage);
    let damaged = at > 0 && at < wire.len();
    if damaged {
        wire[at] ^= 0x55;
    }
    let mut read = Vec::new();
    for piece in wire.chunks(usize::from(*cut).max(1)) {
        accepted.transport.decoder.push(piece);
        loop {
            match accepted.transport.decoder.next_plaintext() {
                Ok(Some(text)) => read.extend_from_slice(&text),
                Ok(None) => break,
                Err(_) => {
                    assert!(damaged, "an undamaged stream opens");
                    assert!(plain.starts_with(&read));
                    return;
                }
            }
        }
    }
    assert!(if damaged {
        plain.starts_with(&read)
    } else {
        plain == read
    });
    // What was never sealed does not open either.
    ours.decoder.push(plain);
    while let Ok(Some(_)) = ours.decoder.next_plaintext() {}
}

/// The first plaintext after the handshake.
pub fn early_payload(data: &[u8]) {
    let Some((cut, stream)) = data.split_first() else {
        return;
    };
    let mut decoder = EarlyDecoder::default();
    for piece in stream.chunks(usize::from(*cut).max(1)) {
        match decoder.push(piece) {
            Ok(None) => {}
            Ok(Some(outcome)) => {
                if let Some(payload) = outcome.payload {
                    let mut again = EarlyDecoder::default();
                    let read = again.push(&EarlyPayload::encode(&payload)).ok().flatten();
                    assert_eq!(read.and_then(|outcome| outcome.payload), Some(payload));
                }
                return;
            }
            Err(_) => return,
        }
    }
}

/// The map stream's frames, zstd and all; and each body as a message of its own.
pub fn map_stream(data: &[u8]) {
    let Some((cut, stream)) = data.split_first() else {
        return;
    };
    let mut decoder = MapDecoder::new();
    for piece in stream.chunks(usize::from(*cut).max(1) * 16) {
        decoder.push(piece);
        while let Ok(Some(message)) = decoder.next_message() {
            assert!(message.len() <= sandd_control_client::map_stream::MAX_MESSAGE);
        }
    }
    for zstd in [false, true] {
        let mut decoder = MapDecoder::new();
        let Ok(framed) = encode(stream, zstd) else { continue };
        decoder.push(&framed);
        // An unpacked message that looks like zstd is unpacked again by a reader that must sniff.
        let sniffed = !zstd && stream.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
        let read = decoder.next_message();
        assert!(
            sniffed || matches!(&read, Ok(Some(message)) if message == stream),
            "{read:?}"
        );
    }
}

/// Map messages, one a line, through a session.
pub fn map_session(data: &[u8]) {
    let mut session = MapSession::new();
    let mut now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    for line in data.split(|byte| *byte == b'\n') {
        survives::<MapResponse>(line);
        let Ok(message) = serde_json::from_slice::<MapResponse>(line) else {
            continue;
        };
        if session.apply(message, now).is_err() {
            session.begin_stream();
        }
        let map = session.map();
        for (id, peer) in map.peers.iter() {
            assert!(map.peers.contains_key(&id) && !peer.key.is_zero());
        }
        assert!(
            !map.lock_enabled || map.peers.is_empty(),
            "a locked tailnet has no peers for us"
        );
        now += Duration::from_secs(1);
    }
    if let Some(at) = session.next_expiry() {
        session.expire(at);
    }
}

/// The other JSON of a coordinator, in both directions.
pub fn register(data: &[u8]) {
    survives::<RegisterRequest>(data);
    survives::<RegisterResponse>(data);
    survives::<MapRequest>(data);
    survives::<ServerKeys>(data);
}

/// What is read is written in a form that can be read again. (Not compared: huge fractions lose their last digit.)
fn survives<T: Serialize + DeserializeOwned>(text: &[u8]) {
    let Ok(read) = serde_json::from_slice::<T>(text) else {
        return;
    };
    let Ok(written) = serde_json::to_string(&read) else {
        return;
    };
    let again = serde_json::from_str::<T>(&written).map(drop);
    assert!(again.is_ok(), "{}: {again:?}: {written}", std::any::type_name::<T>());
}

/// Texts that people and coordinators give: keys, URLs, auth keys.
pub fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    macro_rules! round_trip {
        ($($key:ty),*) => { $(
            if let Ok(key) = text.parse::<$key>() {
                assert_eq!(key.to_string().parse(), Ok(key));
            }
        )* };
    }
    round_trip!(NodePublicKey, MachinePublicKey, DiscoPublicKey, ChallengePublicKey);
    if let Ok(key) = NodePrivateKey::from_secret_text(text) {
        assert_eq!(
            NodePrivateKey::from_secret_text(&key.to_secret_text())
                .ok()
                .map(|key| key.public()),
            Some(key.public())
        );
    }
    if let Ok(url) = ControlUrl::parse(text) {
        assert_eq!(ControlUrl::parse(&url.to_string()).ok(), Some(url.clone()));
        assert!(url.matches(url.host(), url.port()));
    }
    let shown = format!("{:?}", AuthKey::new(text));
    let secret = text.trim();
    assert!(
        secret.len() < 12 || !shown.contains(secret),
        "an auth key does not print"
    );
}
