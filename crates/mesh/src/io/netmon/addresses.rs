//! Which addresses of this machine's interfaces are worth telling: those that a peer may reach.
//!
//! Never: loopback, IPv6 link-local, the mesh itself, interfaces that are down. Of each IPv6 prefix two, since privacy
//! addresses come in numbers. IPv4 link-local and IPv6 unique-local addresses only where there is nothing better.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

/// Global IPv6 addresses told of one prefix.
const PER_PREFIX: u32 = 2;

/// Addresses as the system has them now; none where it does not say.
pub(super) fn read(mesh: &[IpAddr]) -> BTreeSet<IpAddr> {
    let Ok(interfaces) = if_addrs::get_if_addrs() else {
        return BTreeSet::new();
    };
    let usable = interfaces
        .into_iter()
        .filter(|interface| interface.is_oper_up() || interface.is_p2p())
        .map(|interface| match interface.addr {
            if_addrs::IfAddr::V4(v4) => (IpAddr::V4(v4.ip), v4.prefixlen),
            if_addrs::IfAddr::V6(v6) => (IpAddr::V6(v6.ip), v6.prefixlen),
        })
        .filter(|(ip, _)| !mesh.contains(ip));
    select(usable)
}

fn select(found: impl Iterator<Item = (IpAddr, u8)>) -> BTreeSet<IpAddr> {
    let mut regular = BTreeSet::new();
    let mut reserve = BTreeSet::new();
    let mut prefixes: BTreeMap<(u128, u8), u32> = BTreeMap::new();
    for (ip, prefix_len) in found {
        match ip {
            _ if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || is_mesh_range(ip) => {}
            IpAddr::V4(v4) if v4.is_link_local() => {
                reserve.insert(ip);
            }
            IpAddr::V4(_) => {
                regular.insert(ip);
            }
            IpAddr::V6(v6) if v6.is_unicast_link_local() => {}
            IpAddr::V6(v6) if v6.is_unique_local() => {
                reserve.insert(ip);
            }
            IpAddr::V6(v6) => {
                let told = prefixes.entry((network(v6, prefix_len), prefix_len)).or_default();
                *told += 1;
                if *told <= PER_PREFIX {
                    regular.insert(ip);
                }
            }
        }
    }
    if regular.is_empty() { reserve } else { regular }
}

fn network(ip: Ipv6Addr, prefix_len: u8) -> u128 {
    let host_bits = 128u32.saturating_sub(prefix_len.into());
    u128::MAX.checked_shl(host_bits).unwrap_or(0) & ip.to_bits()
}

/// The ranges that coordinators give to nodes.
fn is_mesh_range(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[0] == 100 && (64..128).contains(&ip.octets()[1]),
        IpAddr::V6(ip) => ip.segments()[..3] == [0xfd7a, 0x115c, 0xa1e0],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(found: &[(&str, u8)]) -> Vec<String> {
        let parsed = found.iter().map(|(ip, len)| (ip.parse().unwrap(), *len));
        select(parsed).into_iter().map(|ip| ip.to_string()).collect()
    }

    #[test]
    fn ordinary_addresses_are_told_and_special_ones_are_not() {
        let found = [
            ("127.0.0.1", 8),
            ("::1", 128),
            ("192.168.1.2", 24),
            ("203.0.113.9", 32),
            ("169.254.7.7", 16),
            ("fe80::1", 64),
            ("fd00::5", 64),
            ("2001:db8::5", 64),
            ("100.64.0.3", 10),
            ("100.127.255.255", 32),
            ("100.128.0.1", 32),
            ("fd7a:115c:a1e0::3", 128),
        ];
        assert_eq!(
            told(&found),
            ["100.128.0.1", "192.168.1.2", "203.0.113.9", "2001:db8::5"]
        );
    }

    #[test]
    fn the_second_best_are_told_where_there_is_nothing_better() {
        assert_eq!(told(&[("169.254.7.7", 16), ("fe80::1", 64)]), ["169.254.7.7"]);
        assert_eq!(told(&[("fd00::5", 64), ("127.0.0.1", 8)]), ["fd00::5"]);
        assert_eq!(told(&[("fd00::5", 64), ("10.0.0.1", 8)]), ["10.0.0.1"]);
        assert!(told(&[("::1", 128), ("127.0.0.1", 8), ("fe80::1", 64)]).is_empty());
    }

    #[test]
    fn two_of_each_prefix() {
        let found = [
            ("2001:db8:0:1::1", 64),
            ("2001:db8:0:1::2", 64),
            ("2001:db8:0:1::3", 64),
            ("2001:db8:0:2::3", 64),
            ("2001:db8:0:1::4", 128),
            ("2001:db8:0:3::4", 0),
        ];
        let expected = [
            "2001:db8:0:1::1",
            "2001:db8:0:1::2",
            "2001:db8:0:1::4",
            "2001:db8:0:2::3",
            "2001:db8:0:3::4",
        ];
        assert_eq!(told(&found), expected);
    }
}
