//! [`NetmapDelta`]: what one message of the coordinator changed, so that the engine touches only that.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{NetworkMap, NodeId};

/// What changed against the map before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetmapDelta {
    /// The whole peer set was replaced. The lists below still say exactly what differs from the map before.
    pub full: bool,
    /// Peers that are new or changed in any way, in ascending order.
    pub upserted: Vec<NodeId>,
    /// Peers that are gone, in ascending order.
    pub removed: Vec<NodeId>,
    /// The self node changed.
    pub self_node: bool,
    /// The relays changed.
    pub derp_map: bool,
    /// The packet rules changed.
    pub filter: bool,
    /// The names changed.
    pub dns: bool,
    /// Something for people changed: users, the tailnet's name, problems to show.
    pub other: bool,
}

impl NetmapDelta {
    /// True when nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Both changes as one: `self` first, `later` after it.
    #[must_use]
    pub fn then(self, later: Self) -> Self {
        let gone_then: BTreeSet<NodeId> = self.removed.into_iter().collect();
        let changed_then: BTreeSet<NodeId> = self.upserted.into_iter().collect();
        let gone: BTreeSet<NodeId> = later.removed.into_iter().collect();
        let changed: BTreeSet<NodeId> = later.upserted.into_iter().collect();
        Self {
            full: self.full || later.full,
            upserted: changed_then
                .difference(&gone)
                .chain(&changed)
                .copied()
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
            removed: gone_then
                .difference(&changed)
                .chain(&gone)
                .copied()
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
            self_node: self.self_node || later.self_node,
            derp_map: self.derp_map || later.derp_map,
            filter: self.filter || later.filter,
            dns: self.dns || later.dns,
            other: self.other || later.other,
        }
    }
}

/// A new map and what is new in it.
#[derive(Debug, Clone)]
pub struct NetmapUpdate {
    /// The map after the change.
    pub map: Arc<NetworkMap>,
    /// The change.
    pub delta: NetmapDelta,
    /// True when the map comes from the state file and not from the coordinator.
    pub cached: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta(upserted: &[i64], removed: &[i64]) -> NetmapDelta {
        let ids = |ids: &[i64]| ids.iter().copied().map(NodeId).collect();
        NetmapDelta {
            upserted: ids(upserted),
            removed: ids(removed),
            ..NetmapDelta::default()
        }
    }

    #[test]
    fn the_later_change_of_a_peer_counts() {
        assert_eq!(delta(&[1, 2], &[3]).then(delta(&[3], &[2])), delta(&[1, 3], &[2]));
        let dns = NetmapDelta {
            dns: true,
            full: true,
            ..NetmapDelta::default()
        };
        assert_eq!(
            delta(&[1], &[]).then(dns.clone()),
            NetmapDelta {
                upserted: vec![NodeId(1)],
                ..dns
            }
        );
    }
}
