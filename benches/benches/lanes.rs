//! What a node's engine sends and receives with no, one, two and three lanes: super-packets of one flow, from the device to
//! the socket's buffer and back, without the kernel. Meant for a machine with more cores than lanes.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sandd_mesh::io::pair::{Pair, SEGMENT, SEGMENTS};

/// Super-packets of one turn.
const TURN: usize = 16;

/// Times one of the two ends; the other one has its turn, too, since a packet is opened once only.
fn timed(pair: &mut Pair, turns: u64, of_sender: bool) -> Duration {
    let mut spent = Duration::ZERO;
    for _ in 0..turns {
        let began = Instant::now();
        pair.send(TURN);
        let sent = Instant::now();
        pair.receive(|_| {});
        spent += if of_sender { sent - began } else { sent.elapsed() };
    }
    spent
}

fn lanes(criterion: &mut Criterion) {
    for (name, of_sender) in [("send", true), ("receive", false)] {
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes((TURN * SEGMENTS * SEGMENT) as u64));
        for lanes in 0..4 {
            let mut pair = Pair::new(lanes);
            group.bench_function(format!("{lanes} lanes"), |b| {
                b.iter_custom(|turns| timed(&mut pair, turns, of_sender));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, lanes);
criterion_main!(benches);
