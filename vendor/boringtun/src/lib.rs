// Copyright (c) 2019 Cloudflare, Inc. All rights reserved.
// SPDX-License-Identifier: BSD-3-Clause

//! WireGuard's handshake and nothing else: a fork of boringtun 0.7.1's `noise` (see README.md for what was changed).
//!
//! [`Identity`] holds one's own static key and reads who sent an initiation; [`Handshake`] is one peer's part of it.
//! A completed handshake is a pair of [`SessionKeys`]; transport data and timers are the caller's. [`CookieChecker`]
//! judges mac1 and mac2 before any Diffie-Hellman is spent. Time is an argument everywhere.

mod cookie;
mod errors;
mod handshake;

use std::convert::TryInto;

/// The types of X25519 keys.
pub mod x25519 {
    pub use x25519_dalek::{PublicKey, StaticSecret};
}

pub use cookie::CookieChecker;
pub use errors::WireGuardError;
pub use handshake::{Clock, Handshake, Identity, Initiator, PresharedKey, SessionKeys};

type MessageType = u32;
const HANDSHAKE_INIT: MessageType = 1;
const HANDSHAKE_RESP: MessageType = 2;
const COOKIE_REPLY: MessageType = 3;

/// Length of an initiation.
pub const HANDSHAKE_INIT_SZ: usize = 148;
/// Length of a response.
pub const HANDSHAKE_RESP_SZ: usize = 92;
/// Length of a cookie reply.
pub const COOKIE_REPLY_SZ: usize = 64;

/// A message of type 1, its fields not yet proven.
#[derive(Debug)]
pub struct HandshakeInit<'a> {
    sender_idx: u32,
    unencrypted_ephemeral: &'a [u8; 32],
    encrypted_static: &'a [u8],
    encrypted_timestamp: &'a [u8],
}

/// A message of type 2, its fields not yet proven.
#[derive(Debug)]
pub struct HandshakeResponse<'a> {
    sender_idx: u32,
    /// The index that our initiation carried.
    pub receiver_idx: u32,
    unencrypted_ephemeral: &'a [u8; 32],
    encrypted_nothing: &'a [u8],
}

/// A message of type 3, its fields not yet proven.
#[derive(Debug)]
pub struct PacketCookieReply<'a> {
    /// The index that our message carried.
    pub receiver_idx: u32,
    nonce: &'a [u8; 24],
    encrypted_cookie: &'a [u8],
}

/// A message of the handshake.
#[derive(Debug)]
pub enum Packet<'a> {
    /// Type 1.
    HandshakeInit(HandshakeInit<'a>),
    /// Type 2.
    HandshakeResponse(HandshakeResponse<'a>),
    /// Type 3.
    PacketCookieReply(PacketCookieReply<'a>),
}

impl<'a> Packet<'a> {
    /// Reads type and fields of a datagram.
    ///
    /// # Errors
    ///
    /// When type and length are not those of a handshake message.
    #[inline(always)]
    pub fn parse(src: &'a [u8]) -> Result<Packet<'a>, WireGuardError> {
        if src.len() < 4 {
            return Err(WireGuardError::InvalidPacket);
        }

        // Checks the type, as well as the reserved zero fields
        let packet_type = u32::from_le_bytes(src[0..4].try_into().unwrap());

        Ok(match (packet_type, src.len()) {
            (HANDSHAKE_INIT, HANDSHAKE_INIT_SZ) => Packet::HandshakeInit(HandshakeInit {
                sender_idx: u32::from_le_bytes(src[4..8].try_into().unwrap()),
                unencrypted_ephemeral: <&[u8; 32] as TryFrom<&[u8]>>::try_from(&src[8..40])
                    .expect("length already checked above"),
                encrypted_static: &src[40..88],
                encrypted_timestamp: &src[88..116],
            }),
            (HANDSHAKE_RESP, HANDSHAKE_RESP_SZ) => Packet::HandshakeResponse(HandshakeResponse {
                sender_idx: u32::from_le_bytes(src[4..8].try_into().unwrap()),
                receiver_idx: u32::from_le_bytes(src[8..12].try_into().unwrap()),
                unencrypted_ephemeral: <&[u8; 32] as TryFrom<&[u8]>>::try_from(&src[12..44])
                    .expect("length already checked above"),
                encrypted_nothing: &src[44..60],
            }),
            (COOKIE_REPLY, COOKIE_REPLY_SZ) => Packet::PacketCookieReply(PacketCookieReply {
                receiver_idx: u32::from_le_bytes(src[4..8].try_into().unwrap()),
                nonce: <&[u8; 24] as TryFrom<&[u8]>>::try_from(&src[8..32])
                    .expect("length already checked above"),
                encrypted_cookie: &src[32..64],
            }),
            _ => return Err(WireGuardError::InvalidPacket),
        })
    }
}

#[cfg(test)]
mod tests;
