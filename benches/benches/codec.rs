//! What every small message costs: disco boxes, STUN, inner IP headers.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use sandd_control_client::keys::{DiscoPrivateKey, NodePublicKey};
use sandd_mesh::disco::{DiscoBox, Features, Message, Nat};
use sandd_mesh::packet::ip::{IpPacket, encode_echo_request};
use sandd_mesh::stun;

fn disco(criterion: &mut Criterion) {
    let (own, theirs) = (DiscoPrivateKey::generate(), DiscoPrivateKey::generate());
    let public = own.public();
    let sealed = DiscoBox::new(&own, &theirs.public());
    let node_key = Some(NodePublicKey::from_bytes([7; 32]));
    let ping = Message::Ping {
        tx: [1; 12],
        node_key,
        padding: 0,
        ours: Some(Features::current(Nat::Easy, true)),
    };
    let packet = sealed.seal(&public, &ping);
    criterion.bench_function("disco key agreement", |b| {
        b.iter(|| DiscoBox::new(&own, black_box(&theirs.public())))
    });
    criterion.bench_function("disco ping sealed", |b| {
        b.iter(|| sealed.seal(&public, black_box(&ping)))
    });
    criterion.bench_function("disco ping opened", |b| b.iter(|| sealed.open(black_box(&packet))));
}

fn stun_messages(criterion: &mut Criterion) {
    let response = stun::binding_response(&[1; 12], std::net::SocketAddr::from(([203, 0, 113, 9], 41_641)));
    criterion.bench_function("STUN request built", |b| {
        b.iter(|| stun::binding_request(black_box(&[1; 12])))
    });
    criterion.bench_function("STUN response read", |b| {
        b.iter(|| stun::parse_response(black_box(&response)))
    });
}

fn ip(criterion: &mut Criterion) {
    let (src, dst) = ([100, 64, 0, 1].into(), [100, 64, 0, 2].into());
    let packet = encode_echo_request(src, dst, 1, 1, &[0; 1_200]).unwrap_or_default();
    criterion.bench_function("inner packet viewed", |b| {
        b.iter(|| IpPacket::parse(black_box(&packet)).is_ok())
    });
}

criterion_group!(benches, disco, stun_messages, ip);
criterion_main!(benches);
