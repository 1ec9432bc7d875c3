//! [`PeerMap`]: the peers of a map by id, cheap to copy and to change in one place.
//!
//! A map is shared with everybody who looks at it, and each delta makes a new one. With ten thousand peers a copy of all
//! entries would cost more than the delta; here runs of up to 128 neighbours are shared until one of them changes.

use std::fmt;
use std::ops::Index;
use std::sync::Arc;

use super::network_map::{Node, NodeId};

/// A run that would become longer is cut in two.
const MAX_RUN: usize = 128;

/// See the module's text.
#[derive(Clone, Default)]
pub struct PeerMap {
    /// None is empty, and all ids of one are below those of the next.
    runs: Vec<Run>,
    len: usize,
}

#[derive(Clone)]
struct Run {
    first: NodeId,
    nodes: Arc<Vec<Arc<Node>>>,
}

impl Run {
    fn new(nodes: Vec<Arc<Node>>) -> Option<Self> {
        Some(Self {
            first: nodes.first()?.id,
            nodes: Arc::new(nodes),
        })
    }

    fn position(&self, id: NodeId) -> Result<usize, usize> {
        self.nodes.binary_search_by_key(&id, |node| node.id)
    }
}

impl PeerMap {
    /// No peers.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            runs: Vec::new(),
            len: 0,
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The peer with this id.
    #[must_use]
    pub fn get(&self, id: &NodeId) -> Option<&Arc<Node>> {
        let run = self.runs.get(self.run_of(*id)?)?;
        run.position(*id).ok().and_then(|at| run.nodes.get(at))
    }

    /// True when there is a peer with this id.
    #[must_use]
    pub fn contains_key(&self, id: &NodeId) -> bool {
        self.get(id).is_some()
    }

    /// Puts a peer in its place; returns who had its id before.
    pub fn insert(&mut self, node: Arc<Node>) -> Option<Arc<Node>> {
        let Some(at) = self.run_of(node.id) else {
            // Before all others, or the first of all.
            match self.runs.first_mut() {
                Some(run) => {
                    run.first = node.id;
                    Arc::make_mut(&mut run.nodes).insert(0, node);
                    self.len += 1;
                    self.split(0);
                }
                None => {
                    self.runs.extend(Run::new(vec![node]));
                    self.len = 1;
                }
            }
            return None;
        };
        let run = self.runs.get_mut(at)?;
        match run.position(node.id) {
            Ok(place) => Arc::make_mut(&mut run.nodes)
                .get_mut(place)
                .map(|old| std::mem::replace(old, node)),
            Err(place) => {
                Arc::make_mut(&mut run.nodes).insert(place, node);
                self.len += 1;
                self.split(at);
                None
            }
        }
    }

    /// Takes a peer out.
    pub fn remove(&mut self, id: &NodeId) -> Option<Arc<Node>> {
        let at = self.run_of(*id)?;
        let run = self.runs.get_mut(at)?;
        let place = run.position(*id).ok()?;
        let nodes = Arc::make_mut(&mut run.nodes);
        let gone = nodes.remove(place);
        self.len -= 1;
        match nodes.first() {
            Some(first) => run.first = first.id,
            None => {
                self.runs.remove(at);
            }
        }
        Some(gone)
    }

    /// Changes a peer, if it is there.
    pub(super) fn change(&mut self, id: NodeId, change: impl FnOnce(&mut Node)) -> bool {
        let Some(run) = self.run_of(id).and_then(|at| self.runs.get_mut(at)) else {
            return false;
        };
        let Ok(place) = run.position(id) else { return false };
        let node = Arc::make_mut(&mut run.nodes).get_mut(place);
        node.map(|node| change(Arc::make_mut(node))).is_some()
    }

    /// The peers by ascending id.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &Arc<Node>> + Clone {
        self.runs.iter().flat_map(|run| run.nodes.iter())
    }

    /// Their ids, ascending.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = NodeId> + Clone + '_ {
        self.values().map(|node| node.id)
    }

    /// Ids and peers, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (NodeId, &Arc<Node>)> + Clone {
        self.values().map(|node| (node.id, node))
    }

    /// The run in which an id is, or would be put; none when it comes before all others.
    fn run_of(&self, id: NodeId) -> Option<usize> {
        self.runs.partition_point(|run| run.first <= id).checked_sub(1)
    }

    fn split(&mut self, at: usize) {
        let Some(run) = self.runs.get_mut(at) else { return };
        if run.nodes.len() > MAX_RUN {
            let upper = Arc::make_mut(&mut run.nodes).split_off(MAX_RUN / 2);
            if let Some(upper) = Run::new(upper) {
                self.runs.insert(at + 1, upper);
            }
        }
    }
}

impl FromIterator<Arc<Node>> for PeerMap {
    /// Of several with one id, the last counts.
    fn from_iter<I: IntoIterator<Item = Arc<Node>>>(nodes: I) -> Self {
        let mut nodes: Vec<_> = nodes.into_iter().collect();
        nodes.sort_by_key(|node| node.id);
        nodes.reverse();
        nodes.dedup_by_key(|node| node.id);
        nodes.reverse();
        // Not quite full, so that the next peers need no cut.
        let runs = nodes.chunks(MAX_RUN * 3 / 4).filter_map(|run| Run::new(run.to_vec()));
        Self {
            runs: runs.collect(),
            len: nodes.len(),
        }
    }
}

impl PartialEq for PeerMap {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.values().eq(other.values())
    }
}

impl fmt::Debug for PeerMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Index<&NodeId> for PeerMap {
    type Output = Arc<Node>;

    /// # Panics
    /// When there is no such peer.
    fn index(&self, id: &NodeId) -> &Self::Output {
        self.get(id).expect("a peer with this id")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::netmap::convert;
    use crate::wire;

    fn node(id: i64, name: &str) -> Arc<Node> {
        let wire = wire::Node {
            id,
            name: name.to_owned(),
            key: Some(crate::keys::NodePublicKey::from_bytes([1; 32])),
            ..wire::Node::default()
        };
        Arc::new(convert::node(wire).unwrap())
    }

    proptest! {
        #[test]
        fn it_equals_an_ordered_map(steps in prop::collection::vec((0u8..4, 0i64..400, "[a-c]"), 0..600)) {
            let (mut map, mut plain) = (PeerMap::new(), BTreeMap::new());
            for (kind, id, name) in steps {
                let before = map.clone();
                let plain_before = plain.clone();
                match kind {
                    0 | 1 => prop_assert_eq!(
                        map.insert(node(id, &name)).map(|old| old.name.clone()),
                        plain.insert(id, name)
                    ),
                    2 => prop_assert_eq!(map.remove(&NodeId(id)).map(|old| old.name.clone()), plain.remove(&id)),
                    _ => {
                        let changed = map.change(NodeId(id), |node| node.name.clone_from(&name));
                        prop_assert_eq!(changed, plain.get_mut(&id).map(|old| *old = name).is_some());
                    }
                }
                prop_assert_eq!(before.len(), plain_before.len(), "a copy does not change");
            }
            let listed: Vec<_> = map.iter().map(|(id, node)| (id.0, node.name.clone())).collect();
            prop_assert_eq!(&listed, &plain.clone().into_iter().collect::<Vec<_>>());
            prop_assert!(plain.keys().all(|id| map.contains_key(&NodeId(*id))));
            let again: PeerMap = map.values().cloned().collect();
            prop_assert_eq!(&again, &map);
            prop_assert_eq!(map.runs.iter().map(|run| run.nodes.len()).sum::<usize>(), map.len());
            prop_assert!(map.runs.iter().all(|run| (1..=MAX_RUN).contains(&run.nodes.len())));
        }
    }

    #[test]
    fn the_last_of_several_counts() {
        let map: PeerMap = [node(2, "a"), node(1, "b"), node(2, "c")].into_iter().collect();
        assert_eq!(map.len(), 2);
        assert_eq!(map[&NodeId(2)].name, "c");
    }

    #[test]
    fn a_change_copies_one_run_and_no_more() {
        let map: PeerMap = (0..10_000).map(|id| node(id, "x")).collect();
        let mut other = map.clone();
        other.insert(node(5_000, "y"));
        let differ = map
            .runs
            .iter()
            .zip(&other.runs)
            .filter(|(a, b)| !Arc::ptr_eq(&a.nodes, &b.nodes));
        assert_eq!(differ.count(), 1);
        assert_eq!((map.len(), other.len()), (10_000, 10_000));
    }
}
