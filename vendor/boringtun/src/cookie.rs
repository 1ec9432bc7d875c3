// Copyright (c) 2019 Cloudflare, Inc. All rights reserved.
// SPDX-License-Identifier: BSD-3-Clause

//! mac1, mac2 and cookie replies: what a responder checks before it spends a Diffie-Hellman.

use crate::handshake::{b2s_hash, b2s_keyed_mac_16, b2s_keyed_mac_16_2, LABEL_COOKIE, LABEL_MAC1};
use crate::{WireGuardError, COOKIE_REPLY_SZ, HANDSHAKE_INIT_SZ, HANDSHAKE_RESP_SZ};
use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{Key, KeyInit, XChaCha20Poly1305, XNonce};
use std::convert::TryInto;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq;
use x25519_dalek::PublicKey;
use zeroize::Zeroizing;

/// How long the secret behind the cookies is in use.
const COOKIE_REFRESH: Duration = Duration::from_secs(120);
const COOKIE_SIZE: usize = 16;

type Cookie = [u8; COOKIE_SIZE];

/// Judges the two MACs of handshake messages for one static key, and makes cookie replies.
///
/// A cookie proves that its holder receives what is sent to an address and port. It is a MAC over both under a secret
/// that is replaced every two minutes.
pub struct CookieChecker {
    mac1_key: [u8; 32],
    cookie_key: Key,
    secret: Zeroizing<[u8; 32]>,
    secret_born: Option<Instant>,
}

impl CookieChecker {
    /// A checker for the node with this public key.
    pub fn new(public_key: &PublicKey) -> Self {
        CookieChecker {
            mac1_key: b2s_hash(LABEL_MAC1, public_key.as_bytes()),
            cookie_key: b2s_hash(LABEL_COOKIE, public_key.as_bytes()).into(),
            secret: Zeroizing::new([0u8; 32]),
            secret_born: None,
        }
    }

    /// Whether whoever made this message knows our public key. Others get no answer.
    pub fn check_mac1(&self, datagram: &[u8]) -> bool {
        let Some((msg, mac1, _)) = split_macs(datagram) else {
            return false;
        };
        b2s_keyed_mac_16(&self.mac1_key, msg)[..].ct_eq(mac1).into()
    }

    /// Whether the message carries the cookie that `source` was given lately.
    pub fn check_mac2(&mut self, datagram: &[u8], source: SocketAddr, now: Instant) -> bool {
        let cookie = self.current_cookie(source, now);
        let Some((msg, mac1, mac2)) = split_macs(datagram) else {
            return false;
        };
        b2s_keyed_mac_16_2(&cookie, msg, mac1)[..]
            .ct_eq(mac2)
            .into()
    }

    /// The answer to a message whose mac1 is right, but whose sender has yet to prove its address.
    ///
    /// # Errors
    ///
    /// When the datagram is neither an initiation nor a response.
    pub fn reply(
        &mut self,
        datagram: &[u8],
        source: SocketAddr,
        now: Instant,
    ) -> Result<[u8; COOKIE_REPLY_SZ], WireGuardError> {
        let cookie = self.current_cookie(source, now);
        let Some((msg, mac1, _)) = split_macs(datagram) else {
            return Err(WireGuardError::InvalidPacket);
        };
        let mut dst = [0u8; COOKIE_REPLY_SZ];
        let (message_type, rest) = dst.split_at_mut(4);
        let (receiver_index, rest) = rest.split_at_mut(4);
        let (nonce, rest) = rest.split_at_mut(24);
        let (encrypted_cookie, tag) = rest.split_at_mut(16);

        // msg.message_type = 3
        // msg.reserved_zero = { 0, 0, 0 }
        message_type.copy_from_slice(&crate::COOKIE_REPLY.to_le_bytes());
        // msg.receiver_index = little_endian(initiator.sender_index)
        receiver_index.copy_from_slice(&msg[4..8]);
        fill_random(nonce);

        let cipher = XChaCha20Poly1305::new(&self.cookie_key);
        encrypted_cookie.copy_from_slice(&cookie);
        let made = cipher
            .encrypt_in_place_detached(XNonce::from_slice(nonce), mac1, encrypted_cookie)
            .map_err(|_| WireGuardError::InvalidPacket)?;
        tag.copy_from_slice(&made);
        Ok(dst)
    }

    /// The cookie of this source under the secret of the present two minutes.
    fn current_cookie(&mut self, source: SocketAddr, now: Instant) -> Cookie {
        let stale = |born: Instant| now.saturating_duration_since(born) >= COOKIE_REFRESH;
        if self.secret_born.is_none_or(stale) {
            fill_random(&mut self.secret[..]);
            self.secret_born = Some(now);
        }
        let mut addr_bytes = [0u8; 16];
        match source.ip() {
            IpAddr::V4(a) => addr_bytes[..4].copy_from_slice(&a.octets()[..]),
            IpAddr::V6(a) => addr_bytes[..].copy_from_slice(&a.octets()[..]),
        }
        b2s_keyed_mac_16_2(&self.secret[..], &addr_bytes, &source.port().to_be_bytes())
    }
}

impl std::fmt::Debug for CookieChecker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CookieChecker(..)")
    }
}

/// The message without its MACs, mac1 and mac2.
fn split_macs(datagram: &[u8]) -> Option<(&[u8], &[u8; 16], &[u8; 16])> {
    if !matches!(datagram.len(), HANDSHAKE_INIT_SZ | HANDSHAKE_RESP_SZ) {
        return None;
    }
    let (msg, macs) = datagram.split_at(datagram.len() - 32);
    let (mac1, mac2) = macs.split_at(16);
    Some((msg, mac1.try_into().ok()?, mac2.try_into().ok()?))
}

pub(crate) fn fill_random(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the operating system provides randomness");
}
