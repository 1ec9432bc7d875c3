//! One run of equal slots, whatever the width of the vectors.
//!
//! Slots are taken in pairs: half of the lanes work on the first slot of the pair, half on the second, block after block
//! and on into the next pair, so that no lane idles at the border of packets. Block 0 of a slot is its one-time key.
//! Poly1305 follows one pass behind, on the same pair:
//!
//! ```text
//!               pass 1         pass 2          pass 3           pass 4
//! ChaCha20      0..8           8..16           16..24           0..8, next pair
//! Poly1305      previous pair  blocks 1..8     blocks 8..16     blocks 16..24
//! sealing, a pass meets the body at its end; opening, when Poly1305 is past it, which is at the end of the next pass
//! ```

use super::{
    lanes::Lanes,
    tags::{Beside, Tags},
};
use crate::slots::HEADER;

/// Whether bodies become ciphertext or plaintext.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Seal,
    Open,
}

/// Equal slots of one buffer.
pub(super) struct Run<'a> {
    pub(super) bytes: &'a mut [u8],
    /// Where the slots start.
    pub(super) starts: &'a [usize],
    /// Length of each body.
    pub(super) body: usize,
}

/// What one pass makes.
struct Made<const N: usize> {
    blocks: [[u8; 64]; N],
    stretches: [Stretch; N],
    used: usize,
}

/// Blocks of one pair in one pass: from `block` on, in `count` lanes of each half from `lane` on.
#[derive(Clone, Copy, Default)]
struct Stretch {
    slot: usize,
    /// Whether there is a slot behind it.
    partner: bool,
    block: usize,
    lane: usize,
    count: usize,
}

impl<'a> Run<'a> {
    /// Seals or opens all slots. `pass` makes the blocks of its lanes and does the work beside it, which is `unit` steps
    /// in each of ten rounds at most.
    #[inline(always)]
    pub(super) fn go<const N: usize>(
        &mut self,
        direction: Direction,
        unit: usize,
        mut pass: impl FnMut(&Lanes<N>, &mut [[u8; 64]; N], Beside<'_>),
    ) -> Tags<'a> {
        let mut tags = Tags::new(self.starts, self.body);
        let mut lanes = Lanes::<N>::new();
        let mut made = [Made::new(), Made::new()];
        let mut place = (0, 0);
        let mut odd = false;
        while place.0 < self.starts.len() {
            let began = place;
            let [even_made, odd_made] = &mut made;
            let (made, before) = if odd {
                (odd_made, even_made)
            } else {
                (even_made, odd_made)
            };
            odd = !odd;
            self.plan(&mut place, &mut lanes, made);
            let open = direction == Direction::Open;
            pass(&lanes, &mut made.blocks, tags.beside(self.bytes, began, open, unit));
            match direction {
                Direction::Seal => {
                    tags.complete(self.bytes, began.0);
                    self.meet(made);
                }
                Direction::Open => {
                    tags.catch_up(self.bytes, began);
                    self.meet(before);
                }
            }
            take_keys(made, &mut tags);
        }
        tags.complete(self.bytes, self.starts.len());
        if direction == Direction::Open {
            self.meet(&made[usize::from(!odd)]);
        }
        tags
    }

    /// Says which blocks the next pass makes, from `place` on.
    #[inline(always)]
    fn plan<const N: usize>(&self, place: &mut (usize, usize), lanes: &mut Lanes<N>, made: &mut Made<N>) {
        let blocks = self.body.div_ceil(64) + 1;
        let mut lane = 0;
        made.used = 0;
        while lane < N / 2 && place.0 < self.starts.len() {
            let (slot, block) = *place;
            let count = (blocks - block).min(N / 2 - lane);
            made.stretches[made.used] = Stretch {
                slot,
                partner: slot + 1 < self.starts.len(),
                block,
                lane,
                count,
            };
            made.used += 1;
            lanes.set(lane..lane + count, block as u32, self.nonce(slot));
            if slot + 1 < self.starts.len() {
                let lane = lane + N / 2;
                lanes.set(lane..lane + count, block as u32, self.nonce(slot + 1));
            }
            lane += count;
            *place = if block + count == blocks {
                (slot + 2, 0)
            } else {
                (slot, block + count)
            };
        }
    }

    /// The blocks behind block 0 meet the bodies.
    #[inline(always)]
    fn meet<const N: usize>(&mut self, made: &Made<N>) {
        for stretch in &made.stretches[..made.used] {
            self.meet_one(
                stretch.slot,
                stretch.block,
                &made.blocks[stretch.lane..stretch.lane + stretch.count],
            );
            if stretch.partner {
                let lane = stretch.lane + N / 2;
                self.meet_one(
                    stretch.slot + 1,
                    stretch.block,
                    &made.blocks[lane..lane + stretch.count],
                );
            }
        }
    }

    #[inline(always)]
    fn meet_one(&mut self, slot: usize, block: usize, blocks: &[[u8; 64]]) {
        let blocks = &blocks[usize::from(block == 0)..];
        let before = 64 * block.saturating_sub(1);
        let length = (self.body - before).min(64 * blocks.len());
        let (whole, rest) = (length / 64, length % 64);
        let start = self.starts[slot] + HEADER + before;
        let (body, end) = self.bytes[start..start + length.next_multiple_of(16)].split_at_mut(64 * whole);
        for (bytes, key) in body.as_chunks_mut::<64>().0.iter_mut().zip(blocks) {
            *bytes = xor(*bytes, *key);
        }
        if rest > 0 {
            let quarters = end.as_chunks_mut::<16>().0.iter_mut();
            for (index, (bytes, key)) in quarters.zip(blocks[whole].as_chunks::<16>().0).enumerate() {
                // The last quarter may reach into the tag, which stays.
                let kept = 8 * (16 * (index + 1)).saturating_sub(rest);
                let key = u128::from_le_bytes(*key) << kept >> kept;
                *bytes = (u128::from_le_bytes(*bytes) ^ key).to_le_bytes();
            }
        }
    }

    #[inline(always)]
    fn nonce(&self, slot: usize) -> u64 {
        let start = self.starts[slot];
        let mut nonce = [0; 8];
        nonce.copy_from_slice(&self.bytes[start + 8..start + HEADER]);
        u64::from_le_bytes(nonce)
    }
}

impl<const N: usize> Made<N> {
    fn new() -> Self {
        Self {
            blocks: [[0; 64]; N],
            stretches: [Stretch::default(); N],
            used: 0,
        }
    }
}

#[inline(always)]
fn take_keys<const N: usize>(made: &Made<N>, tags: &mut Tags<'_>) {
    for stretch in &made.stretches[..made.used] {
        if stretch.block == 0 {
            tags.keys[stretch.slot] = key(&made.blocks[stretch.lane]);
            if stretch.partner {
                tags.keys[stretch.slot + 1] = key(&made.blocks[stretch.lane + N / 2]);
            }
        }
    }
}

#[inline(always)]
fn xor(mut bytes: [u8; 64], key: [u8; 64]) -> [u8; 64] {
    for (byte, key) in bytes.iter_mut().zip(key) {
        *byte ^= key;
    }
    bytes
}

#[inline(always)]
fn key(block: &[u8; 64]) -> [u64; 4] {
    let mut key = [0; 4];
    for (word, bytes) in key.iter_mut().zip(block.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    key
}
