//! Our own view of the tailnet: validated, without sentinels, cheap to share.
//!
//! `wire` speaks the coordinator's JSON with its zero keys and year-1 times; here an absent thing is a `None`.
//! `session` turns full and delta map responses into a [`NetworkMap`] and says what changed in a [`NetmapDelta`].

mod clock;
mod convert;
mod delta;
mod map_node;
mod network_map;
mod peer_map;
mod rule;
mod session;
mod snapshot;

pub use delta::{NetmapDelta, NetmapUpdate};
pub use map_node::MapNode;
pub use network_map::{
    CapGrant, DerpMap, DerpNode, DerpRegion, DnsConfig, DnsRecord, FilterDst, FilterRule, FilterSrc, IpRange,
    NetworkMap, Node, NodeId, RegionId, UserId, UserProfile,
};
pub use peer_map::PeerMap;
pub use session::{MapSession, SessionError};
pub use snapshot::to_wire;
