//! [`RouteTable`]: overlay prefix to peer by longest match, the same table for both directions (S-13).
//!
//! Outbound it says which peer gets a packet; inbound, whether a peer may speak for a source. Nearly all entries are
//! single addresses, found by one hash; prefixes are searched from the longest that exists.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// See the module's text.
#[derive(Debug, Clone)]
pub struct RouteTable<T> {
    hosts: HashMap<IpAddr, T>,
    prefixes: HashMap<IpNet, T>,
    lengths_v4: BTreeSet<u8>,
    lengths_v6: BTreeSet<u8>,
}

impl<T> Default for RouteTable<T> {
    fn default() -> Self {
        Self {
            hosts: HashMap::new(),
            prefixes: HashMap::new(),
            lengths_v4: BTreeSet::new(),
            lengths_v6: BTreeSet::new(),
        }
    }
}

impl<T: Copy> RouteTable<T> {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends a prefix to `to`; host bits are ignored. Returns who had it before.
    pub fn insert(&mut self, prefix: IpNet, to: T) -> Option<T> {
        if prefix.prefix_len() == prefix.max_prefix_len() {
            return self.hosts.insert(prefix.addr(), to);
        }
        self.lengths(prefix).insert(prefix.prefix_len());
        self.prefixes.insert(prefix.trunc(), to)
    }

    /// Forgets a prefix and returns who had it.
    pub fn remove(&mut self, prefix: IpNet) -> Option<T> {
        if prefix.prefix_len() == prefix.max_prefix_len() {
            return self.hosts.remove(&prefix.addr());
        }
        let gone = self.prefixes.remove(&prefix.trunc());
        let (v4, len) = (prefix.addr().is_ipv4(), prefix.prefix_len());
        if !self
            .prefixes
            .keys()
            .any(|other| other.addr().is_ipv4() == v4 && other.prefix_len() == len)
        {
            self.lengths(prefix).remove(&len);
        }
        gone
    }

    /// Who has exactly this prefix.
    #[must_use]
    pub fn get(&self, prefix: IpNet) -> Option<T> {
        if prefix.prefix_len() == prefix.max_prefix_len() {
            return self.hosts.get(&prefix.addr()).copied();
        }
        self.prefixes.get(&prefix.trunc()).copied()
    }

    /// Who has the longest prefix that holds this address.
    #[must_use]
    pub fn lookup(&self, ip: IpAddr) -> Option<T> {
        if let Some(found) = self.hosts.get(&ip) {
            return Some(*found);
        }
        let lengths = if ip.is_ipv4() {
            &self.lengths_v4
        } else {
            &self.lengths_v6
        };
        lengths
            .iter()
            .rev()
            .filter_map(|len| IpNet::new(ip, *len).ok())
            .find_map(|prefix| self.prefixes.get(&prefix.trunc()).copied())
    }

    /// Gives back the room of entries that are gone.
    pub fn shrink_to_fit(&mut self) {
        self.hosts.shrink_to_fit();
        self.prefixes.shrink_to_fit();
    }

    fn lengths(&mut self, prefix: IpNet) -> &mut BTreeSet<u8> {
        if prefix.addr().is_ipv4() {
            &mut self.lengths_v4
        } else {
            &mut self.lengths_v6
        }
    }
}

/// Where the mesh's addresses lie by custom; a device needs one route for each of the two.
const USUAL: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10)),
    IpNet::V6(Ipv6Net::new_assert(
        Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0),
        48,
    )),
];

/// What a kernel device must send here: the usual ranges once a peer lies in them, and each prefix outside of them by
/// itself. Peers are counted, so that a change costs nothing but itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeviceRoutes {
    peers: BTreeMap<IpNet, usize>,
    changed: bool,
}

impl DeviceRoutes {
    pub(crate) fn add(&mut self, prefix: IpNet) {
        let count = self.peers.entry(covering(prefix)).or_default();
        *count += 1;
        self.changed |= *count == 1;
    }

    pub(crate) fn remove(&mut self, prefix: IpNet) {
        let prefix = covering(prefix);
        let Some(count) = self.peers.get_mut(&prefix) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            self.peers.remove(&prefix);
            self.changed = true;
        }
    }

    /// All of them, in order.
    pub(crate) fn all(&self) -> Vec<IpNet> {
        self.peers.keys().copied().collect()
    }

    /// They are not in force yet: the device has refused some.
    pub(crate) fn mark_changed(&mut self) {
        self.changed = true;
    }

    /// True once after a change.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }
}

fn covering(prefix: IpNet) -> IpNet {
    let usual = USUAL.into_iter().find(|range| range.contains(&prefix));
    usual.unwrap_or(prefix.trunc())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_wins() {
        let mut table = RouteTable::new();
        table.insert(net("0.0.0.0/0"), 0);
        table.insert(net("10.0.0.0/8"), 1);
        table.insert(net("10.1.0.0/16"), 2);
        table.insert(net("10.1.2.3/32"), 3);
        for (ip, to) in [("10.1.2.3", 3), ("10.1.2.4", 2), ("10.2.0.1", 1), ("192.0.2.1", 0)] {
            assert_eq!(table.lookup(ip.parse().unwrap()), Some(to), "{ip}");
        }
        assert_eq!(table.lookup("::1".parse().unwrap()), None);
        table.remove(net("10.1.0.0/16"));
        assert_eq!(table.lookup("10.1.2.4".parse().unwrap()), Some(1));
    }

    #[test]
    fn a_device_gets_the_usual_ranges_and_what_lies_outside() {
        let mut routes = DeviceRoutes::default();
        for prefix in ["100.64.0.1/32", "100.64.0.2/32", "fd7a:115c:a1e0::1/128", "10.9.0.1/32"] {
            routes.add(net(prefix));
        }
        assert_eq!(
            routes.all(),
            [net("10.9.0.1/32"), net("100.64.0.0/10"), net("fd7a:115c:a1e0::/48")]
        );
        assert!(routes.take_changed());
        routes.remove(net("100.64.0.1/32"));
        routes.add(net("100.64.0.3/32"));
        assert!(!routes.take_changed(), "others are still there");
        routes.remove(net("10.9.0.1/32"));
        assert!(routes.take_changed() && routes.all().len() == 2);
    }

    proptest! {
        #[test]
        fn it_equals_a_slow_search(
            entries in proptest::collection::vec((any::<u32>(), 0u8..=32), 0..20),
            asked in any::<u32>(),
        ) {
            let mut table = RouteTable::new();
            let mut slow: Vec<(IpNet, usize)> = Vec::new();
            for (number, (bits, len)) in entries.iter().enumerate() {
                let prefix = IpNet::new(IpAddr::from(bits.to_be_bytes()), *len).unwrap().trunc();
                table.insert(prefix, number);
                slow.retain(|(known, _)| *known != prefix);
                slow.push((prefix, number));
            }
            let ip = IpAddr::from(asked.to_be_bytes());
            let best = slow.iter().filter(|(prefix, _)| prefix.contains(&ip)).max_by_key(|(prefix, _)| prefix.prefix_len());
            prop_assert_eq!(table.lookup(ip), best.map(|(_, number)| *number));
        }
    }
}
