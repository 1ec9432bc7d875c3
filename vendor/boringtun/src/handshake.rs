// Copyright (c) 2019 Cloudflare, Inc. All rights reserved.
// SPDX-License-Identifier: BSD-3-Clause

//! The handshake of one peer (Noise IKpsk2 as WireGuard uses it), both sides of it.

use crate::{
    HandshakeInit, HandshakeResponse, PacketCookieReply, WireGuardError, HANDSHAKE_INIT_SZ,
    HANDSHAKE_RESP_SZ,
};
use blake2::digest::{FixedOutput, KeyInit};
use blake2::{Blake2s256, Blake2sMac, Digest};
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use ring::aead::{Aad, LessSafeKey, Nonce, UnboundKey, CHACHA20_POLY1305};
use std::convert::TryInto;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use subtle::ConstantTimeEq;
use x25519_dalek::{PublicKey, ReusableSecret, SharedSecret, StaticSecret};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

pub(crate) const LABEL_MAC1: &[u8; 8] = b"mac1----";
pub(crate) const LABEL_COOKIE: &[u8; 8] = b"cookie--";
const KEY_LEN: usize = 32;
const TIMESTAMP_LEN: usize = 12;
/// How long a cookie that we were given is used.
const COOKIE_EXPIRATION_TIME: Duration = Duration::from_secs(120);

// initiator.chaining_key = HASH(CONSTRUCTION)
const INITIAL_CHAIN_KEY: [u8; KEY_LEN] = [
    96, 226, 109, 174, 243, 39, 239, 192, 46, 195, 53, 226, 160, 37, 210, 208, 22, 235, 66, 6, 248,
    114, 119, 245, 45, 56, 209, 152, 139, 120, 205, 54,
];

// initiator.chaining_hash = HASH(initiator.chaining_key || IDENTIFIER)
const INITIAL_CHAIN_HASH: [u8; KEY_LEN] = [
    34, 17, 179, 97, 8, 26, 197, 102, 105, 18, 67, 219, 69, 138, 213, 50, 45, 156, 108, 102, 34,
    147, 232, 183, 14, 225, 156, 101, 186, 7, 158, 243,
];

#[inline]
pub(crate) fn b2s_hash(data1: &[u8], data2: &[u8]) -> [u8; 32] {
    let mut hash = Blake2s256::new();
    hash.update(data1);
    hash.update(data2);
    hash.finalize().into()
}

#[inline]
/// RFC 2401 HMAC+Blake2s, not to be confused with *keyed* Blake2s
pub(crate) fn b2s_hmac(key: &[u8], data1: &[u8]) -> Secret {
    use blake2::digest::Update;
    type HmacBlake2s = hmac::SimpleHmac<Blake2s256>;
    let mut hmac = HmacBlake2s::new_from_slice(key).unwrap();
    hmac.update(data1);
    Zeroizing::new(hmac.finalize_fixed().into())
}

#[inline]
/// Like b2s_hmac, but chain data1 and data2 together
pub(crate) fn b2s_hmac2(key: &[u8], data1: &[u8], data2: &[u8]) -> Secret {
    use blake2::digest::Update;
    type HmacBlake2s = hmac::SimpleHmac<Blake2s256>;
    let mut hmac = HmacBlake2s::new_from_slice(key).unwrap();
    hmac.update(data1);
    hmac.update(data2);
    Zeroizing::new(hmac.finalize_fixed().into())
}

#[inline]
pub(crate) fn b2s_keyed_mac_16(key: &[u8], data1: &[u8]) -> [u8; 16] {
    let mut hmac = Blake2sMac::new_from_slice(key).unwrap();
    blake2::digest::Update::update(&mut hmac, data1);
    hmac.finalize_fixed().into()
}

#[inline]
pub(crate) fn b2s_keyed_mac_16_2(key: &[u8], data1: &[u8], data2: &[u8]) -> [u8; 16] {
    let mut hmac = Blake2sMac::new_from_slice(key).unwrap();
    blake2::digest::Update::update(&mut hmac, data1);
    blake2::digest::Update::update(&mut hmac, data2);
    hmac.finalize_fixed().into()
}

#[inline]
/// This wrapper involves an extra copy and MAY BE SLOWER
fn aead_chacha20_seal(ciphertext: &mut [u8], key: &[u8], counter: u64, data: &[u8], aad: &[u8]) {
    let mut nonce: [u8; 12] = [0; 12];
    nonce[4..12].copy_from_slice(&counter.to_le_bytes());

    aead_chacha20_seal_inner(ciphertext, key, nonce, data, aad)
}

#[inline]
fn aead_chacha20_seal_inner(
    ciphertext: &mut [u8],
    key: &[u8],
    nonce: [u8; 12],
    data: &[u8],
    aad: &[u8],
) {
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).unwrap());

    ciphertext[..data.len()].copy_from_slice(data);

    let tag = key
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(aad),
            &mut ciphertext[..data.len()],
        )
        .unwrap();

    ciphertext[data.len()..].copy_from_slice(tag.as_ref());
}

#[inline]
/// This wrapper involves an extra copy and MAY BE SLOWER
fn aead_chacha20_open(
    buffer: &mut [u8],
    key: &[u8],
    counter: u64,
    data: &[u8],
    aad: &[u8],
) -> Result<(), WireGuardError> {
    let mut nonce: [u8; 12] = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());

    aead_chacha20_open_inner(buffer, key, nonce, data, aad)
        .map_err(|_| WireGuardError::InvalidAeadTag)?;
    Ok(())
}

#[inline]
fn aead_chacha20_open_inner(
    buffer: &mut [u8],
    key: &[u8],
    nonce: [u8; 12],
    data: &[u8],
    aad: &[u8],
) -> Result<(), ring::error::Unspecified> {
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).unwrap());

    let mut inner_buffer = Zeroizing::new(data.to_owned());

    let plaintext = key.open_in_place(
        Nonce::assume_unique_for_key(nonce),
        Aad::from(aad),
        &mut inner_buffer,
    )?;

    buffer.copy_from_slice(plaintext);

    Ok(())
}

/// What a hash makes that keys come from: wiped when it is dropped.
type Secret = Zeroizing<[u8; KEY_LEN]>;

/// A 12 byte [Tai64N](https://cr.yp.to/libtai/tai64.html) timestamp, big-endian: it compares as time does.
type Tai64N = [u8; TIMESTAMP_LEN];

/// Tells the wall clock's time of an [`Instant`], so that no clock has to be read here.
///
/// It counts from one reading of both clocks, so that setting the wall clock back does not make us send timestamps that
/// peers take for replays.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    unix_at_start: Duration,
    instant_at_start: Instant,
}

impl Clock {
    /// A clock of one reading of both.
    pub fn new(wall: SystemTime, now: Instant) -> Clock {
        Clock {
            unix_at_start: wall
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default(),
            instant_at_start: now,
        }
    }

    /// The timestamp of `now`, rounded down as other implementations do, lest it tells how exact our clock is; newer
    /// than `last` in any case.
    pub(crate) fn stamp(&self, now: Instant, last: &Tai64N) -> Tai64N {
        const TAI64_BASE: u64 = (1u64 << 62) + 37;
        const WHITENER_MASK: u32 = 0x00ff_ffff;
        let time = self.unix_at_start + now.saturating_duration_since(self.instant_at_start);
        let stamp = encode(
            time.as_secs() + TAI64_BASE,
            time.subsec_nanos() & !WHITENER_MASK,
        );
        if stamp > *last {
            return stamp;
        }
        let (secs, nanos) = last.split_at(8);
        let secs = u64::from_be_bytes(secs.try_into().unwrap());
        let nanos = u32::from_be_bytes(nanos.try_into().unwrap());
        match nanos.saturating_add(WHITENER_MASK + 1) {
            more if more < 1_000_000_000 => encode(secs, more),
            _ => encode(secs + 1, 0),
        }
    }
}

fn encode(secs: u64, nanos: u32) -> Tai64N {
    let mut stamp = [0u8; TIMESTAMP_LEN];
    stamp[..8].copy_from_slice(&secs.to_be_bytes());
    stamp[8..].copy_from_slice(&nanos.to_be_bytes());
    stamp
}

/// One's own static key with what follows from it; shared by the handshakes with all peers.
pub struct Identity {
    static_public: PublicKey,
    static_private: StaticSecret,
    clock: Clock,
}

impl Identity {
    /// The identity of this private key.
    pub fn new(static_private: StaticSecret, clock: Clock) -> Identity {
        Identity {
            static_public: PublicKey::from(&static_private),
            static_private,
            clock,
        }
    }

    /// The public key.
    pub fn public(&self) -> &PublicKey {
        &self.static_public
    }

    /// Opens an initiation as far as its sender's static key, at the price of one Diffie-Hellman.
    ///
    /// # Errors
    ///
    /// When it was not made for us, or with a weak key.
    pub fn read_initiation(&self, packet: &HandshakeInit) -> Result<Initiator, WireGuardError> {
        // initiator.chaining_key = HASH(CONSTRUCTION)
        let mut chaining_key = Zeroizing::new(INITIAL_CHAIN_KEY);
        // initiator.hash = HASH(HASH(initiator.chaining_key || IDENTIFIER) || responder.static_public)
        let mut hash = INITIAL_CHAIN_HASH;
        hash = b2s_hash(&hash, self.static_public.as_bytes());
        // msg.unencrypted_ephemeral = DH_PUBKEY(initiator.ephemeral_private)
        let peer_ephemeral_public = PublicKey::from(*packet.unencrypted_ephemeral);
        // initiator.hash = HASH(initiator.hash || msg.unencrypted_ephemeral)
        hash = b2s_hash(&hash, peer_ephemeral_public.as_bytes());
        // temp = HMAC(initiator.chaining_key, msg.unencrypted_ephemeral)
        // initiator.chaining_key = HMAC(temp, 0x1)
        chaining_key = b2s_hmac(
            &b2s_hmac(&chaining_key[..], peer_ephemeral_public.as_bytes())[..],
            &[0x01],
        );
        // temp = HMAC(initiator.chaining_key, DH(initiator.ephemeral_private, responder.static_public))
        let ephemeral_shared =
            contributory(self.static_private.diffie_hellman(&peer_ephemeral_public))?;
        let temp = b2s_hmac(&chaining_key[..], ephemeral_shared.as_bytes());
        // initiator.chaining_key = HMAC(temp, 0x1)
        chaining_key = b2s_hmac(&temp[..], &[0x01]);
        // key = HMAC(temp, initiator.chaining_key || 0x2)
        let key = b2s_hmac2(&temp[..], &chaining_key[..], &[0x02]);

        let mut peer_static_public = [0u8; KEY_LEN];
        // msg.encrypted_static = AEAD(key, 0, initiator.static_public, initiator.hash)
        aead_chacha20_open(
            &mut peer_static_public,
            &key[..],
            0,
            packet.encrypted_static,
            &hash,
        )?;
        // initiator.hash = HASH(initiator.hash || msg.encrypted_static)
        hash = b2s_hash(&hash, packet.encrypted_static);

        Ok(Initiator {
            peer_index: packet.sender_idx,
            static_public: PublicKey::from(peer_static_public),
            ephemeral_public: peer_ephemeral_public,
            hash,
            chaining_key,
            encrypted_timestamp: packet
                .encrypted_timestamp
                .try_into()
                .map_err(|_| WireGuardError::InvalidPacket)?,
        })
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("static_public", &self.static_public)
            .finish_non_exhaustive()
    }
}

/// Who sent an initiation, by what it says; the timestamp behind is still to be opened, and proves it.
pub struct Initiator {
    peer_index: u32,
    static_public: PublicKey,
    ephemeral_public: PublicKey,
    hash: [u8; KEY_LEN],
    chaining_key: Secret,
    encrypted_timestamp: [u8; TIMESTAMP_LEN + 16],
}

impl Initiator {
    /// The static key that the sender claims to have.
    pub fn static_public(&self) -> &PublicKey {
        &self.static_public
    }
}

impl std::fmt::Debug for Initiator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Initiator")
            .field("static_public", &self.static_public)
            .finish_non_exhaustive()
    }
}

/// A preshared key. It does not print and is wiped.
#[derive(Clone)]
pub struct PresharedKey(Secret);

impl PresharedKey {
    /// The key of these bytes.
    pub fn new(bytes: [u8; KEY_LEN]) -> PresharedKey {
        PresharedKey(Zeroizing::new(bytes))
    }
}

impl std::fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PresharedKey(..)")
    }
}

/// What a completed handshake is for.
pub struct SessionKeys {
    /// Seals what we send.
    pub send: Zeroizing<[u8; KEY_LEN]>,
    /// Opens what we receive.
    pub recv: Zeroizing<[u8; KEY_LEN]>,
    /// The index that the peer's messages carry.
    pub local_index: u32,
    /// The index that our messages carry.
    pub remote_index: u32,
}

impl std::fmt::Debug for SessionKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "SessionKeys({:08x} {:08x})",
            self.local_index, self.remote_index
        )
    }
}

/// Parameters used by the noise protocol
struct NoiseParams {
    /// Our static key
    identity: Arc<Identity>,
    /// Static public key of the other party
    peer_static_public: PublicKey,
    /// A shared key = DH(static_private, peer_static_public)
    static_shared: SharedSecret,
    /// A pre-computation of HASH("mac1----", peer_static_public) for this peer
    sending_mac1_key: [u8; KEY_LEN],
    /// An optional preshared key
    preshared_key: Option<PresharedKey>,
}

/// An initiation of ours that waits for its answer.
#[derive(Zeroize, ZeroizeOnDrop)]
struct InitSent {
    #[zeroize(skip)]
    local_index: u32,
    hash: [u8; KEY_LEN],
    chaining_key: [u8; KEY_LEN],
    ephemeral_private: ReusableSecret,
}

/// One peer's handshakes.
pub struct Handshake {
    params: NoiseParams,
    /// The two latest initiations: a network may delay the answer to the first beyond the second. Boxed, so that they
    /// take no memory most of the time and moving them leaves no copies.
    sent: [Option<Box<InitSent>>; 2],
    cookies: Cookies,
    /// The timestamp of the last initiation we received
    last_received: Tai64N,
    /// The timestamp of the last initiation we sent
    last_sent: Tai64N,
}

#[derive(Default)]
struct Cookies {
    last_mac1: Option<[u8; 16]>,
    index: u32,
    write_cookie: Option<([u8; 16], Instant)>,
}

impl NoiseParams {
    /// New noise params struct from our secret key, peers public key, and optional preshared key
    fn new(
        identity: Arc<Identity>,
        peer_static_public: PublicKey,
        preshared_key: Option<PresharedKey>,
    ) -> NoiseParams {
        let static_shared = identity.static_private.diffie_hellman(&peer_static_public);

        let initial_sending_mac_key = b2s_hash(LABEL_MAC1, peer_static_public.as_bytes());

        NoiseParams {
            identity,
            peer_static_public,
            static_shared,
            sending_mac1_key: initial_sending_mac_key,
            preshared_key,
        }
    }

    fn preshared_key(&self) -> &[u8] {
        self.preshared_key
            .as_ref()
            .map_or(&[0u8; KEY_LEN], |key| &*key.0)
    }
}

impl Handshake {
    /// The handshakes with the peer of this key. It costs one Diffie-Hellman.
    pub fn new(
        identity: Arc<Identity>,
        peer_static_public: PublicKey,
        preshared_key: Option<PresharedKey>,
    ) -> Handshake {
        Handshake {
            params: NoiseParams::new(identity, peer_static_public, preshared_key),
            sent: [None, None],
            last_received: [0u8; TIMESTAMP_LEN],
            last_sent: [0u8; TIMESTAMP_LEN],
            cookies: Default::default(),
        }
    }

    /// The peer's static key.
    pub fn peer(&self) -> &PublicKey {
        &self.params.peer_static_public
    }

    /// The indices of initiations that still wait for an answer, the newest first.
    pub fn waiting(&self) -> impl Iterator<Item = u32> + '_ {
        self.sent.iter().flatten().map(|sent| sent.local_index)
    }

    /// Forgets the initiations that wait, with their ephemeral keys.
    pub fn forget(&mut self) {
        self.sent = [None, None];
    }

    /// The answer to an initiation of this handshake's peer, and the session it makes. `local_index` is what the peer's
    /// messages on it will carry.
    ///
    /// # Errors
    ///
    /// When it is another peer's, not authentic, or not newer than the last one. Nothing has changed then.
    pub fn respond(
        &mut self,
        initiator: &Initiator,
        local_index: u32,
        now: Instant,
    ) -> Result<([u8; HANDSHAKE_RESP_SZ], SessionKeys), WireGuardError> {
        if !bool::from(
            self.params
                .peer_static_public
                .as_bytes()
                .ct_eq(initiator.static_public.as_bytes()),
        ) {
            return Err(WireGuardError::WrongKey);
        }
        if !self.params.static_shared.was_contributory() {
            return Err(WireGuardError::WeakKey);
        }
        let mut hash = initiator.hash;
        // temp = HMAC(initiator.chaining_key, DH(initiator.static_private, responder.static_public))
        let temp = b2s_hmac(
            &initiator.chaining_key[..],
            self.params.static_shared.as_bytes(),
        );
        // initiator.chaining_key = HMAC(temp, 0x1)
        let chaining_key = b2s_hmac(&temp[..], &[0x01]);
        // key = HMAC(temp, initiator.chaining_key || 0x2)
        let key = b2s_hmac2(&temp[..], &chaining_key[..], &[0x02]);
        // msg.encrypted_timestamp = AEAD(key, 0, TAI64N(), initiator.hash)
        let mut timestamp = [0u8; TIMESTAMP_LEN];
        aead_chacha20_open(
            &mut timestamp,
            &key[..],
            0,
            &initiator.encrypted_timestamp,
            &hash,
        )?;
        // WireGuard does not actually expect tai64n timestamp, just monotonically increasing one
        if timestamp <= self.last_received {
            // Possibly a replay
            return Err(WireGuardError::WrongTai64nTimestamp);
        }

        // initiator.hash = HASH(initiator.hash || msg.encrypted_timestamp)
        hash = b2s_hash(&hash, &initiator.encrypted_timestamp);

        let answer =
            self.format_handshake_response(initiator, hash, chaining_key, local_index, now)?;
        self.last_received = timestamp;
        Ok(answer)
    }

    /// The session that a response to one of our initiations makes.
    ///
    /// # Errors
    ///
    /// When no initiation waits for it, or it is not authentic. The initiation waits on then: a forged response does not
    /// end a handshake.
    pub fn finish(&mut self, packet: &HandshakeResponse) -> Result<SessionKeys, WireGuardError> {
        // Check if there is a handshake awaiting a response and return the correct one
        let state = self
            .sent
            .iter()
            .flatten()
            .find(|sent| sent.local_index == packet.receiver_idx)
            .ok_or(WireGuardError::UnexpectedPacket)?;

        let peer_index = packet.sender_idx;
        let local_index = state.local_index;

        let unencrypted_ephemeral = PublicKey::from(*packet.unencrypted_ephemeral);
        // msg.unencrypted_ephemeral = DH_PUBKEY(responder.ephemeral_private)
        // responder.hash = HASH(responder.hash || msg.unencrypted_ephemeral)
        let mut hash = b2s_hash(&state.hash, unencrypted_ephemeral.as_bytes());
        // temp = HMAC(responder.chaining_key, msg.unencrypted_ephemeral)
        let temp = b2s_hmac(&state.chaining_key, unencrypted_ephemeral.as_bytes());
        // responder.chaining_key = HMAC(temp, 0x1)
        let mut chaining_key = b2s_hmac(&temp[..], &[0x01]);
        // temp = HMAC(responder.chaining_key, DH(responder.ephemeral_private, initiator.ephemeral_public))
        let ephemeral_shared = contributory(
            state
                .ephemeral_private
                .diffie_hellman(&unencrypted_ephemeral),
        )?;
        let temp = b2s_hmac(&chaining_key[..], ephemeral_shared.as_bytes());
        // responder.chaining_key = HMAC(temp, 0x1)
        chaining_key = b2s_hmac(&temp[..], &[0x01]);
        // temp = HMAC(responder.chaining_key, DH(responder.ephemeral_private, initiator.static_public))
        let static_shared = contributory(
            self.params
                .identity
                .static_private
                .diffie_hellman(&unencrypted_ephemeral),
        )?;
        let temp = b2s_hmac(&chaining_key[..], static_shared.as_bytes());
        // responder.chaining_key = HMAC(temp, 0x1)
        chaining_key = b2s_hmac(&temp[..], &[0x01]);
        // temp = HMAC(responder.chaining_key, preshared_key)
        let temp = b2s_hmac(&chaining_key[..], self.params.preshared_key());
        // responder.chaining_key = HMAC(temp, 0x1)
        chaining_key = b2s_hmac(&temp[..], &[0x01]);
        // temp2 = HMAC(temp, responder.chaining_key || 0x2)
        let temp2 = b2s_hmac2(&temp[..], &chaining_key[..], &[0x02]);
        // key = HMAC(temp, temp2 || 0x3)
        let key = b2s_hmac2(&temp[..], &temp2[..], &[0x03]);
        // responder.hash = HASH(responder.hash || temp2)
        hash = b2s_hash(&hash, &temp2[..]);
        // msg.encrypted_nothing = AEAD(key, 0, [empty], responder.hash)
        aead_chacha20_open(&mut [], &key[..], 0, packet.encrypted_nothing, &hash)?;

        // responder.hash = HASH(responder.hash || msg.encrypted_nothing)
        // hash = b2s_hash(hash, buf[ENC_NOTHING_OFF..ENC_NOTHING_OFF + ENC_NOTHING_SZ]);

        // Derive keys
        let (initiators, responders) = derive(&chaining_key);
        // What waits beside it would make a second session of the same call.
        self.forget();
        Ok(SessionKeys {
            send: initiators,
            recv: responders,
            local_index,
            remote_index: peer_index,
        })
    }

    /// Takes the cookie of a reply to our last message; it goes into the messages of the next two minutes.
    ///
    /// # Errors
    ///
    /// When it does not answer our last message, or a second time.
    pub fn receive_cookie_reply(
        &mut self,
        packet: &PacketCookieReply,
        now: Instant,
    ) -> Result<(), WireGuardError> {
        let mac1 = self
            .cookies
            .last_mac1
            .ok_or(WireGuardError::UnexpectedPacket)?;

        let local_index = self.cookies.index;
        if packet.receiver_idx != local_index {
            return Err(WireGuardError::WrongIndex);
        }
        // msg.encrypted_cookie = XAEAD(HASH(LABEL_COOKIE || responder.static_public), msg.nonce, cookie, last_received_msg.mac1)
        let key = b2s_hash(LABEL_COOKIE, self.params.peer_static_public.as_bytes());

        let payload = Payload {
            aad: &mac1[0..16],
            msg: packet.encrypted_cookie,
        };
        let plaintext = XChaCha20Poly1305::new_from_slice(&key)
            .unwrap()
            .decrypt(XNonce::from_slice(packet.nonce), payload)
            .map_err(|_| WireGuardError::InvalidAeadTag)?;

        let cookie = plaintext
            .try_into()
            .map_err(|_| WireGuardError::InvalidPacket)?;
        self.cookies.write_cookie = Some((cookie, now));
        self.cookies.last_mac1 = None;
        Ok(())
    }

    // Compute and append mac1 and mac2 to a handshake message
    fn append_mac1_and_mac2(&mut self, local_index: u32, dst: &mut [u8], now: Instant) {
        let mac1_off = dst.len() - 32;
        let mac2_off = dst.len() - 16;

        // msg.mac1 = MAC(HASH(LABEL_MAC1 || responder.static_public), msg[0:offsetof(msg.mac1)])
        let msg_mac1 = b2s_keyed_mac_16(&self.params.sending_mac1_key, &dst[..mac1_off]);

        dst[mac1_off..mac2_off].copy_from_slice(&msg_mac1[..]);

        let fresh = |(_, at): &([u8; 16], Instant)| {
            now.saturating_duration_since(*at) < COOKIE_EXPIRATION_TIME
        };
        self.cookies.write_cookie = self.cookies.write_cookie.filter(fresh);
        //msg.mac2 = MAC(initiator.last_received_cookie, msg[0:offsetof(msg.mac2)])
        let msg_mac2: [u8; 16] = if let Some((cookie, _)) = self.cookies.write_cookie {
            b2s_keyed_mac_16(&cookie, &dst[..mac2_off])
        } else {
            [0u8; 16]
        };

        dst[mac2_off..].copy_from_slice(&msg_mac2[..]);

        self.cookies.index = local_index;
        self.cookies.last_mac1 = Some(msg_mac1);
    }

    /// A new initiation. `local_index` is what the peer's answer, and its messages on the session, will carry. The
    /// initiation before the last is forgotten; its index is returned.
    ///
    /// # Errors
    ///
    /// When the peer's static key is weak.
    pub fn initiate(
        &mut self,
        local_index: u32,
        now: Instant,
    ) -> Result<([u8; HANDSHAKE_INIT_SZ], Option<u32>), WireGuardError> {
        if !self.params.static_shared.was_contributory() {
            return Err(WireGuardError::WeakKey);
        }
        let mut dst = [0u8; HANDSHAKE_INIT_SZ];
        let (message_type, rest) = dst.split_at_mut(4);
        let (sender_index, rest) = rest.split_at_mut(4);
        let (unencrypted_ephemeral, rest) = rest.split_at_mut(32);
        let (encrypted_static, rest) = rest.split_at_mut(32 + 16);
        let (encrypted_timestamp, _) = rest.split_at_mut(12 + 16);

        // initiator.chaining_key = HASH(CONSTRUCTION)
        let mut chaining_key = Zeroizing::new(INITIAL_CHAIN_KEY);
        // initiator.hash = HASH(HASH(initiator.chaining_key || IDENTIFIER) || responder.static_public)
        let mut hash = INITIAL_CHAIN_HASH;
        hash = b2s_hash(&hash, self.params.peer_static_public.as_bytes());
        // initiator.ephemeral_private = DH_GENERATE()
        let ephemeral_private = ReusableSecret::random();
        // msg.message_type = 1
        // msg.reserved_zero = { 0, 0, 0 }
        message_type.copy_from_slice(&crate::HANDSHAKE_INIT.to_le_bytes());
        // msg.sender_index = little_endian(initiator.sender_index)
        sender_index.copy_from_slice(&local_index.to_le_bytes());
        // msg.unencrypted_ephemeral = DH_PUBKEY(initiator.ephemeral_private)
        unencrypted_ephemeral.copy_from_slice(PublicKey::from(&ephemeral_private).as_bytes());
        // initiator.hash = HASH(initiator.hash || msg.unencrypted_ephemeral)
        hash = b2s_hash(&hash, unencrypted_ephemeral);
        // temp = HMAC(initiator.chaining_key, msg.unencrypted_ephemeral)
        // initiator.chaining_key = HMAC(temp, 0x1)
        chaining_key = b2s_hmac(
            &b2s_hmac(&chaining_key[..], unencrypted_ephemeral)[..],
            &[0x01],
        );
        // temp = HMAC(initiator.chaining_key, DH(initiator.ephemeral_private, responder.static_public))
        let ephemeral_shared = ephemeral_private.diffie_hellman(&self.params.peer_static_public);
        let temp = b2s_hmac(&chaining_key[..], ephemeral_shared.as_bytes());
        // initiator.chaining_key = HMAC(temp, 0x1)
        chaining_key = b2s_hmac(&temp[..], &[0x01]);
        // key = HMAC(temp, initiator.chaining_key || 0x2)
        let key = b2s_hmac2(&temp[..], &chaining_key[..], &[0x02]);
        // msg.encrypted_static = AEAD(key, 0, initiator.static_public, initiator.hash)
        aead_chacha20_seal(
            encrypted_static,
            &key[..],
            0,
            self.params.identity.static_public.as_bytes(),
            &hash,
        );
        // initiator.hash = HASH(initiator.hash || msg.encrypted_static)
        hash = b2s_hash(&hash, encrypted_static);
        // temp = HMAC(initiator.chaining_key, DH(initiator.static_private, responder.static_public))
        let temp = b2s_hmac(&chaining_key[..], self.params.static_shared.as_bytes());
        // initiator.chaining_key = HMAC(temp, 0x1)
        chaining_key = b2s_hmac(&temp[..], &[0x01]);
        // key = HMAC(temp, initiator.chaining_key || 0x2)
        let key = b2s_hmac2(&temp[..], &chaining_key[..], &[0x02]);
        // msg.encrypted_timestamp = AEAD(key, 0, TAI64N(), initiator.hash)
        let timestamp = self.params.identity.clock.stamp(now, &self.last_sent);
        self.last_sent = timestamp;
        aead_chacha20_seal(encrypted_timestamp, &key[..], 0, &timestamp, &hash);
        // initiator.hash = HASH(initiator.hash || msg.encrypted_timestamp)
        hash = b2s_hash(&hash, encrypted_timestamp);

        let sent = InitSent {
            local_index,
            chaining_key: *chaining_key,
            hash,
            ephemeral_private,
        };
        let [newest, oldest] = &mut self.sent;
        let forgotten = std::mem::replace(oldest, newest.replace(Box::new(sent)));
        let forgotten = forgotten.map(|sent| sent.local_index);

        self.append_mac1_and_mac2(local_index, &mut dst, now);
        Ok((dst, forgotten))
    }

    fn format_handshake_response(
        &mut self,
        initiator: &Initiator,
        mut hash: [u8; KEY_LEN],
        mut chaining_key: Secret,
        local_index: u32,
        now: Instant,
    ) -> Result<([u8; HANDSHAKE_RESP_SZ], SessionKeys), WireGuardError> {
        let mut dst = [0u8; HANDSHAKE_RESP_SZ];
        let (message_type, rest) = dst.split_at_mut(4);
        let (sender_index, rest) = rest.split_at_mut(4);
        let (receiver_index, rest) = rest.split_at_mut(4);
        let (unencrypted_ephemeral, rest) = rest.split_at_mut(32);
        let (encrypted_nothing, _) = rest.split_at_mut(16);

        // responder.ephemeral_private = DH_GENERATE()
        let ephemeral_private = ReusableSecret::random();
        // msg.message_type = 2
        // msg.reserved_zero = { 0, 0, 0 }
        message_type.copy_from_slice(&crate::HANDSHAKE_RESP.to_le_bytes());
        // msg.sender_index = little_endian(responder.sender_index)
        sender_index.copy_from_slice(&local_index.to_le_bytes());
        // msg.receiver_index = little_endian(initiator.sender_index)
        receiver_index.copy_from_slice(&initiator.peer_index.to_le_bytes());
        // msg.unencrypted_ephemeral = DH_PUBKEY(initiator.ephemeral_private)
        unencrypted_ephemeral.copy_from_slice(PublicKey::from(&ephemeral_private).as_bytes());
        // responder.hash = HASH(responder.hash || msg.unencrypted_ephemeral)
        hash = b2s_hash(&hash, unencrypted_ephemeral);
        // temp = HMAC(responder.chaining_key, msg.unencrypted_ephemeral)
        let temp = b2s_hmac(&chaining_key[..], unencrypted_ephemeral);
        // responder.chaining_key = HMAC(temp, 0x1)
        chaining_key = b2s_hmac(&temp[..], &[0x01]);
        // temp = HMAC(responder.chaining_key, DH(responder.ephemeral_private, initiator.ephemeral_public))
        let ephemeral_shared =
            contributory(ephemeral_private.diffie_hellman(&initiator.ephemeral_public))?;
        let temp = b2s_hmac(&chaining_key[..], ephemeral_shared.as_bytes());
        // responder.chaining_key = HMAC(temp, 0x1)
        chaining_key = b2s_hmac(&temp[..], &[0x01]);
        // temp = HMAC(responder.chaining_key, DH(responder.ephemeral_private, initiator.static_public))
        let static_shared =
            contributory(ephemeral_private.diffie_hellman(&self.params.peer_static_public))?;
        let temp = b2s_hmac(&chaining_key[..], static_shared.as_bytes());
        // responder.chaining_key = HMAC(temp, 0x1)
        chaining_key = b2s_hmac(&temp[..], &[0x01]);
        // temp = HMAC(responder.chaining_key, preshared_key)
        let temp = b2s_hmac(&chaining_key[..], self.params.preshared_key());
        // responder.chaining_key = HMAC(temp, 0x1)
        chaining_key = b2s_hmac(&temp[..], &[0x01]);
        // temp2 = HMAC(temp, responder.chaining_key || 0x2)
        let temp2 = b2s_hmac2(&temp[..], &chaining_key[..], &[0x02]);
        // key = HMAC(temp, temp2 || 0x3)
        let key = b2s_hmac2(&temp[..], &temp2[..], &[0x03]);
        // responder.hash = HASH(responder.hash || temp2)
        hash = b2s_hash(&hash, &temp2[..]);
        // msg.encrypted_nothing = AEAD(key, 0, [empty], responder.hash)
        aead_chacha20_seal(encrypted_nothing, &key[..], 0, &[], &hash);

        // Derive keys
        let (initiators, responders) = derive(&chaining_key);
        self.append_mac1_and_mac2(local_index, &mut dst, now);
        let keys = SessionKeys {
            send: responders,
            recv: initiators,
            local_index,
            remote_index: initiator.peer_index,
        };
        Ok((dst, keys))
    }
}

impl std::fmt::Debug for Handshake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handshake")
            .field("peer_static_public", &self.params.peer_static_public)
            .finish_non_exhaustive()
    }
}

/// The keys with which the initiator and the responder seal.
fn derive(chaining_key: &Secret) -> (Secret, Secret) {
    // temp1 = HMAC(initiator.chaining_key, [empty])
    // temp2 = HMAC(temp1, 0x1)
    // temp3 = HMAC(temp1, temp2 || 0x2)
    // initiator.sending_key = temp2
    // initiator.receiving_key = temp3
    // initiator.sending_key_counter = 0
    // initiator.receiving_key_counter = 0
    let temp1 = b2s_hmac(&chaining_key[..], &[]);
    let temp2 = b2s_hmac(&temp1[..], &[0x01]);
    let temp3 = b2s_hmac2(&temp1[..], &temp2[..], &[0x02]);
    (temp2, temp3)
}

/// Refuses a shared secret that anybody could compute.
fn contributory(shared: SharedSecret) -> Result<SharedSecret, WireGuardError> {
    if shared.was_contributory() {
        Ok(shared)
    } else {
        Err(WireGuardError::WeakKey)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chacha20_seal_rfc7530_test_vector() {
        let plaintext = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.";
        let aad: [u8; 12] = [
            0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7,
        ];
        let key: [u8; 32] = [
            0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8b, 0x8c, 0x8d,
            0x8e, 0x8f, 0x90, 0x91, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0x9b,
            0x9c, 0x9d, 0x9e, 0x9f,
        ];
        let nonce: [u8; 12] = [
            0x07, 0x00, 0x00, 0x00, 0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47,
        ];
        let mut buffer = vec![0; plaintext.len() + 16];

        aead_chacha20_seal_inner(&mut buffer, &key, nonce, plaintext, &aad);

        const EXPECTED_CIPHERTEXT: [u8; 114] = [
            0xd3, 0x1a, 0x8d, 0x34, 0x64, 0x8e, 0x60, 0xdb, 0x7b, 0x86, 0xaf, 0xbc, 0x53, 0xef,
            0x7e, 0xc2, 0xa4, 0xad, 0xed, 0x51, 0x29, 0x6e, 0x08, 0xfe, 0xa9, 0xe2, 0xb5, 0xa7,
            0x36, 0xee, 0x62, 0xd6, 0x3d, 0xbe, 0xa4, 0x5e, 0x8c, 0xa9, 0x67, 0x12, 0x82, 0xfa,
            0xfb, 0x69, 0xda, 0x92, 0x72, 0x8b, 0x1a, 0x71, 0xde, 0x0a, 0x9e, 0x06, 0x0b, 0x29,
            0x05, 0xd6, 0xa5, 0xb6, 0x7e, 0xcd, 0x3b, 0x36, 0x92, 0xdd, 0xbd, 0x7f, 0x2d, 0x77,
            0x8b, 0x8c, 0x98, 0x03, 0xae, 0xe3, 0x28, 0x09, 0x1b, 0x58, 0xfa, 0xb3, 0x24, 0xe4,
            0xfa, 0xd6, 0x75, 0x94, 0x55, 0x85, 0x80, 0x8b, 0x48, 0x31, 0xd7, 0xbc, 0x3f, 0xf4,
            0xde, 0xf0, 0x8e, 0x4b, 0x7a, 0x9d, 0xe5, 0x76, 0xd2, 0x65, 0x86, 0xce, 0xc6, 0x4b,
            0x61, 0x16,
        ];
        const EXPECTED_TAG: [u8; 16] = [
            0x1a, 0xe1, 0x0b, 0x59, 0x4f, 0x09, 0xe2, 0x6a, 0x7e, 0x90, 0x2e, 0xcb, 0xd0, 0x60,
            0x06, 0x91,
        ];

        assert_eq!(buffer[..plaintext.len()], EXPECTED_CIPHERTEXT);
        assert_eq!(buffer[plaintext.len()..], EXPECTED_TAG);
    }

    #[test]
    fn symmetric_chacha20_seal_open() {
        let aad: [u8; 32] = Default::default();
        let key: [u8; 32] = Default::default();
        let counter = 0;

        let mut encrypted_nothing: [u8; 16] = Default::default();

        aead_chacha20_seal(&mut encrypted_nothing, &key, counter, &[], &aad);

        eprintln!("encrypted_nothing: {:?}", encrypted_nothing);

        aead_chacha20_open(&mut [], &key, counter, &encrypted_nothing, &aad)
            .expect("Should open what we just sealed");
    }
}
