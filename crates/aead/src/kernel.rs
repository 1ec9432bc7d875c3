//! Which code does the work: what the processor has, unless the program says otherwise.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::simd;

/// An implementation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// The fastest that this processor has.
    Auto,
    /// `ring`, one packet at a time.
    Ring,
    /// Eight blocks at once in AVX2 registers.
    Avx2,
    /// Sixteen blocks at once in AVX-512 registers.
    Avx512,
}

static CHOSEN: AtomicU8 = AtomicU8::new(UNDECIDED);
const UNDECIDED: u8 = 0;
const KERNELS: [Kernel; 3] = [Kernel::Ring, Kernel::Avx2, Kernel::Avx512];

/// Sets the kernel for the whole process, from the next call on. When the processor lacks it, the next slower one that it
/// has is used. Every kernel makes the same bytes.
pub fn set_kernel(kernel: Kernel) {
    CHOSEN.store(code(available(kernel)), Ordering::Relaxed);
}

/// The kernel in use: never [`Kernel::Auto`].
pub fn kernel() -> Kernel {
    let chosen = CHOSEN.load(Ordering::Relaxed);
    match KERNELS.into_iter().find(|kernel| code(*kernel) == chosen) {
        Some(kernel) => kernel,
        None => {
            set_kernel(Kernel::Auto);
            available(Kernel::Auto)
        }
    }
}

fn code(kernel: Kernel) -> u8 {
    match kernel {
        Kernel::Auto => UNDECIDED,
        Kernel::Ring => 1,
        Kernel::Avx2 => 2,
        Kernel::Avx512 => 3,
    }
}

/// `kernel`, or the next slower one that the processor has.
pub(crate) fn available(kernel: Kernel) -> Kernel {
    let wanted = match kernel {
        Kernel::Auto => Kernel::Avx512,
        Kernel::Ring | Kernel::Avx2 | Kernel::Avx512 => kernel,
    };
    KERNELS
        .into_iter()
        .rev()
        .filter(|candidate| code(*candidate) <= code(wanted))
        .find(|candidate| simd::has(*candidate))
        .unwrap_or(Kernel::Ring)
}
