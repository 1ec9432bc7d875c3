//! What splitting, joining and checksums cost a packet, with super-packets of 45 segments as TCP makes them.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use sandd_mesh::packet::checksum::Checksum;
use sandd_mesh::packet::ip::encode_ip;
use sandd_mesh::packet::join::Joiner;
use sandd_mesh::packet::split::Splitter;
use sandd_mesh::packet::vnet::{GSO_TCPV4, NEEDS_CSUM, VnetHeader};

const SEGMENTS: usize = 45;
/// TCP payload of a packet of 1420 bytes with timestamps.
const SIZE: usize = 1368;
const HEADERS: usize = 52;

const VNET: VnetHeader = VnetHeader {
    flags: NEEDS_CSUM,
    gso_type: GSO_TCPV4,
    hdr_len: 52,
    gso_size: 1368,
    csum_start: 20,
    csum_offset: 16,
};

fn super_packet() -> Vec<u8> {
    let mut tcp = vec![200, 1, 100, 1, 0, 0, 0, 9, 0, 0, 0, 7, 0x80, 0x10, 2, 0, 0, 0, 0, 0];
    tcp.extend([1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
    tcp.extend((0..SEGMENTS * SIZE).map(|at| ((at * 31) >> 5) as u8));
    let (src, dst) = ([100, 64, 0, 1].into(), [100, 64, 0, 2].into());
    encode_ip(src, dst, 6, &tcp).unwrap_or_default()
}

fn segments() -> Vec<Vec<u8>> {
    let packet = super_packet();
    let Ok(splitter) = Splitter::new(&VNET, &packet) else {
        return Vec::new();
    };
    splitter.segments().map(|segment| segment.to_vec()).collect()
}

fn checksum(criterion: &mut Criterion) {
    let bytes = vec![0x5a; SIZE];
    let mut copy = vec![0; SIZE];
    let mut group = criterion.benchmark_group("checksum of 1368 bytes");
    group.throughput(Throughput::Bytes(SIZE as u64));
    group.bench_function("alone", |b| {
        b.iter(|| Checksum::default().with(black_box(&bytes)).finish())
    });
    group.bench_function("with copy", |b| {
        b.iter(|| {
            Checksum::default()
                .with_copy(black_box(&mut copy), black_box(&bytes))
                .finish()
        });
    });
    group.bench_function("copy alone", |b| {
        b.iter(|| black_box(&mut copy).copy_from_slice(black_box(&bytes)))
    });
    group.finish();
}

fn split(criterion: &mut Criterion) {
    let packet = super_packet();
    let stride = (16 + HEADERS + SIZE).next_multiple_of(16) + 16;
    let mut slots = vec![0; SEGMENTS * stride];
    let mut group = criterion.benchmark_group("split");
    group.throughput(Throughput::Elements(SEGMENTS as u64));
    group.bench_function("45 segments into slots", |b| {
        b.iter(|| {
            let Ok(splitter) = Splitter::new(&VNET, black_box(&packet)) else {
                return;
            };
            for (index, slot) in slots.chunks_exact_mut(stride).enumerate() {
                let len = splitter.len_of(index);
                splitter.write(index, &mut slot[16..16 + len]);
            }
        });
    });
    group.finish();
}

fn join(criterion: &mut Criterion) {
    let packets = segments();
    let mut joiner = Joiner::new();
    let mut sink = |bytes: &mut [u8]| {
        black_box(bytes);
    };
    let mut group = criterion.benchmark_group("join");
    group.throughput(Throughput::Elements(packets.len() as u64));
    group.bench_function("45 packets of one flow", |b| {
        b.iter(|| {
            for packet in &packets {
                joiner.push(black_box(packet), &mut sink);
            }
            joiner.flush(&mut sink);
        });
    });
    joiner.set_tcp(false);
    group.bench_function("45 packets singly", |b| {
        b.iter(|| {
            for packet in &packets {
                joiner.push(black_box(packet), &mut sink);
            }
        });
    });
    group.finish();
    let mut group = criterion.benchmark_group("first use");
    group.bench_function("a joiner's first packet", |b| {
        b.iter_batched(
            Joiner::new,
            |mut joiner| {
                joiner.push(black_box(&packets[0]), &mut sink);
                joiner.flush(&mut sink);
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, checksum, split, join);
criterion_main!(benches);
