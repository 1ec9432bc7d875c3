//! What sealing and opening costs a packet of 1,420 bytes, by kernel and by how many come at once.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use sandd_aead::{Kernel, Key, MIN_SLOT, kernel, set_kernel};

const BODY: usize = 1420;
const STRIDE: usize = BODY + MIN_SLOT;

fn seal(criterion: &mut Criterion) {
    let key = Key::new(&[7; 32]);
    for wanted in [Kernel::Ring, Kernel::Avx2, Kernel::Avx512] {
        set_kernel(wanted);
        if kernel() != wanted {
            continue;
        }
        let mut group = criterion.benchmark_group(format!("{wanted:?}"));
        for count in [1, 8, 16, 45] {
            group.throughput(Throughput::Elements(count as u64));
            let mut run = vec![0; count * STRIDE];
            group.bench_function(format!("seal {count}"), |b| b.iter(|| key.seal_slots(&mut run, STRIDE)));
            group.bench_function(format!("open {count}"), |b| {
                b.iter_batched_ref(
                    || run.clone(),
                    |run| key.open_slots(run, STRIDE, u64::MAX),
                    BatchSize::SmallInput,
                );
            });
        }
        group.finish();
    }
    set_kernel(Kernel::Auto);
}

criterion_group!(benches, seal);
criterion_main!(benches);
