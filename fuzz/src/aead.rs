//! Runs of WireGuard data packets: every kernel must find the same packets authentic and make the same bytes.

use sandd_aead::{Kernel, Key, set_kernel};

const KERNELS: [Kernel; 3] = [Kernel::Ring, Kernel::Avx2, Kernel::Avx512];

/// Two bytes of stride, eight of candidates, then a run: opened as it is, sealed, opened again.
pub fn slots(data: &[u8]) {
    let Some((head, run)) = data.split_first_chunk::<10>() else {
        return;
    };
    let stride = usize::from(u16::from_le_bytes([head[0], head[1]]) % 2048);
    let candidates = u64::from_le_bytes([head[2], head[3], head[4], head[5], head[6], head[7], head[8], head[9]]);
    let key = Key::new(&[0x42; 32]);
    let mut results = KERNELS.iter().map(|kernel| {
        set_kernel(*kernel);
        let mut stranger = run.to_vec();
        let opened = key.open_slots(&mut stranger, stride, candidates);
        let mut own = run.to_vec();
        if stride >= sandd_aead::MIN_SLOT {
            key.seal_slots(&mut own, stride);
        }
        let sealed = own.clone();
        let authentic = key.open_slots(&mut own, stride, candidates);
        (opened, stranger, sealed, authentic, own)
    });
    let first = results.next();
    assert!(results.all(|result| Some(&result) == first.as_ref()));
}
