//! One slot at a time, by `ring`: for short runs, for what is left of a run, and where there are no vector units.

use std::hint::black_box;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::slots::{HEADER, TAG};

/// A key in `ring`'s form.
pub(crate) struct Single(LessSafeKey);

impl Single {
    pub(crate) fn new(bytes: &[u8; 32]) -> Self {
        Self(key_of(bytes))
    }

    pub(crate) fn seal(&self, slot: &mut [u8]) {
        let nonce = nonce(slot);
        let body_end = slot.len() - TAG;
        let (body, tag) = slot[HEADER..].split_at_mut(body_end - HEADER);
        let sealed = self.0.seal_in_place_separate_tag(nonce, Aad::empty(), body);
        tag.copy_from_slice(sealed.expect("a slot is shorter than 256 GiB").as_ref());
    }

    /// Whether the slot was authentic. Its body is zeroed if it was not.
    pub(crate) fn open(&self, slot: &mut [u8]) -> bool {
        let nonce = nonce(slot);
        let body_end = slot.len() - TAG;
        let (body, tag) = slot[HEADER..].split_at_mut(body_end - HEADER);
        let Ok(tag) = <[u8; TAG]>::try_from(&*tag) else {
            return false;
        };
        let opened = self
            .0
            .open_in_place_separate_tag(nonce, Aad::empty(), tag.into(), body, 0..);
        let authentic = opened.is_ok();
        if !authentic {
            body.fill(0);
        }
        authentic
    }
}

impl Drop for Single {
    fn drop(&mut self) {
        // `ring` does not wipe its keys.
        self.0 = key_of(&[0; 32]);
        black_box(&mut self.0);
    }
}

fn key_of(bytes: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, bytes).expect("32 bytes are a key of this algorithm"))
}

fn nonce(slot: &[u8]) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[4..].copy_from_slice(&slot[8..HEADER]);
    Nonce::assume_unique_for_key(nonce)
}
