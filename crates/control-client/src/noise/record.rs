//! Records: type `04`, a 16-bit big-endian length, ciphertext; at most 4096 bytes in all.
//!
//! The two directions are independent ([`Sealer`], [`RecordDecoder`]), so that a reader and a writer task need no lock.

use bytes::{Buf, BytesMut};
use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, Nonce, Tag};

/// Largest record with its header.
pub const MAX_RECORD: usize = 4096;
/// Largest plaintext of one record.
pub const MAX_PLAINTEXT: usize = MAX_RECORD - HEADER_LEN - TAG_LEN;

const HEADER_LEN: usize = 3;
const TAG_LEN: usize = 16;
const TYPE_RECORD: u8 = 4;

/// Why the records of a connection cannot be read or written any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// A header that no record has.
    #[error("record header has type {kind} and length {length}")]
    Header {
        /// Type byte.
        kind: u8,
        /// Length field.
        length: u16,
    },
    /// The record was altered, or records are missing.
    #[error("record does not authenticate, the connection is unusable")]
    Authentication,
    /// The counter has come to its end.
    #[error("record counter is exhausted, the connection is unusable")]
    Exhausted,
}

struct Direction {
    cipher: ChaCha20Poly1305,
    counter: u64,
}

impl Direction {
    fn new(key: &[u8; 32]) -> Self {
        Self {
            cipher: ChaCha20Poly1305::new(key.into()),
            counter: 0,
        }
    }

    fn next_nonce(&mut self) -> Result<Nonce, RecordError> {
        if self.counter == u64::MAX {
            return Err(RecordError::Exhausted);
        }
        let mut nonce = [0u8; 12];
        nonce[4..].copy_from_slice(&self.counter.to_be_bytes());
        self.counter += 1;
        Ok(nonce.into())
    }
}

/// Both directions of a connection after its handshake.
pub struct Transport {
    /// Seals what this side sends.
    pub sealer: Sealer,
    /// Opens what this side receives.
    pub decoder: RecordDecoder,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Transport")
    }
}

impl Transport {
    pub(super) fn new(send_key: &[u8; 32], receive_key: &[u8; 32]) -> Self {
        Self {
            sealer: Sealer {
                direction: Direction::new(send_key),
            },
            decoder: RecordDecoder {
                direction: Direction::new(receive_key),
                received: BytesMut::new(),
                failed: None,
            },
        }
    }
}

/// Turns plaintext into records.
pub struct Sealer {
    direction: Direction,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer")
            .field("counter", &self.direction.counter)
            .finish_non_exhaustive()
    }
}

impl Sealer {
    /// Appends `plaintext` to `out` as as many records as it needs; empty plaintext makes no record.
    ///
    /// # Errors
    /// [`RecordError::Exhausted`] after 2^64 - 1 records.
    pub fn seal(&mut self, plaintext: &[u8], out: &mut BytesMut) -> Result<(), RecordError> {
        for chunk in plaintext.chunks(MAX_PLAINTEXT) {
            let nonce = self.direction.next_nonce()?;
            let length = u16::try_from(chunk.len() + TAG_LEN).map_err(|_| RecordError::Exhausted)?;
            out.reserve(HEADER_LEN + chunk.len() + TAG_LEN);
            out.extend_from_slice(&[TYPE_RECORD]);
            out.extend_from_slice(&length.to_be_bytes());
            let start = out.len();
            out.extend_from_slice(chunk);
            let tag = self
                .direction
                .cipher
                .encrypt_in_place_detached(&nonce, &[], &mut out[start..])
                .map_err(|_| RecordError::Exhausted)?;
            out.extend_from_slice(&tag);
        }
        Ok(())
    }
}

/// Turns received bytes into plaintext, however the bytes are cut.
pub struct RecordDecoder {
    direction: Direction,
    received: BytesMut,
    failed: Option<RecordError>,
}

impl std::fmt::Debug for RecordDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordDecoder")
            .field("counter", &self.direction.counter)
            .finish_non_exhaustive()
    }
}

impl RecordDecoder {
    /// Takes bytes from the connection; bounded by what the caller reads at once, since records are at most 4 KiB.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.received.extend_from_slice(bytes);
        }
    }

    /// The buffer to read into directly.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.received
    }

    /// The next record's plaintext, never empty; nothing while the next record is incomplete.
    ///
    /// # Errors
    /// [`RecordError`], and the same again on every later call.
    pub fn next_plaintext(&mut self) -> Result<Option<BytesMut>, RecordError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.decode().inspect_err(|&error| {
            self.failed = Some(error);
            self.received.clear();
        })
    }

    fn decode(&mut self) -> Result<Option<BytesMut>, RecordError> {
        loop {
            let Some(&[kind, high, low]) = self.received.first_chunk::<HEADER_LEN>() else {
                return Ok(None);
            };
            let length = u16::from_be_bytes([high, low]);
            let body = usize::from(length);
            if kind != TYPE_RECORD || !(TAG_LEN..=MAX_RECORD - HEADER_LEN).contains(&body) {
                return Err(RecordError::Header { kind, length });
            }
            if self.received.len() < HEADER_LEN + body {
                return Ok(None);
            }
            self.received.advance(HEADER_LEN);
            let mut plaintext = self.received.split_to(body);
            let tag = plaintext.split_off(body - TAG_LEN);
            let nonce = self.direction.next_nonce()?;
            self.direction
                .cipher
                .decrypt_in_place_detached(&nonce, &[], &mut plaintext, Tag::from_slice(&tag))
                .map_err(|_| RecordError::Authentication)?;
            if !plaintext.is_empty() {
                return Ok(Some(plaintext));
            }
        }
    }
}
