//! [`Mutator`]: seeded changes of good inputs, so that a finding can be made again from its number.

/// Texts that upset readers of JSON.
const WORDS: [&[u8]; 16] = [
    b"null",
    b"true",
    b"-1",
    b"0",
    b"1e999",
    b"18446744073709551616",
    b"\"\"",
    b"\"\\ud800\"",
    b"[]",
    b"{}",
    b"[[[[[[[[[[[[[[[[",
    b"{\"a\":{\"a\":{\"a\":{",
    b",",
    b":",
    b"\\u0000",
    b"\xff\xfe",
];

/// Numbers at the borders of what fits.
const EDGES: [u32; 10] = [
    0,
    1,
    0x7f,
    0xff,
    0x100,
    0x7fff,
    0xffff,
    0x10_0001,
    0x7fff_ffff,
    u32::MAX,
];

/// A small generator (splitmix64): the same everywhere for the same seed.
#[derive(Debug, Clone)]
pub struct Mutator(u64);

impl Mutator {
    /// Changes that follow from this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// An input made from one of `seeds`, at most `max` bytes long.
    pub fn input(&mut self, seeds: &[Vec<u8>], max: usize) -> Vec<u8> {
        let mut data = self.pick(seeds).cloned().unwrap_or_default();
        for _ in 0..=self.below(4) {
            self.change(&mut data, seeds);
        }
        data.truncate(max);
        data
    }

    fn change(&mut self, data: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.below(data.len() + 1);
        match self.below(10) {
            0 => flip(data, at, 1 << self.below(8)),
            1 => flip(data, at, 0xff),
            2 => {
                let random = self.next().to_le_bytes();
                overwrite(data, at, &random[..self.below(9).max(1)]);
            }
            3 => {
                let edge = EDGES[self.below(EDGES.len())];
                let bytes = if self.below(2) == 0 {
                    edge.to_be_bytes()
                } else {
                    edge.to_le_bytes()
                };
                let width = [1, 2, 4][self.below(3)];
                overwrite(data, at, &bytes[4 - width..]);
            }
            4 => data.truncate(at),
            5 => {
                let end = (at + self.below(32)).min(data.len());
                data.drain(at..end);
            }
            6 => {
                let end = (at + self.below(64)).min(data.len());
                let part = data[at..end].to_vec();
                let to = self.below(data.len() + 1);
                data.splice(to..to, part);
            }
            7 => {
                let other = self.pick(seeds).cloned().unwrap_or_default();
                let from = self.below(other.len() + 1);
                data.truncate(at);
                data.extend_from_slice(&other[from..]);
            }
            8 => {
                let word = WORDS[self.below(WORDS.len())];
                let end = (at + self.below(8)).min(data.len());
                data.splice(at..end, word.iter().copied());
            }
            _ => {
                let run = vec![data.get(at).copied().unwrap_or(0); self.below(300)];
                data.splice(at..at, run);
            }
        }
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        all.get(self.below(all.len()))
    }

    /// Below `bound`; 0 for a bound of 0.
    fn below(&mut self, bound: usize) -> usize {
        let bound = bound.max(1) as u64;
        usize::try_from(self.next() % bound).unwrap_or(0)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

fn flip(data: &mut [u8], at: usize, bits: u8) {
    if let Some(byte) = data.get_mut(at) {
        *byte ^= bits;
    }
}

fn overwrite(data: &mut [u8], at: usize, bytes: &[u8]) {
    for (place, byte) in data.iter_mut().skip(at).zip(bytes) {
        *place = *byte;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_inputs() {
        let seeds = [b"one".to_vec(), b"another".to_vec()];
        let inputs = |seed| {
            let mut mutator = Mutator::new(seed);
            (0..50).map(|_| mutator.input(&seeds, 100)).collect::<Vec<_>>()
        };
        assert_eq!(inputs(7), inputs(7));
        assert_ne!(inputs(7), inputs(8));
        assert!(inputs(9).iter().all(|input| input.len() <= 100));
        let mut mutator = Mutator::new(1);
        assert!(mutator.input(&[], 10).len() <= 10);
    }
}
