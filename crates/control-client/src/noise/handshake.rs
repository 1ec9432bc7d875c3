//! The Noise IK handshake, both sides: [`Initiator`] (the node) and [`Responder`] (the coordinator) end in a
//! [`Transport`]. Each side is consumed by its last step, so no state can be used twice.

use blake2::{Blake2s256, Digest};
use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, Nonce, Tag};
use hmac::{Mac, SimpleHmac};
use zeroize::Zeroizing;

use super::record::Transport;
use crate::keys::{MachinePrivateKey, MachinePublicKey};

/// Bytes of the first message, header included.
pub const INITIATION_LEN: usize = 101;
/// Bytes of the answer, header included.
pub const RESPONSE_LEN: usize = 51;

const PROTOCOL_NAME: &[u8] = b"Noise_IK_25519_ChaChaPoly_BLAKE2s";
const TYPE_INITIATION: u8 = 1;
const TYPE_RESPONSE: u8 = 2;
const TYPE_ERROR: u8 = 3;
const TAG_LEN: usize = 16;

/// Why a handshake came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// Not the size that the pattern prescribes.
    #[error("handshake message of {got} bytes, expected {expected}")]
    Length {
        /// Bytes that belong there.
        expected: usize,
        /// Bytes found.
        got: usize,
    },
    /// A type byte or length field that has no place here.
    #[error("unexpected handshake header {0:02x?}")]
    Header([u8; 3]),
    /// The other side's own words, which nothing authenticates.
    #[error("coordinator refused the handshake: {0}")]
    Refused(String),
    /// The message does not fit the keys: another key than expected, or forged.
    #[error("handshake message does not authenticate: the coordinator has another key, or the message was altered")]
    Authentication,
    /// A public key of low order.
    #[error("handshake key has no secret in it")]
    WeakKey,
}

/// `h`, `ck` and the mixing steps of the Noise specification.
pub(super) struct Symmetric {
    pub(super) hash: [u8; 32],
    pub(super) chaining_key: Zeroizing<[u8; 32]>,
    pub(super) key: Zeroizing<[u8; 32]>,
}

impl Symmetric {
    pub(super) fn new(version: u16, responder: &MachinePublicKey) -> Self {
        let hash: [u8; 32] = Blake2s256::digest(PROTOCOL_NAME).into();
        let mut state = Self {
            hash,
            chaining_key: Zeroizing::new(hash),
            key: Zeroizing::new([0; 32]),
        };
        state.mix_hash(format!("Tailscale Control Protocol v{version}").as_bytes());
        state.mix_hash(responder.as_bytes());
        state
    }

    pub(super) fn mix_hash(&mut self, data: &[u8]) {
        self.hash = Blake2s256::new()
            .chain_update(self.hash)
            .chain_update(data)
            .finalize()
            .into();
    }

    pub(super) fn mix_key(&mut self, shared: &[u8; 32]) -> Result<(), HandshakeError> {
        if shared == &[0u8; 32] {
            return Err(HandshakeError::WeakKey);
        }
        (self.chaining_key, self.key) = hkdf(&self.chaining_key, shared);
        Ok(())
    }

    /// Encrypts in place; every key is used once, so the nonce is always zero.
    pub(super) fn encrypt(&mut self, data: &mut [u8]) -> Result<[u8; TAG_LEN], HandshakeError> {
        let tag: [u8; TAG_LEN] = ChaCha20Poly1305::new((&*self.key).into())
            .encrypt_in_place_detached(&Nonce::default(), &self.hash, data)
            .map_err(|_| HandshakeError::Authentication)?
            .into();
        self.hash = Blake2s256::new()
            .chain_update(self.hash)
            .chain_update(&*data)
            .chain_update(tag)
            .finalize()
            .into();
        Ok(tag)
    }

    pub(super) fn decrypt(&mut self, data: &mut [u8], tag: &[u8; TAG_LEN]) -> Result<(), HandshakeError> {
        let next = Blake2s256::new()
            .chain_update(self.hash)
            .chain_update(&*data)
            .chain_update(tag)
            .finalize()
            .into();
        ChaCha20Poly1305::new((&*self.key).into())
            .decrypt_in_place_detached(&Nonce::default(), &self.hash, data, Tag::from_slice(tag))
            .map_err(|_| HandshakeError::Authentication)?;
        self.hash = next;
        Ok(())
    }

    /// Client-to-server and server-to-client key.
    pub(super) fn split(&self) -> (Zeroizing<[u8; 32]>, Zeroizing<[u8; 32]>) {
        hkdf(&self.chaining_key, &[])
    }
}

fn hmac(key: &[u8; 32], parts: [&[u8]; 2]) -> Zeroizing<[u8; 32]> {
    let mut mac = <SimpleHmac<Blake2s256> as Mac>::new_from_slice(key).expect("HMAC takes keys of any length");
    parts.into_iter().for_each(|part| mac.update(part));
    Zeroizing::new(mac.finalize().into_bytes().into())
}

fn hkdf(chaining_key: &[u8; 32], input: &[u8]) -> (Zeroizing<[u8; 32]>, Zeroizing<[u8; 32]>) {
    let secret = hmac(chaining_key, [input, &[]]);
    let first = hmac(&secret, [&[1], &[]]);
    let second = hmac(&secret, [&first[..], &[2]]);
    (first, second)
}

/// The node's side between sending the initiation and reading the response.
pub struct Initiator {
    state: Symmetric,
    static_key: MachinePrivateKey,
    ephemeral: MachinePrivateKey,
}

impl std::fmt::Debug for Initiator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Initiator")
    }
}

impl Initiator {
    /// Makes the initiation for the coordinator with this public key.
    ///
    /// # Errors
    /// [`HandshakeError::WeakKey`] when the coordinator's key has low order.
    pub fn start(
        machine: &MachinePrivateKey,
        control: &MachinePublicKey,
        version: u16,
    ) -> Result<(Self, [u8; INITIATION_LEN]), HandshakeError> {
        Self::start_with(machine, control, version, MachinePrivateKey::generate())
    }

    pub(super) fn start_with(
        machine: &MachinePrivateKey,
        control: &MachinePublicKey,
        version: u16,
        ephemeral: MachinePrivateKey,
    ) -> Result<(Self, [u8; INITIATION_LEN]), HandshakeError> {
        let mut state = Symmetric::new(version, control);
        let ephemeral_public = ephemeral.public();
        state.mix_hash(ephemeral_public.as_bytes());
        state.mix_key(&ephemeral.diffie_hellman(control.as_bytes()))?;
        let mut sealed_static = *machine.public().as_bytes();
        let static_tag = state.encrypt(&mut sealed_static)?;
        state.mix_key(&machine.diffie_hellman(control.as_bytes()))?;
        let payload_tag = state.encrypt(&mut [])?;

        let mut message = [0u8; INITIATION_LEN];
        message[..2].copy_from_slice(&version.to_be_bytes());
        message[2] = TYPE_INITIATION;
        message[4] = 96;
        message[5..37].copy_from_slice(ephemeral_public.as_bytes());
        message[37..69].copy_from_slice(&sealed_static);
        message[69..85].copy_from_slice(&static_tag);
        message[85..].copy_from_slice(&payload_tag);
        Ok((
            Self {
                state,
                static_key: machine.clone(),
                ephemeral,
            },
            message,
        ))
    }

    /// Checks the response and yields the transport.
    ///
    /// # Errors
    /// [`HandshakeError`] when the response has another form or was not made by the holder of the coordinator's key.
    pub fn finish(mut self, response: &[u8; RESPONSE_LEN]) -> Result<Transport, HandshakeError> {
        check_response_header([response[0], response[1], response[2]])?;
        let their_ephemeral: [u8; 32] = array(&response[3..35])?;
        self.state.mix_hash(&their_ephemeral);
        self.state.mix_key(&self.ephemeral.diffie_hellman(&their_ephemeral))?;
        self.state.mix_key(&self.static_key.diffie_hellman(&their_ephemeral))?;
        self.state.decrypt(&mut [], &array(&response[35..])?)?;
        let (to_server, to_client) = self.state.split();
        Ok(Transport::new(&to_server, &to_client))
    }

    #[cfg(test)]
    pub(super) fn state(&self) -> &Symmetric {
        &self.state
    }
}

/// The coordinator's side.
#[derive(Debug)]
pub struct Responder;

/// An accepted initiation.
#[derive(Debug)]
pub struct Accepted {
    /// Who called.
    pub client: MachinePublicKey,
    /// The capability version that it announced.
    pub version: u16,
    /// What to send back.
    pub response: [u8; RESPONSE_LEN],
    /// The connection's keys, from the coordinator's point of view.
    pub transport: Transport,
}

impl Responder {
    /// Checks an initiation and makes the response.
    ///
    /// # Errors
    /// [`HandshakeError`] when it has another form or was made for another key.
    pub fn accept(control: &MachinePrivateKey, initiation: &[u8]) -> Result<Accepted, HandshakeError> {
        Self::accept_with(control, initiation, MachinePrivateKey::generate())
    }

    pub(super) fn accept_with(
        control: &MachinePrivateKey,
        initiation: &[u8],
        ephemeral: MachinePrivateKey,
    ) -> Result<Accepted, HandshakeError> {
        let message: [u8; INITIATION_LEN] = array(initiation)?;
        if message[2..5] != [TYPE_INITIATION, 0, 96] {
            return Err(HandshakeError::Header([message[2], message[3], message[4]]));
        }
        let version = u16::from_be_bytes([message[0], message[1]]);
        let mut state = Symmetric::new(version, &control.public());
        let their_ephemeral: [u8; 32] = array(&message[5..37])?;
        state.mix_hash(&their_ephemeral);
        state.mix_key(&control.diffie_hellman(&their_ephemeral))?;
        let mut client: [u8; 32] = array(&message[37..69])?;
        state.decrypt(&mut client, &array(&message[69..85])?)?;
        state.mix_key(&control.diffie_hellman(&client))?;
        state.decrypt(&mut [], &array(&message[85..])?)?;

        let ephemeral_public = ephemeral.public();
        state.mix_hash(ephemeral_public.as_bytes());
        state.mix_key(&ephemeral.diffie_hellman(&their_ephemeral))?;
        state.mix_key(&ephemeral.diffie_hellman(&client))?;
        let tag = state.encrypt(&mut [])?;
        let mut response = [0u8; RESPONSE_LEN];
        response[..3].copy_from_slice(&[TYPE_RESPONSE, 0, 48]);
        response[3..35].copy_from_slice(ephemeral_public.as_bytes());
        response[35..].copy_from_slice(&tag);
        let (to_server, to_client) = state.split();
        let transport = Transport::new(&to_client, &to_server);
        Ok(Accepted {
            client: MachinePublicKey::from_bytes(client),
            version,
            response,
            transport,
        })
    }
}

/// Finds the response at the start of `received`; nothing while it is incomplete.
///
/// # Errors
/// [`HandshakeError::Refused`] with the text of an error frame, or [`HandshakeError::Header`].
pub fn take_response(received: &[u8]) -> Result<Option<[u8; RESPONSE_LEN]>, HandshakeError> {
    let Some(&[kind, high, low]) = received.first_chunk::<3>() else {
        return Ok(None);
    };
    if kind == TYPE_ERROR {
        let length = usize::from(u16::from_be_bytes([high, low])).min(1024);
        let Some(text) = received.get(3..3 + length) else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(text)
            .chars()
            .filter(|c| !c.is_control())
            .collect();
        return Err(HandshakeError::Refused(text));
    }
    check_response_header([kind, high, low])?;
    Ok(received.first_chunk::<RESPONSE_LEN>().copied())
}

/// The unauthenticated frame by which a coordinator says why it refuses.
#[must_use]
pub fn encode_error_frame(text: &str) -> Vec<u8> {
    let text = &text.as_bytes()[..text.len().min(1024)];
    let mut frame = vec![TYPE_ERROR];
    frame.extend_from_slice(&u16::try_from(text.len()).unwrap_or(0).to_be_bytes());
    frame.extend_from_slice(text);
    frame
}

fn check_response_header(header: [u8; 3]) -> Result<(), HandshakeError> {
    if header == [TYPE_RESPONSE, 0, 48] {
        Ok(())
    } else {
        Err(HandshakeError::Header(header))
    }
}

fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], HandshakeError> {
    bytes.try_into().map_err(|_| HandshakeError::Length {
        expected: N,
        got: bytes.len(),
    })
}
