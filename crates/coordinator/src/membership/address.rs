//! Overlay addresses, in order of joining: the same number in 100.64.0.0/10 and in fd7a:115c:a1e0::/48.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// The IPv4 range of the mesh.
pub(crate) const RANGE_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10);
/// The IPv6 range of the mesh.
pub(crate) const RANGE_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0), 48);

/// Ranges that nodes use for themselves: service addresses, and what a ChromeOS host takes for its containers.
const RESERVED_V4: [Ipv4Net; 2] = [
    Ipv4Net::new_assert(Ipv4Addr::new(100, 100, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 115, 92, 0), 23),
];
/// `fd7a:115c:a1e0::53` answers DNS on each node.
const RESERVED_V6: u32 = 0x53;
/// Addresses of a /10 without its broadcast address.
const LAST: u32 = (1 << 22) - 2;

/// A node's place in both ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Slot(pub(crate) u32);

impl Slot {
    /// The IPv4 address.
    pub(crate) fn v4(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(RANGE_V4.network()) | self.0)
    }

    /// The IPv6 address.
    pub(crate) fn v6(self) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(RANGE_V6.network()) | u128::from(self.0))
    }

    /// Both, as host networks.
    pub(crate) fn networks(self) -> [IpNet; 2] {
        [IpNet::from(IpAddr::V4(self.v4())), IpNet::from(IpAddr::V6(self.v6()))]
    }

    fn is_usable(self) -> bool {
        self.0 != 0
            && self.0 <= LAST
            && self.0 != RESERVED_V6
            && !RESERVED_V4.iter().any(|range| range.contains(&self.v4()))
    }

    /// The first free slot after `self`, beginning anew at the end: an address is given again as late as possible,
    /// because caches of its former owner's live on.
    pub(crate) fn next_free(self, is_taken: impl Fn(Self) -> bool) -> Option<Self> {
        let after = (self.0.saturating_add(1))..=LAST;
        let before = 1..=self.0.min(LAST);
        after
            .chain(before)
            .map(Self)
            .find(|slot| slot.is_usable() && !is_taken(*slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_go_up_and_skip_what_is_reserved() {
        let first = Slot(0).next_free(|_| false).unwrap();
        assert_eq!(first.v4().to_string(), "100.64.0.1");
        assert_eq!(first.v6().to_string(), "fd7a:115c:a1e0::1");
        assert_eq!(Slot(0x52).next_free(|_| false), Some(Slot(0x54)));
        let before_service = u32::from(Ipv4Addr::new(100, 99, 255, 255)) - u32::from(RANGE_V4.network());
        let next = Slot(before_service).next_free(|_| false).unwrap();
        assert_eq!(next.v4().to_string(), "100.101.0.0");
    }

    #[test]
    fn a_freed_address_comes_back_only_at_the_end() {
        assert_eq!(Slot(7).next_free(|slot| slot == Slot(8)), Some(Slot(9)));
        assert_eq!(Slot(LAST).next_free(|slot| slot == Slot(1)), Some(Slot(2)));
        assert_eq!(Slot(5).next_free(|_| true), None);
    }
}
