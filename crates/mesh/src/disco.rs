//! Disco: the packets that find and prove direct paths.
//!
//! | offset | length | field |
//! |---|---|---|
//! | 0 | 6 | magic `TS` and U+1F4AC in UTF-8 |
//! | 6 | 32 | sender's disco public key |
//! | 38 | 24 | nonce, random for each packet |
//! | 62 | 16 + n | NaCl box: tag and ciphertext of the [`Message`] |
//!
//! A receiver drops, before any cryptography, what comes from a key it does not know, and answers nothing to what does
//! not open. After Tailscale's `disco/disco.go`.

mod envelope;
mod features;
mod geneve;
mod message;

pub use envelope::{DiscoBox, looks_like, sender};
pub use features::{Features, Nat};
pub use geneve::{GeneveHeader, GeneveProtocol};
pub use message::{DecodeError, Message, RelayEndpoint, RelayHandshake, TxId};

#[cfg(test)]
mod tests;
