//! ts2021 in one page: the Noise handshake, its records and the early payload, without any socket.
//!
//! ```text
//! client                                                     coordinator
//!   Initiator::start ── 101 bytes, base64 in a header ──────▶ Responder::accept
//!   Initiator::finish ◀─────────── 51 bytes after the 101 ── (response)
//!   Transport ◀════════ records of at most 4096 bytes ══════▶ Transport
//!   EarlyDecoder ◀───────── optional early payload ───────── EarlyPayload::encode
//!              then HTTP/2, the client with prior knowledge
//! ```
//!
//! The pattern is `Noise_IK_25519_ChaChaPoly_BLAKE2s` with one departure from the Noise specification: the record nonce
//! counts in **big-endian**, so a library's transport mode would fail from the second record on. All lengths of this
//! layer are big-endian as well. A bad tag or a bad header ends the connection for good: the counters are out of step.

mod early;
mod handshake;
mod record;

pub use early::{EarlyDecoder, EarlyError, EarlyOutcome, EarlyPayload};
pub use handshake::{
    Accepted, HandshakeError, INITIATION_LEN, Initiator, RESPONSE_LEN, Responder, encode_error_frame, take_response,
};
pub use record::{MAX_PLAINTEXT, MAX_RECORD, RecordDecoder, RecordError, Sealer, Transport};

/// The capability version that this client announces in all four places where the protocol wants it.
///
/// 131 is Tailscale 1.92: what a server may send to such a client is all implemented, and nothing later matters here.
pub const CAPABILITY_VERSION: u16 = 131;

#[cfg(test)]
mod tests;
