//! [`MapWriter`]: one stream's memory of what its node was told, and the next message for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use sandd_control_client::wire::{CapMap, DerpMap, DnsConfig, FilterRule, MapResponse, Node, PeerChange, UserProfile};

use super::World;
use crate::membership::NodeId;
use crate::policy::Compiled;

/// What there is to say.
#[derive(Debug, PartialEq)]
pub(crate) enum Told {
    /// Nothing that this node does not know.
    Nothing,
    /// This.
    Message(Box<MapResponse>),
    /// The node is no member any longer.
    Gone,
}

/// One stream's memory.
#[derive(Debug)]
pub(crate) struct MapWriter {
    id: NodeId,
    own: Option<Arc<Node>>,
    peers: BTreeMap<NodeId, Arc<Node>>,
    rules: Vec<FilterRule>,
    compiled: Option<Arc<Compiled>>,
    users: BTreeSet<i64>,
}

impl MapWriter {
    pub(crate) fn new(id: NodeId) -> Self {
        Self {
            id,
            own: None,
            peers: BTreeMap::new(),
            rules: Vec::new(),
            compiled: None,
            users: BTreeSet::new(),
        }
    }

    /// The first message: everything.
    pub(crate) fn full(
        &mut self,
        world: &World,
        derp_map: &DerpMap,
        dns: &DnsConfig,
        domain: &str,
        now: SystemTime,
    ) -> Told {
        *self = Self::new(self.id);
        let Some(own) = world.nodes.get(&self.id).map(|known| Arc::clone(&known.node)) else {
            return Told::Gone;
        };
        self.peers = world
            .peers_of(self.id)
            .map(|(id, node)| (id, Arc::clone(node)))
            .collect();
        self.rules = world.compiled.rules_for(self.id);
        self.compiled = Some(Arc::clone(&world.compiled));
        let peers: Vec<Node> = self.peers.values().map(|node| Node::clone(node)).collect();
        let owners = peers.iter().map(|node| node.user).chain([own.user]);
        let user_profiles = new_profiles(&mut self.users, owners, world);
        let message = MapResponse {
            node: Some(Box::new(own_node(&own))),
            derp_map: Some(derp_map.clone()),
            peers,
            dns_config: Some(dns.clone()),
            domain: domain.to_owned(),
            packet_filters: base_filter(&self.rules),
            user_profiles,
            control_time: Some(now),
            ..MapResponse::default()
        };
        self.own = Some(own);
        Told::Message(Box::new(message))
    }

    /// A later message: the difference.
    pub(crate) fn delta(&mut self, world: &World) -> Told {
        let Some(own) = world.nodes.get(&self.id).map(|known| &known.node) else {
            return Told::Gone;
        };
        let mut message = MapResponse::default();
        if !is_same(self.own.as_ref(), own) {
            self.own = Some(Arc::clone(own));
            message.node = Some(Box::new(own_node(own)));
        }
        if !self
            .compiled
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, &world.compiled))
        {
            self.compiled = Some(Arc::clone(&world.compiled));
            let rules = world.compiled.rules_for(self.id);
            if rules != self.rules {
                message.packet_filters = base_filter(&rules);
                self.rules = rules;
            }
        }
        self.peer_changes(world, &mut message);
        let owners = message.peers_changed.iter().map(|node| node.user);
        let owners = owners.chain(message.node.as_ref().map(|node| node.user));
        message.user_profiles = new_profiles(&mut self.users, owners, world);
        if message == MapResponse::default() {
            Told::Nothing
        } else {
            Told::Message(Box::new(message))
        }
    }

    fn peer_changes(&mut self, world: &World, message: &mut MapResponse) {
        let told = self.peers.len();
        let mut still_there = 0;
        for (id, node) in world.peers_of(self.id) {
            match self.peers.get(&id) {
                Some(told) if is_same(Some(told), node) => {
                    still_there += 1;
                    continue;
                }
                Some(told) => {
                    still_there += 1;
                    match patch(told, node) {
                        Some(change) => message.peers_changed_patch.push(change),
                        None => message.peers_changed.push(Node::clone(node)),
                    }
                }
                None => message.peers_changed.push(Node::clone(node)),
            }
            self.peers.insert(id, Arc::clone(node));
        }
        if still_there < told {
            let there: BTreeSet<NodeId> = world.peers_of(self.id).map(|(id, _)| id).collect();
            self.peers.retain(|id, _| {
                let stays = there.contains(id);
                if !stays {
                    message.peers_removed.push(id.0);
                }
                stays
            });
        }
    }
}

fn is_same(told: Option<&Arc<Node>>, node: &Arc<Node>) -> bool {
    told.is_some_and(|told| Arc::ptr_eq(told, node) || told == node)
}

/// A node as it sees itself.
fn own_node(node: &Node) -> Node {
    Node {
        // Peers' names also answer with their IPv6 addresses.
        cap_map: CapMap::from([("magicdns-aaaa".to_owned(), Vec::new())]),
        ..node.clone()
    }
}

fn base_filter(rules: &[FilterRule]) -> BTreeMap<String, Option<Vec<FilterRule>>> {
    BTreeMap::from([("base".to_owned(), Some(rules.to_vec()))])
}

fn new_profiles(told: &mut BTreeSet<i64>, owners: impl Iterator<Item = i64>, world: &World) -> Vec<UserProfile> {
    owners
        .filter(|owner| told.insert(*owner))
        .filter_map(|owner| world.users.get(&owner).cloned())
        .collect()
}

/// The difference as a patch, if a patch can say it. A new node key is told by the whole node, because a patch could not
/// say that an old expiry is over.
fn patch(old: &Node, new: &Node) -> Option<PeerChange> {
    let patched = Node {
        home_derp: if new.home_derp == 0 {
            old.home_derp
        } else {
            new.home_derp
        },
        endpoints: new.endpoints.clone(),
        disco_key: new.disco_key.or(old.disco_key),
        online: new.online.or(old.online),
        last_seen: new.last_seen,
        cap: if new.cap == 0 { old.cap } else { new.cap },
        ..old.clone()
    };
    if patched != *new {
        return None;
    }
    Some(PeerChange {
        node_id: new.id,
        derp_region: if new.home_derp == old.home_derp {
            0
        } else {
            new.home_derp
        },
        cap: if new.cap == old.cap { 0 } else { new.cap },
        endpoints: (new.endpoints != old.endpoints).then(|| new.endpoints.clone()),
        disco_key: new.disco_key.filter(|_| new.disco_key != old.disco_key),
        online: new.online.filter(|_| new.online != old.online),
        last_seen: new.last_seen.filter(|_| new.last_seen != old.last_seen),
        ..PeerChange::default()
    })
}
