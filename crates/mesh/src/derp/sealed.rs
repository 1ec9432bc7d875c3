//! [`NaclBox`]: the box of a DERP login (X25519, XSalsa20-Poly1305), laid out `nonce 24 · tag 16 · text`.

use std::fmt;

use bytes::BytesMut;
use crypto_box::aead::AeadInPlace;
use crypto_box::{PublicKey, SalsaBox, SecretKey};
use zeroize::Zeroizing;

const NONCE: usize = 24;
const TAG: usize = 16;

pub(super) struct NaclBox(SalsaBox);

impl NaclBox {
    pub(super) fn new(own: &Zeroizing<[u8; 32]>, theirs: &[u8; 32]) -> Self {
        Self(SalsaBox::new(&PublicKey::from(*theirs), &SecretKey::from(**own)))
    }

    /// Appends the sealed text to `out`.
    pub(super) fn seal(&self, text: &[u8], out: &mut BytesMut) {
        let mut nonce = [0u8; NONCE];
        getrandom::fill(&mut nonce).expect("the operating system provides randomness");
        self.seal_with(nonce, text, out);
    }

    fn seal_with(&self, nonce: [u8; NONCE], text: &[u8], out: &mut BytesMut) {
        out.extend_from_slice(&nonce);
        let start = out.len();
        out.extend_from_slice(&[0; TAG]);
        out.extend_from_slice(text);
        let (tag_place, text) = out[start..].split_at_mut(TAG);
        let tag = self
            .0
            .encrypt_in_place_detached(&nonce.into(), &[], text)
            .expect("xsalsa20 takes any length");
        tag_place.copy_from_slice(&tag);
    }

    /// The text, if the bytes were sealed with this pair of keys.
    pub(super) fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = sealed.split_first_chunk::<NONCE>()?;
        let (tag, text) = rest.split_first_chunk::<TAG>()?;
        let mut text = text.to_vec();
        self.0
            .decrypt_in_place_detached(&(*nonce).into(), &[], &mut text, &(*tag).into())
            .ok()?;
        Some(text)
    }

    /// Seals under a nonce of a test vector.
    #[cfg(test)]
    pub(super) fn seal_for_tests(&self, nonce: &[u8], text: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        self.seal_with(nonce.try_into().unwrap(), text, &mut out);
        out.to_vec()
    }
}

impl fmt::Debug for NaclBox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NaclBox([redacted])")
    }
}
