//! The long poll's body as messages: a 32-bit **little-endian** length, then that many bytes of JSON or one zstd frame.
//!
//! Stands between the HTTP/2 body and [`crate::wire::MapResponse`]. Messages do not align with HTTP/2 frames or Noise
//! records. Each zstd frame is independent. Memory follows what was received, never what was announced (S-33), and a
//! frame that unpacks to more than it should ends the connection with an error of its own (S-32).

use std::io::Read;

use bytes::{Buf, BytesMut};

/// Largest message on the wire.
pub const MAX_FRAME: usize = 8 << 20;
/// Largest message once unpacked.
pub const MAX_MESSAGE: usize = 64 << 20;

const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// 8 MiB, as a power of two.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Why the stream cannot be read any longer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapStreamError {
    /// The announced length is over the limit.
    #[error("map message of {0} bytes is over the limit of 8 MiB")]
    FrameTooLong(u32),
    /// The unpacked length is over the limit.
    #[error("map message unpacks to more than 64 MiB")]
    MessageTooLong,
    /// Not what zstd makes.
    #[error("map message cannot be unpacked")]
    Zstd(#[source] std::io::Error),
}

/// Cuts and unpacks messages, however the bytes arrive.
#[derive(Debug, Default)]
pub struct MapDecoder {
    received: BytesMut,
}

impl MapDecoder {
    /// A decoder at the start of a body.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes of the body.
    pub fn push(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
    }

    /// The next message as JSON text, unpacked where it was packed; nothing while it is incomplete.
    ///
    /// # Errors
    /// [`MapStreamError`]; the stream is unusable then.
    pub fn next_message(&mut self) -> Result<Option<Vec<u8>>, MapStreamError> {
        let Some(prefix) = self.received.first_chunk::<4>() else {
            return Ok(None);
        };
        let announced = u32::from_le_bytes(*prefix);
        let length = usize::try_from(announced).ok().filter(|length| *length <= MAX_FRAME);
        let length = length.ok_or(MapStreamError::FrameTooLong(announced))?;
        if self.received.len() < 4 + length {
            return Ok(None);
        }
        self.received.advance(4);
        let frame = self.received.split_to(length);
        if self.received.is_empty() {
            // Do not keep a large first map's buffer for the life of the stream.
            self.received = BytesMut::new();
        }
        if frame.starts_with(&ZSTD_MAGIC) {
            unpack(&frame).map(Some)
        } else {
            Ok(Some(frame.to_vec()))
        }
    }

    /// True between messages: an end of the body here is a clean end.
    #[must_use]
    pub fn is_at_boundary(&self) -> bool {
        self.received.is_empty()
    }
}

fn unpack(frame: &[u8]) -> Result<Vec<u8>, MapStreamError> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(frame).map_err(MapStreamError::Zstd)?;
    decoder
        .window_log_max(ZSTD_WINDOW_LOG_MAX)
        .map_err(MapStreamError::Zstd)?;
    let mut message = Vec::with_capacity(frame.len().saturating_mul(4).min(1 << 20));
    let limit = MAX_MESSAGE as u64 + 1;
    decoder
        .take(limit)
        .read_to_end(&mut message)
        .map_err(MapStreamError::Zstd)?;
    if message.len() > MAX_MESSAGE {
        return Err(MapStreamError::MessageTooLong);
    }
    Ok(message)
}

/// One message as it stands in the body; the coordinator's side.
///
/// # Errors
/// [`MapStreamError`] when the message is over the limits of [`MapDecoder`].
pub fn encode(message: &[u8], zstd: bool) -> Result<Vec<u8>, MapStreamError> {
    if message.len() > MAX_MESSAGE {
        return Err(MapStreamError::MessageTooLong);
    }
    let packed = if zstd {
        Some(zstd::bulk::compress(message, 1).map_err(MapStreamError::Zstd)?)
    } else {
        None
    };
    let body = packed.as_deref().unwrap_or(message);
    let length = u32::try_from(body.len()).map_err(|_| MapStreamError::FrameTooLong(u32::MAX))?;
    if body.len() > MAX_FRAME {
        return Err(MapStreamError::FrameTooLong(length));
    }
    Ok([&length.to_le_bytes()[..], body].concat())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode_all(decoder: &mut MapDecoder, wire: &[u8]) -> Vec<Vec<u8>> {
        decoder.push(wire);
        let mut messages = Vec::new();
        while let Some(message) = decoder.next_message().unwrap() {
            messages.push(message);
        }
        messages
    }

    #[test]
    fn vectors_decode() {
        let vectors: serde_json::Value = serde_json::from_str(include_str!("../testdata/vectors-ts2021.json")).unwrap();
        let framing = &vectors["map_framing"];
        let json = framing["keepalive_json"].as_str().unwrap().as_bytes();
        for name in ["uncompressed_wire_hex", "zstd_wire_hex"] {
            let wire = hex::decode(framing[name].as_str().unwrap()).unwrap();
            assert_eq!(decode_all(&mut MapDecoder::new(), &wire), [json.to_vec()], "{name}");
        }
        assert_eq!(
            hex::encode(encode(json, false).unwrap()),
            framing["uncompressed_wire_hex"].as_str().unwrap()
        );
    }

    #[test]
    fn an_announced_giant_is_refused_before_it_arrives() {
        let mut decoder = MapDecoder::new();
        decoder.push(&u32::MAX.to_le_bytes());
        assert!(matches!(decoder.next_message(), Err(MapStreamError::FrameTooLong(_))));
    }

    #[test]
    fn a_bomb_is_refused() {
        let bomb = zstd::bulk::compress(&vec![b' '; MAX_MESSAGE + 1], 1).unwrap();
        let mut decoder = MapDecoder::new();
        decoder.push(&u32::try_from(bomb.len()).unwrap().to_le_bytes());
        decoder.push(&bomb);
        assert!(matches!(decoder.next_message(), Err(MapStreamError::MessageTooLong)));
    }

    #[test]
    fn a_truncated_frame_is_an_error_and_a_partial_message_is_no_boundary() {
        let packed = encode(&[b'a'; 1000], true).unwrap();
        let frame = &packed[4..packed.len() - 1];
        let mut decoder = MapDecoder::new();
        decoder.push(&u32::try_from(frame.len()).unwrap().to_le_bytes());
        assert!(!decoder.is_at_boundary());
        decoder.push(frame);
        assert!(matches!(decoder.next_message(), Err(MapStreamError::Zstd(_))));
    }

    proptest! {
        #[test]
        fn messages_come_back(messages in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..3000), any::<bool>()), 0..5), cut in 1usize..4000) {
            // A plain message that looks like a zstd frame cannot be JSON.
            prop_assume!(messages.iter().all(|(message, _)| !message.starts_with(&ZSTD_MAGIC)));
            let wire: Vec<u8> = messages.iter().flat_map(|(message, zstd)| encode(message, *zstd).unwrap()).collect();
            let mut decoder = MapDecoder::new();
            let mut read = Vec::new();
            for chunk in wire.chunks(cut) {
                read.extend(decode_all(&mut decoder, chunk));
            }
            prop_assert!(decoder.is_at_boundary());
            prop_assert_eq!(read, messages.into_iter().map(|(message, _)| message).collect::<Vec<_>>());
        }

        #[test]
        fn no_bytes_make_it_panic(garbage in prop::collection::vec(any::<u8>(), 0..2000), zstd in any::<bool>()) {
            let mut decoder = MapDecoder::new();
            if zstd {
                decoder.push(&u32::try_from(garbage.len() + 4).unwrap().to_le_bytes());
                decoder.push(&ZSTD_MAGIC);
            }
            decoder.push(&garbage);
            while let Ok(Some(_)) = decoder.next_message() {}
        }
    }
}
