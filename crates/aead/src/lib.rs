//! ChaCha20-Poly1305 (RFC 8439) over many WireGuard data packets at once, in place.
//!
//! A super-packet leaves a node as a run of *slots*: datagrams of one size, one after the other, all under one key. The
//! run is sealed by one call and opened by one call:
//!
//! ```text
//!          stride               stride           <= stride
//! ├──────────────────────┼──────────────────────┼───────────┤
//! │ header │ body  │ tag │ header │ body  │ tag │ h │ b │ t │
//!   16 B     any     16 B
//! ```
//!
//! The header is that of a WireGuard data message; its last 8 bytes are the packet's counter, which makes the nonce. The
//! associated data is empty, as WireGuard has it. With equal packets at hand, the lanes of the vector units are filled
//! over the borders of packets, and one packet's Poly1305 runs while the next one's ChaCha20 does: what no library for
//! single messages can do. Where the processor has no such units, or the run is too short, `ring` does the work.

mod kernel;
#[cfg_attr(not(target_arch = "x86_64"), path = "plain.rs")]
mod simd;
mod single;
mod slots;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

pub use self::kernel::{Kernel, kernel, set_kernel};
pub use self::slots::{HEADER, MAX_SLOTS, MIN_SLOT, TAG};
use self::{single::Single, slots::Slots};

/// A key of one direction of one session. A clone is the same key, for another thread; it is wiped when the last one is
/// dropped.
#[derive(Clone)]
pub struct Key(Arc<Secret>);

/// On the heap, so that moving a [`Key`] leaves no copies behind.
struct Secret {
    words: Zeroizing<[u32; 8]>,
    single: Single,
}

impl Key {
    /// A key of these bytes.
    pub fn new(bytes: &[u8; 32]) -> Self {
        let mut words = Zeroizing::new([0; 8]);
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        Self(Arc::new(Secret {
            words,
            single: Single::new(bytes),
        }))
    }

    /// True for a clone of this key.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Seals the body of every slot and writes its tag. The counters in the headers must never have been used with this
    /// key before.
    ///
    /// `slots` holds slots of `stride` bytes; the last one may be shorter. Slots shorter than [`MIN_SLOT`] are no slots:
    /// a `stride` below it seals nothing, nor is a shorter rest at the end touched.
    pub fn seal_slots(&self, slots: &mut [u8], stride: usize) {
        debug_assert!(stride >= MIN_SLOT, "a slot holds header and tag at least");
        let Some(mut slots) = Slots::new(slots, stride, usize::MAX) else {
            return;
        };
        self.seal_with(kernel(), &mut slots);
    }

    /// Opens the slots whose bit is set in `candidates`, the first slot being bit 0, and returns the bits of those that
    /// were authentic.
    ///
    /// An authentic slot's body holds the plaintext afterwards. The body of a candidate that was not authentic is zeroed.
    /// Slots that are no candidates, headers and tags stay as they were. At most [`MAX_SLOTS`] slots are looked at, and
    /// what is shorter than [`MIN_SLOT`] is never authentic.
    #[must_use]
    pub fn open_slots(&self, slots: &mut [u8], stride: usize, candidates: u64) -> u64 {
        let Some(mut slots) = Slots::new(slots, stride, MAX_SLOTS) else {
            return 0;
        };
        self.open_with(kernel(), &mut slots, candidates)
    }

    fn seal_with(&self, kernel: Kernel, slots: &mut Slots<'_>) {
        let equal = slots.equal();
        let batched = simd::batch(kernel, equal);
        let mut starts = [0; MAX_SLOTS];
        for from in (0..batched).step_by(MAX_SLOTS) {
            let to = batched.min(from + MAX_SLOTS);
            for index in from..to {
                starts[index - from] = slots.start(index);
            }
            let body = slots.body();
            simd::seal(kernel, &self.0.words, slots.bytes(), &starts[..to - from], body);
        }
        for index in batched..slots.count() {
            self.0.single.seal(slots.slot(index));
        }
    }

    fn open_with(&self, kernel: Kernel, slots: &mut Slots<'_>, candidates: u64) -> u64 {
        let equal = slots.equal();
        let mut starts = [0; MAX_SLOTS];
        let mut wanted = 0;
        for index in (0..equal).filter(|index| candidates >> index & 1 == 1) {
            starts[wanted] = slots.start(index);
            wanted += 1;
        }
        let batched = simd::batch(kernel, wanted);
        let body = slots.body();
        let right = simd::open(kernel, &self.0.words, slots.bytes(), &starts[..batched], body);
        let (mut authentic, mut others) = (0, candidates);
        let indices = (0..equal).filter(|index| candidates >> index & 1 == 1);
        for (order, index) in indices.take(batched).enumerate() {
            others &= !(1 << index);
            if right >> order & 1 == 1 {
                authentic |= 1 << index;
            } else {
                slots.slot(index)[HEADER..HEADER + body].fill(0);
            }
        }
        authentic | self.open_each(slots, others)
    }

    fn open_each(&self, slots: &mut Slots<'_>, candidates: u64) -> u64 {
        let mut authentic = 0;
        for index in (0..slots.count()).filter(|index| candidates >> index & 1 == 1) {
            authentic |= u64::from(self.0.single.open(slots.slot(index))) << index;
        }
        authentic
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}
