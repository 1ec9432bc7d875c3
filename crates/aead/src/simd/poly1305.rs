//! Poly1305 of two packets side by side in the scalar units, which ChaCha20 leaves idle.
//!
//! One packet alone waits most of the time for its own carries; two of them fill each other's gaps. The accumulator has
//! limbs of 64, 64 and few bits. `r` is clamped by definition, so `r1 / 4` is whole and `2^128 * r1 = 5 * (r1 / 4)`
//! modulo `2^130 - 5`.

/// A one-time key and the accumulator under it.
#[derive(Clone, Copy, Default)]
pub(super) struct Poly {
    h0: u64,
    h1: u64,
    h2: u64,
    r0: u64,
    r1: u64,
    /// `5 * (r1 / 4)`.
    s1: u64,
    pad: u128,
}

impl Poly {
    /// Block 0 of a packet's keystream begins with its one-time key.
    #[inline(always)]
    pub(super) fn new(key: &[u64; 4]) -> Self {
        let r0 = key[0] & 0x0fff_fffc_0fff_ffff;
        let r1 = key[1] & 0x0fff_fffc_0fff_fffc;
        Self {
            h0: 0,
            h1: 0,
            h2: 0,
            r0,
            r1,
            s1: r1 + (r1 >> 2),
            pad: u128::from(key[2]) | u128::from(key[3]) << 64,
        }
    }

    /// Takes one block of 16 bytes.
    #[inline(always)]
    pub(super) fn block(&mut self, block: u128) {
        let (low, carry) = (u128::from(self.h0) | u128::from(self.h1) << 64).overflowing_add(block);
        let (h0, h1) = (low as u64, (low >> 64) as u64);
        // At most 7; so every sum below fits.
        let h2 = self.h2 + 1 + u64::from(carry);
        let low = wide(h0, self.r0) + wide(h1, self.s1);
        let high = wide(h0, self.r1) + wide(h1, self.r0);
        let (middle, carry) = (high as u64).overflowing_add((low >> 64) as u64 + h2 * self.s1);
        // What is at 2^130 and above comes back at 1, five times. It does not wait for the carries from below, which
        // stay in `h2` until the next block: the way from block to block is what takes the time.
        let top = (high >> 64) as u64 + h2 * self.r0;
        let folded = (top >> 2) + (top & !3);
        let h2 = (top & 3) + u64::from(carry);
        let (low, carry) = (u128::from(low as u64) | u128::from(middle) << 64).overflowing_add(u128::from(folded));
        self.h0 = low as u64;
        self.h1 = (low >> 64) as u64;
        self.h2 = opaque(h2 + u64::from(carry));
    }

    /// The tag. Takes the same time for every value.
    #[inline(always)]
    pub(super) fn tag(&self) -> u128 {
        let low = u128::from(self.h0) | u128::from(self.h1) << 64;
        // The accumulator is below 2 * (2^130 - 5): one subtraction reduces it, and adding 5 subtracts below 2^130.
        let (reduced, carry) = low.overflowing_add(5);
        let over = (self.h2 + u64::from(carry)) >> 2;
        let mask = u128::from(over.wrapping_neg()) | u128::from(over.wrapping_neg()) << 64;
        let value = (reduced & mask) | (low & !mask);
        value.wrapping_add(self.pad)
    }
}

#[inline(always)]
fn wide(a: u64, b: u64) -> u128 {
    u128::from(a) * u128::from(b)
}

/// Keeps the compiler from gathering this sum and the next one into a longer way.
#[inline(always)]
fn opaque(mut value: u64) -> u64 {
    // SAFETY: no instruction at all.
    unsafe { core::arch::asm!("/* {} */", inout(reg) value, options(pure, nomem, nostack, preserves_flags)) };
    value
}
