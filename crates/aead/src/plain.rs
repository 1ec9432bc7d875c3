//! Where there are no vector kernels.

use crate::kernel::Kernel;

/// Whether the processor can run `kernel`.
pub(crate) fn has(kernel: Kernel) -> bool {
    matches!(kernel, Kernel::Auto | Kernel::Ring)
}

/// Whether `kernel` is faster than one slot at a time for `slots` of them.
pub(crate) fn pays(_kernel: Kernel, _slots: usize) -> bool {
    false
}

/// Never called, since no kernel pays.
pub(crate) fn seal(_kernel: Kernel, _key: &[u32; 8], _bytes: &mut [u8], _starts: &[usize], _body: usize) {}

/// Never called, since no kernel pays.
pub(crate) fn open(_kernel: Kernel, _key: &[u32; 8], _bytes: &mut [u8], _starts: &[usize], _body: usize) -> u64 {
    0
}
