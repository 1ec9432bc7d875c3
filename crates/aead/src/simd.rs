//! The vector kernels of x86-64. The only module with `unsafe` in it: loads, stores, and calls that need a processor's
//! feature; everything between is safe code on arrays and slices.
#![expect(
    unsafe_code,
    reason = "loads, stores and calls of functions with target features need it"
)]

mod chacha256;
mod chacha512;
mod lanes;
mod poly1305;
mod run;
mod tags;
#[cfg(test)]
mod tests;

use self::{
    run::{Direction, Run},
    tags::Tags,
};
use crate::kernel::Kernel;

/// "expand 32-byte k".
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// Whether the processor can run `kernel`.
pub(crate) fn has(kernel: Kernel) -> bool {
    match kernel {
        Kernel::Auto | Kernel::Ring => true,
        Kernel::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2"),
        Kernel::Avx512 => {
            is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("bmi2")
        }
    }
}

/// How many of so many slots `kernel` is faster for than one at a time: pairs, so not the last of an odd count.
pub(crate) fn batch(kernel: Kernel, slots: usize) -> usize {
    match kernel {
        Kernel::Avx2 | Kernel::Avx512 if has(kernel) => slots / 2 * 2,
        Kernel::Auto | Kernel::Ring | Kernel::Avx2 | Kernel::Avx512 => 0,
    }
}

/// Seals equal slots of `body` bytes between header and tag, which start at `starts`; no more than
/// [`MAX_SLOTS`](crate::MAX_SLOTS).
pub(crate) fn seal(kernel: Kernel, key: &[u32; 8], bytes: &mut [u8], starts: &[usize], body: usize) {
    let mut run = Run { bytes, starts, body };
    let tags = go(kernel, key, &mut run, Direction::Seal);
    tags.write(run.bytes);
}

/// Opens such slots; bit `i` is set if the tag of the slot at `starts[i]` was right.
pub(crate) fn open(kernel: Kernel, key: &[u32; 8], bytes: &mut [u8], starts: &[usize], body: usize) -> u64 {
    if starts.is_empty() {
        return 0;
    }
    let mut run = Run { bytes, starts, body };
    let tags = go(kernel, key, &mut run, Direction::Open);
    tags.compare(run.bytes)
}

fn go<'a>(kernel: Kernel, key: &[u32; 8], run: &mut Run<'a>, direction: Direction) -> Tags<'a> {
    if kernel == Kernel::Avx512 && has(Kernel::Avx512) {
        // SAFETY: the processor has just been asked.
        return unsafe { go512(key, run, direction) };
    }
    assert!(has(Kernel::Avx2), "no batch is made that the processor lacks");
    // SAFETY: the processor has just been asked.
    unsafe { go256(key, run, direction) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,bmi2")]
fn go512<'a>(key: &[u32; 8], run: &mut Run<'a>, direction: Direction) -> Tags<'a> {
    run.go::<{ chacha512::LANES }>(direction, chacha512::UNIT, |lanes, blocks, beside| {
        chacha512::pass(key, lanes, blocks, beside)
    })
}

#[target_feature(enable = "avx2,bmi2")]
fn go256<'a>(key: &[u32; 8], run: &mut Run<'a>, direction: Direction) -> Tags<'a> {
    run.go::<{ chacha256::LANES }>(direction, chacha256::UNIT, |lanes, blocks, beside| {
        chacha256::pass(key, lanes, blocks, beside)
    })
}
