//! The early payload: what a coordinator may say between the handshake and its first HTTP/2 byte.
//!
//! Nine bytes decide: `FF FF FF 'T' 'S'` and a 32-bit big-endian length open a JSON object with a challenge for the node
//! key (which we have no use for); anything else is already HTTP/2, whose frame lengths cannot begin so. Record borders
//! mean nothing here.

use bytes::{Buf, BytesMut};
use serde::{Deserialize, Serialize};

use crate::keys::ChallengePublicKey;

const MAGIC: [u8; 5] = [0xff, 0xff, 0xff, b'T', b'S'];
const HEADER_LEN: usize = 9;
const MAX_JSON: usize = 64 * 1024;

/// Why an early payload cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EarlyError {
    /// Longer than anything sensible.
    #[error("early payload announces {0} bytes, more than 65536")]
    TooLong(u32),
    /// Not the JSON it should be.
    #[error("early payload is not the expected json")]
    Json(#[source] serde_json::Error),
}

/// The early payload's JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EarlyPayload {
    /// Challenge for the node key.
    #[serde(rename = "nodeKeyChallenge", default, skip_serializing_if = "Option::is_none")]
    pub node_key_challenge: Option<ChallengePublicKey>,
}

impl EarlyPayload {
    /// The bytes as they stand in the plaintext.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let json = self.node_key_challenge.map_or_else(
            || "{}".to_owned(),
            |challenge| format!("{{\"nodeKeyChallenge\":\"{challenge}\"}}"),
        );
        let length = u32::try_from(json.len()).unwrap_or(0);
        [&MAGIC[..], &length.to_be_bytes(), json.as_bytes()].concat()
    }
}

/// What the first plaintext bytes were.
#[derive(Debug)]
pub struct EarlyOutcome {
    /// The payload, if there was one.
    pub payload: Option<EarlyPayload>,
    /// Bytes that belong to HTTP/2.
    pub rest: BytesMut,
}

/// Collects plaintext until it is clear whether there is an early payload, and until that is complete.
#[derive(Debug, Default)]
pub struct EarlyDecoder {
    plaintext: BytesMut,
}

impl EarlyDecoder {
    /// Takes the next plaintext; yields once everything is known. A yielded decoder starts anew.
    ///
    /// # Errors
    /// [`EarlyError`] when a payload is announced that is too long or is not JSON.
    pub fn push(&mut self, plaintext: &[u8]) -> Result<Option<EarlyOutcome>, EarlyError> {
        self.plaintext.extend_from_slice(plaintext);
        let magic = self.plaintext.len().min(MAGIC.len());
        if self.plaintext[..magic] != MAGIC[..magic] {
            return Ok(Some(EarlyOutcome {
                payload: None,
                rest: self.plaintext.split(),
            }));
        }
        let Some(header) = self.plaintext.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let announced = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
        let length = usize::try_from(announced).ok().filter(|length| *length <= MAX_JSON);
        let length = length.ok_or(EarlyError::TooLong(announced))?;
        let Some(json) = self.plaintext.get(HEADER_LEN..HEADER_LEN + length) else {
            return Ok(None);
        };
        let payload = serde_json::from_slice(json).map_err(EarlyError::Json)?;
        self.plaintext.advance(HEADER_LEN + length);
        Ok(Some(EarlyOutcome {
            payload: Some(payload),
            rest: self.plaintext.split(),
        }))
    }
}
