//! Draws the network of a world: sites with the gates that are met, and where the hosts are.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::nat::{Gate, Kind};
use super::net::{INTERNET, Net, Place, Site, Weather};
use super::rng::Rng;

/// Addresses of the STUN servers, one a region.
pub(super) const STUN: [([u8; 4], u16); 2] = [([203, 0, 113, 1], 3_478), ([203, 0, 113, 2], 3_478)];

/// A network for so many hosts.
pub(super) fn draw(rng: &mut Rng, hosts: usize) -> Net {
    let internet = Site {
        parent: None,
        gate: None,
        gate6: None,
    };
    let mut net = Net {
        sites: vec![internet],
        places: Vec::new(),
        stun: STUN.iter().copied().map(SocketAddr::from).collect(),
        cut: BTreeSet::new(),
        weather: Weather::default(),
    };
    for _ in 0..hosts {
        add_host(&mut net, rng);
    }
    net
}

fn add_host(net: &mut Net, rng: &mut Rng) {
    let neighbour = rng.index(net.places.len() + 4);
    let site = match net.places.get(neighbour) {
        Some(place) => place.site,
        None => add_site(net, rng),
    };
    let place = place_in(net, site, rng);
    net.places.push(place);
}

/// A site of its own for a host, behind one gate or two.
pub(super) fn add_site(net: &mut Net, rng: &mut Rng) -> usize {
    if !rng.per_mille(120) {
        let kind = match rng.below(8) {
            0 => Kind::open(),
            1 => Kind::firewall(),
            _ => Kind::draw(rng),
        };
        return push_site(net, INTERNET, kind, rng);
    }
    // Two homes of one carrier share its gate.
    let carrier = net
        .sites
        .iter()
        .filter_map(|site| site.parent)
        .find(|parent| *parent != INTERNET);
    let carrier = carrier.filter(|_| rng.per_mille(500)).unwrap_or_else(|| {
        let kind = Kind::draw(rng);
        push_site(net, INTERNET, kind, rng)
    });
    let kind = Kind::draw(rng);
    push_site(net, carrier, kind, rng)
}

fn push_site(net: &mut Net, parent: usize, kind: Kind, rng: &mut Rng) -> usize {
    let number = net.sites.len();
    let kind6 = if rng.per_mille(700) {
        Kind::firewall()
    } else {
        Kind::open()
    };
    let outer = outer_address(number, parent, 0);
    net.sites.push(Site {
        parent: Some(parent),
        gate: Some(Gate::new(kind, outer, Rng::new(rng.next(), 1))),
        gate6: Some(Gate::new(
            kind6,
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            Rng::new(rng.next(), 2),
        )),
    });
    number
}

/// What a gate is called in the network above it. `turn` tells one address of it from the next.
pub(super) fn outer_address(site: usize, parent: usize, turn: u8) -> IpAddr {
    let number = u8::try_from(site).unwrap_or(u8::MAX);
    if parent == INTERNET {
        IpAddr::V4(Ipv4Addr::new(198, 51, 100 + turn, number))
    } else {
        IpAddr::V4(Ipv4Addr::new(10, 65, turn, number))
    }
}

/// A free address in a site. Private ones are often the same in two sites, as in life.
pub(super) fn place_in(net: &Net, site: usize, rng: &mut Rng) -> Place {
    let number = u8::try_from(site).unwrap_or(u8::MAX);
    let public = net
        .sites
        .get(site)
        .and_then(|site| site.gate.as_ref())
        .is_some_and(|gate| !gate.kind.translates);
    let taken: BTreeSet<Ipv4Addr> = net.places.iter().filter(|p| p.site == site).map(|p| p.v4).collect();
    let network = u8::try_from(rng.between(0, 1)).unwrap_or(0);
    let mut last = 2;
    let v4 = loop {
        let candidate = if public {
            Ipv4Addr::new(192, 0, number, last)
        } else {
            Ipv4Addr::new(192, 168, network, last)
        };
        if !taken.contains(&candidate) {
            break candidate;
        }
        last += 1;
    };
    let v6 = rng.per_mille(250).then(|| {
        Ipv6Addr::new(
            0x2001,
            0xdb8,
            u16::from(number),
            u16::try_from(rng.below(0x1_0000)).unwrap_or(0),
            0,
            0,
            0,
            1,
        )
    });
    Place {
        site,
        v4,
        v6,
        port: if rng.per_mille(800) { 41_641 } else { rng.port() },
        access: rng.millis(1, 60),
        mtu: if rng.per_mille(200) { 1_400 } else { 1_500 },
        udp_out: true,
        udp_in: true,
    }
}
