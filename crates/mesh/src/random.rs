//! Random bytes for everything in this crate that draws them: the operating system's, always.
//!
//! The one exception is in no product: a thread on which a simulated world runs (`seed`) draws from that world's seed,
//! so that it goes the same way every time.

/// Fills `bytes`.
///
/// # Panics
/// When the operating system has no randomness to give.
pub(crate) fn fill(bytes: &mut [u8]) {
    #[cfg(any(test, feature = "sim"))]
    if seeded::fill(bytes) {
        return;
    }
    getrandom::fill(bytes).expect("the operating system provides randomness");
}

#[cfg(any(test, feature = "sim"))]
pub(crate) use seeded::seed;

#[cfg(any(test, feature = "sim"))]
mod seeded {
    use std::cell::Cell;

    thread_local! {
        static STATE: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// While it lives, this thread draws from a seed.
    #[derive(Debug)]
    pub(crate) struct Seeded(());

    /// This thread draws from `seed` from now on.
    pub(crate) fn seed(seed: u64) -> Seeded {
        STATE.set(Some(seed));
        Seeded(())
    }

    impl Drop for Seeded {
        fn drop(&mut self) {
            STATE.set(None);
        }
    }

    /// False when there is no seed to draw from. SplitMix64.
    pub(super) fn fill(bytes: &mut [u8]) -> bool {
        let Some(mut state) = STATE.get() else { return false };
        for chunk in bytes.chunks_mut(8) {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = state;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^= word >> 31;
            chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
        }
        STATE.set(Some(state));
        true
    }
}
