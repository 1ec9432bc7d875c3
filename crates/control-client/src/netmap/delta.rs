//! [`NetmapDelta`]: what one message of the coordinator changed, so that the engine touches only that.

use std::sync::Arc;

use super::{NetworkMap, NodeId};

/// What changed against the map before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetmapDelta {
    /// The whole peer set was replaced; compare instead of trusting the lists below.
    pub full: bool,
    /// Peers that are new or changed in any way.
    pub upserted: Vec<NodeId>,
    /// Peers that are gone.
    pub removed: Vec<NodeId>,
    /// The self node changed.
    pub self_node: bool,
    /// The relays changed.
    pub derp_map: bool,
    /// The packet rules changed.
    pub filter: bool,
    /// The names changed.
    pub dns: bool,
}

impl NetmapDelta {
    /// True when nothing the engine cares for changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
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
