//! The tags of a run: where each pair of slots stands.
//!
//! A tag takes *steps*: each whole block of the body, its padded rest, its length. Most are done beside ChaCha20, some
//! per double round, both slots of a pair at once; what is left over is done alone.

use subtle::ConstantTimeEq as _;

use super::poly1305::Poly;
use crate::slots::{HEADER, MAX_SLOTS, TAG};

/// The slots of a run and how far their tags are. They are made in pairs; the last slot of an odd count is its own
/// partner.
pub(super) struct Tags<'a> {
    /// Where the slots start, in the order of the run.
    starts: &'a [usize],
    /// Length of each body.
    body: usize,
    /// One-time keys of the slots.
    pub(super) keys: [[u64; 4]; MAX_SLOTS],
    tags: [u128; MAX_SLOTS],
    /// The first slot of the pair at work.
    slot: usize,
    /// Steps done of it.
    done: usize,
    polys: [Poly; 2],
    /// The last steps of the pair, as far as they do not lie in the body as they are needed.
    ends: [[u8; 48]; 2],
}

/// The next steps of both slots of a pair, and their accumulators.
pub(super) struct Beside<'a> {
    pub(super) polys: &'a mut [Poly; 2],
    /// Steps in the bodies.
    pub(super) first: &'a [u8],
    pub(super) second: &'a [u8],
    /// Steps behind them, either none or those of one double round.
    pub(super) first_end: &'a [u8],
    pub(super) second_end: &'a [u8],
}

impl<'a> Tags<'a> {
    pub(super) fn new(starts: &'a [usize], body: usize) -> Self {
        Self {
            starts,
            body,
            keys: [[0; 4]; MAX_SLOTS],
            tags: [0; MAX_SLOTS],
            slot: 0,
            done: 0,
            polys: [Poly::default(); 2],
            ends: [[0; 48]; 2],
        }
    }

    fn whole(&self) -> usize {
        self.body / 16
    }

    fn steps(&self) -> usize {
        self.body.div_ceil(16) + 1
    }

    /// What the next pass can do beside: `unit` steps in each of at most ten double rounds. All before `place` is
    /// there to be worked on; of the pair there, the key is known and all is there if `ahead`, else what lies before.
    #[inline(always)]
    pub(super) fn beside<'b>(
        &'b mut self,
        bytes: &'b [u8],
        place: (usize, usize),
        ahead: bool,
        unit: usize,
    ) -> Beside<'b> {
        let whole = self.whole();
        let goal = if self.slot < place.0 || ahead && place.1 > 0 {
            self.steps()
        } else {
            (4 * place.1.saturating_sub(1)).min(whole)
        };
        let units = (goal.saturating_sub(self.done) / unit).min(10);
        if units > 0 && self.done == 0 {
            self.begin();
        }
        let inside = units.min(whole.saturating_sub(self.done) / unit);
        let length = 16 * unit * inside;
        let [a, b] = self
            .pair()
            .map(|slot| self.starts[slot] + HEADER + 16 * self.done.min(whole));
        self.done += unit * inside;
        let mut end = 0;
        if units > inside {
            end = 16 * unit;
            self.fill_ends(bytes, unit);
        }
        Beside {
            polys: &mut self.polys,
            first: &bytes[a..a + length],
            second: &bytes[b..b + length],
            first_end: &self.ends[0][..end],
            second_end: &self.ends[1][..end],
        }
    }

    #[inline(never)]
    fn fill_ends(&mut self, bytes: &[u8], unit: usize) {
        for index in 0..unit {
            for (side, slot) in self.pair().into_iter().enumerate() {
                let step = self.step(bytes, slot, self.done + index);
                self.ends[side][16 * index..16 * index + 16].copy_from_slice(&step.to_le_bytes());
            }
        }
        self.done += unit;
    }

    /// Brings the tags up to `place`: all slots before it, and the blocks before it of the pair there.
    #[inline(always)]
    pub(super) fn catch_up(&mut self, bytes: &[u8], place: (usize, usize)) {
        self.complete(bytes, place.0);
        let goal = (4 * place.1.saturating_sub(1)).min(self.whole());
        if self.done < goal && self.slot == place.0 {
            self.alone(bytes, goal);
        }
    }

    /// Completes all slots before `slot`.
    #[inline(always)]
    pub(super) fn complete(&mut self, bytes: &[u8], slot: usize) {
        while self.slot < slot.min(self.starts.len()) {
            self.alone(bytes, self.steps());
            for (poly, slot) in self.polys.iter().zip(self.pair()) {
                self.tags[slot] = poly.tag();
            }
            self.slot += 2;
            self.done = 0;
        }
    }

    /// Does the steps before `goal`.
    #[inline(never)]
    fn alone(&mut self, bytes: &[u8], goal: usize) {
        if self.done == 0 {
            self.begin();
        }
        let [first, second] = self.pair();
        let [mut p, mut q] = self.polys;
        for index in self.done..goal {
            p.block(self.step(bytes, first, index));
            q.block(self.step(bytes, second, index));
        }
        self.polys = [p, q];
        self.done = goal;
    }

    #[inline(always)]
    fn step(&self, bytes: &[u8], slot: usize, index: usize) -> u128 {
        let start = self.starts[slot] + HEADER + 16 * index;
        let rest = self.body % 16;
        if index < self.whole() {
            block(bytes, start)
        } else if index == self.whole() && rest > 0 {
            // The 16 bytes that end where the body does: before it lies the header.
            block(bytes, start + rest - 16) >> (8 * (16 - rest))
        } else {
            u128::from(self.body as u64) << 64
        }
    }

    #[inline(always)]
    fn pair(&self) -> [usize; 2] {
        let last = self.starts.len() - 1;
        [self.slot.min(last), (self.slot + 1).min(last)]
    }

    #[inline(always)]
    fn begin(&mut self) {
        let [first, second] = self.pair();
        self.polys = [Poly::new(&self.keys[first]), Poly::new(&self.keys[second])];
    }

    /// Writes the tags behind the bodies.
    pub(super) fn write(&self, bytes: &mut [u8]) {
        for (start, tag) in self.starts.iter().zip(&self.tags) {
            let at = start + HEADER + self.body;
            bytes[at..at + TAG].copy_from_slice(&tag.to_le_bytes());
        }
    }

    /// Bit `i`: the tag behind the body of slot `i` is right.
    pub(super) fn compare(&self, bytes: &[u8]) -> u64 {
        let mut right = 0;
        for (index, (start, tag)) in self.starts.iter().zip(&self.tags).enumerate() {
            let at = start + HEADER + self.body;
            let equal = bytes[at..at + TAG].ct_eq(&tag.to_le_bytes());
            right |= u64::from(equal.unwrap_u8()) << index;
        }
        right
    }
}

#[inline(always)]
fn block(bytes: &[u8], start: usize) -> u128 {
    let mut block = [0; 16];
    block.copy_from_slice(&bytes[start..start + 16]);
    u128::from_le_bytes(block)
}
