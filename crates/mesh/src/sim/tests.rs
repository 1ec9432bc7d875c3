//! Worlds of some seeds, that a seed is a world, and the gates of their networks.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use super::nat::{Dependence, Gate, Kind, Ports};
use super::rng::Rng;
use super::*;

/// Worlds played in every run; `cargo xtask sim` plays thousands.
const SEEDS: u64 = 200;

#[test]
fn worlds_of_many_seeds_are_without_offence() {
    let next = AtomicU64::new(0);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= SEEDS {
                return;
            }
            if let Err(failure) = run(seed, 100, Instant::now()) {
                let (plan, lines) = (failure.plan.join("\n"), failure.lines.join("\n"));
                panic!("seed {seed}: {}\n{plan}\n{lines}", failure.what);
            }
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(work))));
}

#[test]
fn a_seed_is_a_world() {
    for seed in [3, 4, 5] {
        let first = play(&Plan::draw(seed, 40), Instant::now(), false);
        let second = play(&Plan::draw(seed, 40), Instant::now(), false);
        assert_eq!(report(&first), report(&second), "seed {seed}");
        assert!(report(&first).datagrams > 100, "seed {seed}: nothing happened");
    }
    let one = play(&Plan::draw(1, 10), Instant::now(), false);
    let two = play(&Plan::draw(2, 10), Instant::now(), false);
    assert_ne!(report(&one).hash, report(&two).hash);
}

fn gate(mapping: Dependence, filtering: Dependence) -> Gate {
    let kind = Kind {
        translates: true,
        mapping,
        filtering,
        ports: Ports::Random,
        hairpin: false,
        lifetime: Duration::from_secs(30),
        inbound_refreshes: false,
    };
    Gate::new(kind, [198, 51, 100, 1].into(), Rng::new(1, 1))
}

#[test]
fn gates_map_and_filter_as_rfc_4787_says() {
    use Dependence::{Address, AddressAndPort, EndpointIndependent};
    let now = Instant::now();
    let inner = SocketAddr::from(([192, 168, 0, 2], 1_000));
    let dst = SocketAddr::from(([203, 0, 113, 1], 1));
    let (port, other) = (
        SocketAddr::from(([203, 0, 113, 1], 2)),
        SocketAddr::from(([203, 0, 113, 2], 1)),
    );
    for (mapping, same_for_port, same_for_other) in [
        (EndpointIndependent, true, true),
        (Address, true, false),
        (AddressAndPort, false, false),
    ] {
        let mut gate = gate(mapping, EndpointIndependent);
        let seen = gate.outbound(inner, dst, now);
        assert_eq!(gate.outbound(inner, dst, now), seen);
        assert_eq!(gate.outbound(inner, port, now) == seen, same_for_port, "{mapping:?}");
        assert_eq!(gate.outbound(inner, other, now) == seen, same_for_other, "{mapping:?}");
    }
    for (filtering, from_port, from_other) in [
        (EndpointIndependent, true, true),
        (Address, true, false),
        (AddressAndPort, false, false),
    ] {
        let mut gate = gate(EndpointIndependent, filtering);
        let seen = gate.outbound(inner, dst, now);
        assert_eq!(gate.inbound(dst, seen, now), Some(inner));
        assert_eq!(gate.inbound(port, seen, now).is_some(), from_port, "{filtering:?}");
        assert_eq!(gate.inbound(other, seen, now).is_some(), from_other, "{filtering:?}");
        let late = now + Duration::from_secs(31);
        assert_eq!(gate.inbound(dst, seen, late), None, "the mapping has expired");
        assert_ne!(gate.outbound(inner, dst, late), seen, "and is another one now");
    }
}

#[test]
fn a_capture_begins_as_pcap_does() {
    let mut world = World::new(&Plan::draw(1, 0), Instant::now(), true);
    world.play(&Plan::draw(1, 2));
    let (lines, capture) = world.trace.into_parts();
    assert!(!lines.is_empty());
    assert_eq!(capture[..4], [0xd4, 0xc3, 0xb2, 0xa1]);
    let mut rest = &capture[24..];
    let mut packets = 0;
    while let Some(header) = rest.get(..16) {
        let len = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
        let (packet, others) = rest[16..].split_at(usize::try_from(len).unwrap());
        assert!(matches!(packet[0] >> 4, 4 | 6));
        rest = others;
        packets += 1;
    }
    assert!(packets > 4, "{packets} packets");
}
