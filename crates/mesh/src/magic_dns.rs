//! [`NameTable`]: names of the mesh to addresses and back, from the network map alone.
//!
//! A name is looked up in lower case, with or without its trailing dot, full (`worker-1.sandd.local`) or short
//! (`worker-1`). The system's resolver is never asked for a mesh name.
//!
//! The table is shared with everybody who asks and follows the map's deltas. It consists of parts that copies share until
//! one of them changes, so that a delta costs a few entries and not the whole table.

use std::borrow::Borrow;
use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use sandd_control_client::netmap::{NetworkMap, Node, NodeId};

/// Into so many parts a table is cut.
const PARTS: usize = 64;

/// See the module's text.
#[derive(Debug, Clone, Default)]
pub struct NameTable {
    names: Parts<HashSet<Named>>,
    nodes: Parts<HashMap<IpAddr, NodeId>>,
    records: Arc<HashMap<String, Vec<IpAddr>>>,
    /// Short names belong to this domain, the own node's.
    domain: Option<Arc<str>>,
    /// Two nodes have claimed one name or address: who has it after the next change, only the whole map tells.
    ambiguous: bool,
}

/// A node under its full name.
#[derive(Debug, Clone)]
struct Named(Arc<Node>);

impl Borrow<str> for Named {
    fn borrow(&self) -> &str {
        &self.0.name
    }
}

impl Hash for Named {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name.hash(state);
    }
}

impl PartialEq for Named {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for Named {}

impl NameTable {
    /// Reads the names of a map: this node, its peers and the extra records.
    #[must_use]
    pub fn new(map: &NetworkMap) -> Self {
        let mut table = Self::default();
        let own = map.self_node.as_ref().and_then(|node| node.name.split_once('.'));
        table.domain = own.map(|(_, rest)| rest.into());
        for node in map.peers.values().chain(map.self_node.as_ref()) {
            table.insert(node);
        }
        table.set_records(map);
        table
    }

    /// Follows a change of single nodes: `old` as they were, `new` as they are in `map`.
    pub(crate) fn change<'a>(
        &mut self,
        map: &NetworkMap,
        old: impl IntoIterator<Item = &'a Arc<Node>>,
        new: impl IntoIterator<Item = &'a Arc<Node>>,
    ) {
        if self.ambiguous {
            *self = Self::new(map);
            return;
        }
        for node in old {
            self.remove(node);
        }
        for node in new {
            self.insert(node);
        }
        if self.ambiguous {
            // The same outcome as that of a table made anew.
            *self = Self::new(map);
        }
    }

    /// Addresses of a name, IPv4 first.
    #[must_use]
    pub fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
        let name = normal(name);
        let record = self.records.get(&name);
        let node = self.node_named(&name);
        if let (None, None) = (record, node) {
            let short = format!("{name}.{}", self.domain.as_ref()?);
            return self.node_named(&short).filter(|_| !name.contains('.')).map(sorted);
        }
        let mut all = node.map(sorted).unwrap_or_default();
        all.extend(record.into_iter().flatten());
        Some(all)
    }

    /// The node that has this address.
    #[must_use]
    pub fn node_of(&self, ip: IpAddr) -> Option<NodeId> {
        self.nodes.part(&ip).get(&ip).copied()
    }

    fn node_named(&self, name: &str) -> Option<&Arc<Node>> {
        self.names.part(name).get(name).map(|named| &named.0)
    }

    fn set_records(&mut self, map: &NetworkMap) {
        let mut records: HashMap<String, Vec<IpAddr>> = HashMap::new();
        for record in &map.dns.extra_records {
            records.entry(normal(&record.name)).or_default().push(record.value);
        }
        self.records = Arc::new(records);
    }

    fn insert(&mut self, node: &Arc<Node>) {
        for ip in node.ips() {
            let before = self.nodes.part_mut(&ip).insert(ip, node.id);
            self.ambiguous |= before.is_some_and(|id| id != node.id);
        }
        let before = self.names.part_mut(node.name.as_str()).replace(Named(Arc::clone(node)));
        self.ambiguous |= before.is_some_and(|named| named.0.id != node.id);
    }

    fn remove(&mut self, node: &Node) {
        for ip in node.ips() {
            self.nodes.part_mut(&ip).remove(&ip);
        }
        self.names.part_mut(node.name.as_str()).remove(node.name.as_str());
    }
}

fn sorted(node: &Arc<Node>) -> Vec<IpAddr> {
    let mut ips: Vec<_> = node.ips().collect();
    ips.sort();
    ips
}

fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_lowercase()
}

/// A hash table in parts that are shared with copies until they change.
#[derive(Debug, Clone)]
struct Parts<T> {
    hasher: RandomState,
    parts: Box<[Arc<T>]>,
}

impl<T: Default> Default for Parts<T> {
    fn default() -> Self {
        let empty = Arc::<T>::default();
        Self {
            hasher: RandomState::new(),
            parts: vec![empty; PARTS].into_boxed_slice(),
        }
    }
}

impl<T: Clone> Parts<T> {
    fn part<K: Hash + ?Sized>(&self, key: &K) -> &T {
        &self.parts[self.at(key)]
    }

    fn part_mut<K: Hash + ?Sized>(&mut self, key: &K) -> &mut T {
        let at = self.at(key);
        Arc::make_mut(&mut self.parts[at])
    }

    fn at<K: Hash + ?Sized>(&self, key: &K) -> usize {
        (self.hasher.hash_one(key) % PARTS as u64) as usize
    }
}

#[cfg(test)]
mod tests;
