//! What routing and filtering cost a packet, with few rules and peers and with many.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use ipnet::IpNet;
use sandd_control_client::netmap::{FilterDst, FilterRule, FilterSrc, IpRange};
use sandd_mesh::filter::{PacketFilter, PeerContext};
use sandd_mesh::packet::ip::{IpPacket, encode_ip};
use sandd_mesh::route::RouteTable;

fn address(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x6440_0000 + number))
}

fn rule(number: u32) -> FilterRule {
    let range = |ip| IpRange { first: ip, last: ip };
    FilterRule {
        src: vec![FilterSrc::Range(range(address(number)))],
        dst: vec![FilterDst {
            range: range(address(1)),
            first_port: 0,
            last_port: 65_535,
        }],
        protocols: vec![6, 17],
        grants: Vec::new(),
    }
}

fn filter(criterion: &mut Criterion) {
    let now = Instant::now();
    let packet = |src, dst| encode_ip(src, dst, 17, &[0x12, 0x34, 0, 53, 0, 8, 0, 0]).unwrap_or_default();
    let caps = BTreeMap::new();
    let peer = PeerContext {
        jailed: false,
        capabilities: &caps,
    };
    for rules in [1u32, 100] {
        let mut filter = PacketFilter::new();
        filter.set_local(&[IpNet::from(address(1))]);
        filter.set_rules(Arc::new((0..rules).map(|number| rule(number + 2)).collect()));
        let inbound = packet(address(rules + 1), address(1));
        let Ok(view) = IpPacket::parse(&inbound) else { return };
        let name = format!("inbound verdict, the last of {rules} rules");
        criterion.bench_function(&name, |b| b.iter(|| filter.inbound(black_box(&view), &peer, now)));
        let outbound = packet(address(1), address(2));
        let Ok(view) = IpPacket::parse(&outbound) else { return };
        let name = format!("outbound packet of a known flow, {rules} rules");
        criterion.bench_function(&name, |b| b.iter(|| filter.outbound(black_box(&view), now)));
    }
}

fn route(criterion: &mut Criterion) {
    for peers in [10u32, 10_000] {
        let mut table = RouteTable::new();
        for number in 0..peers {
            table.insert(IpNet::from(address(number)), number);
        }
        let name = format!("route among {peers} peers");
        criterion.bench_function(&name, |b| b.iter(|| table.lookup(black_box(address(peers / 2)))));
    }
}

criterion_group!(benches, filter, route);
criterion_main!(benches);
