//! Which block of which slot each lane makes.

use std::ops::Range;

/// The words of the ChaCha20 state that differ between lanes. Word 13 is zero in every nonce of WireGuard's.
#[repr(C, align(64))]
#[derive(Clone)]
pub(super) struct Lanes<const N: usize> {
    pub(super) counter: [u32; N],
    pub(super) nonce_low: [u32; N],
    pub(super) nonce_high: [u32; N],
}

impl<const N: usize> Lanes<N> {
    pub(super) fn new() -> Self {
        Self {
            counter: [0; N],
            nonce_low: [0; N],
            nonce_high: [0; N],
        }
    }

    /// These lanes make blocks under `nonce`, `counter` and those behind it.
    #[inline(always)]
    pub(super) fn set(&mut self, lanes: Range<usize>, counter: u32, nonce: u64) {
        for (lane, counter) in self.counter[lanes.clone()].iter_mut().zip(counter..) {
            *lane = counter;
        }
        self.nonce_low[lanes.clone()].fill(nonce as u32);
        self.nonce_high[lanes].fill((nonce >> 32) as u32);
    }
}
