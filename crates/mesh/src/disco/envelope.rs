//! The sealed envelope around a disco message.

use crypto_box::aead::Aead;
use crypto_box::{PublicKey, SalsaBox, SecretKey};
use sandd_control_client::keys::{DiscoPrivateKey, DiscoPublicKey};

use super::message::{DecodeError, Message};

const MAGIC: [u8; 6] = [0x54, 0x53, 0xf0, 0x9f, 0x92, 0xac];
const NONCE_AT: usize = 38;
const BOX_AT: usize = 62;
const TAG: usize = 16;
/// Magic and key: what a demultiplexer asks for.
const MIN_LOOK: usize = NONCE_AT;

/// True when the bytes begin like a disco packet.
#[must_use]
pub fn looks_like(datagram: &[u8]) -> bool {
    datagram.len() >= MIN_LOOK && datagram.starts_with(&MAGIC)
}

/// The key that the packet claims to come from. Nothing is proven before the box opens.
#[must_use]
pub fn sender(datagram: &[u8]) -> Option<DiscoPublicKey> {
    if !looks_like(datagram) || datagram.len() < BOX_AT + TAG {
        return None;
    }
    let key = datagram.get(MAGIC.len()..)?.first_chunk::<32>()?;
    Some(DiscoPublicKey::from_bytes(*key))
}

/// The precomputed box between our disco key and a peer's.
pub struct DiscoBox(SalsaBox);

impl DiscoBox {
    /// Does the key agreement once.
    #[must_use]
    pub fn new(own: &DiscoPrivateKey, theirs: &DiscoPublicKey) -> Self {
        Self(SalsaBox::new(
            &PublicKey::from(*theirs.as_bytes()),
            &SecretKey::from(*own.to_bytes()),
        ))
    }

    /// A whole packet with a fresh random nonce. `sender` is our public key.
    ///
    /// # Panics
    /// When the operating system has no randomness to give.
    #[must_use]
    pub fn seal(&self, sender: &DiscoPublicKey, message: &Message) -> Vec<u8> {
        let mut nonce = [0u8; 24];
        crate::random::fill(&mut nonce);
        self.seal_with(sender, nonce, &message.encode())
    }

    pub(super) fn seal_with(&self, sender: &DiscoPublicKey, nonce: [u8; 24], plain: &[u8]) -> Vec<u8> {
        let mut packet = Vec::with_capacity(BOX_AT + TAG + plain.len());
        packet.extend_from_slice(&MAGIC);
        packet.extend_from_slice(sender.as_bytes());
        packet.extend_from_slice(&nonce);
        // Sealing in memory cannot fail; an empty box would simply not open at the other end.
        packet.extend(self.0.encrypt(&nonce.into(), plain).unwrap_or_default());
        packet
    }

    /// Opens a packet whose sender is the other key of this box.
    ///
    /// # Errors
    /// [`DecodeError`] when it does not open or holds no message.
    pub fn open(&self, datagram: &[u8]) -> Result<Message, DecodeError> {
        if !looks_like(datagram) {
            return Err(DecodeError::Short);
        }
        let nonce = datagram
            .get(NONCE_AT..)
            .and_then(|rest| rest.first_chunk::<24>())
            .ok_or(DecodeError::Short)?;
        let sealed = datagram.get(BOX_AT..).ok_or(DecodeError::Short)?;
        let plain = self
            .0
            .decrypt(&(*nonce).into(), sealed)
            .map_err(|_| DecodeError::Unopened)?;
        Message::decode(&plain)
    }
}

impl std::fmt::Debug for DiscoBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DiscoBox([redacted])")
    }
}
