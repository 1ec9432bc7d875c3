//! Where there are no vector kernels.

use crate::kernel::Kernel;

/// Whether the processor can run `kernel`.
pub(crate) fn has(kernel: Kernel) -> bool {
    matches!(kernel, Kernel::Auto | Kernel::Ring)
}

/// How many of so many slots `kernel` is faster for than one at a time.
pub(crate) fn batch(_kernel: Kernel, _slots: usize) -> usize {
    0
}

/// Never called with slots, since no batch is made.
pub(crate) fn seal(_kernel: Kernel, _key: &[u32; 8], _bytes: &mut [u8], _starts: &[usize], _body: usize) {}

/// Never called with slots, since no batch is made.
pub(crate) fn open(_kernel: Kernel, _key: &[u32; 8], _bytes: &mut [u8], _starts: &[usize], _body: usize) -> u64 {
    0
}
