//! [`MapNode`]: a peer between a message and the map, read and written one at a time.
//!
//! The wire's form of a node is many times larger than ours. Reading a message straight into ours, and writing the map of
//! the state file straight from it, keeps thousands of peers from ever being there in the large form.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::network_map::Node;
use super::{convert, snapshot};
use crate::wire;

/// A peer of a message, or nothing where the message has none that can be used.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MapNode(Option<Arc<Node>>);

impl MapNode {
    pub(super) fn into_node(self) -> Option<Arc<Node>> {
        self.0
    }
}

impl From<wire::Node> for MapNode {
    fn from(node: wire::Node) -> Self {
        Self(convert::node(node).map(Arc::new))
    }
}

impl From<Arc<Node>> for MapNode {
    fn from(node: Arc<Node>) -> Self {
        Self(Some(node))
    }
}

impl<'de> Deserialize<'de> for MapNode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        wire::Node::deserialize(deserializer).map(Self::from)
    }
}

impl Serialize for MapNode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_deref().map(snapshot::node).serialize(serializer)
    }
}
