//! Applies a network map to peers, routes, rules and names, touching only what its delta names.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use sandd_control_client::keys::DiscoPublicKey;
use sandd_control_client::netmap::{NetmapUpdate, NetworkMap, Node, NodeId};

use super::peer::Peer;
use super::{Engine, Output, new_tx};
use crate::event::MeshEvent;
use crate::magic_dns::NameTable;
use crate::path::agent::PathAgent;
use crate::path::mtu::{BASE, PathMtu};

/// When so many peers leave at once, their room in the tables is given back.
const MANY: usize = 256;

impl Engine {
    /// A new map and what is new in it.
    pub(crate) fn handle_netmap(&mut self, update: &NetmapUpdate, now: Instant) {
        let map = Arc::clone(&update.map);
        let before = std::mem::replace(&mut self.map, Arc::clone(&map));
        let delta = &update.delta;
        if delta.self_node {
            self.apply_self();
        }
        if delta.filter {
            self.filter.set_rules(Arc::clone(&map.filter));
        }
        for id in &delta.removed {
            self.remove_peer(*id);
        }
        // Addresses move between nodes: old routes go before new ones come.
        for id in &delta.upserted {
            self.remove_routes(*id);
            self.release_keys(*id, &map);
        }
        for id in &delta.upserted {
            if let Some(node) = map.peers.get(id) {
                self.upsert_peer(node, now);
            }
        }
        self.find_relay_servers(delta);
        self.apply_names(&before, update);
        if delta.removed.len() >= MANY {
            self.by_key.shrink_to_fit();
            self.by_disco.shrink_to_fit();
            self.routes.shrink_to_fit();
            self.outputs.shrink_to(MANY);
        }
    }

    fn apply_names(&mut self, before: &NetworkMap, update: &NetmapUpdate) {
        let NetmapUpdate { map, delta, .. } = update;
        if delta.full || delta.self_node || delta.dns {
            self.names = Arc::new(NameTable::new(map));
        } else if !delta.removed.is_empty() || !delta.upserted.is_empty() {
            let ids = delta.removed.iter().chain(&delta.upserted);
            let old = ids.filter_map(|id| before.peers.get(id));
            let new = delta.upserted.iter().filter_map(|id| map.peers.get(id));
            Arc::make_mut(&mut self.names).change(map, old, new);
        }
    }

    fn apply_self(&mut self) {
        let Some(node) = self.map.self_node.clone() else { return };
        self.own_ips = node.ips().collect();
        self.filter.set_local(&node.addresses);
    }

    fn upsert_peer(&mut self, node: &Arc<Node>, now: Instant) {
        let id = node.id;
        let is_new = !self.peers.contains_key(&id);
        let mtu = self.mtu;
        let peer = self
            .peers
            .entry(id)
            .or_insert_with(|| Box::new(Peer::new(Arc::clone(node), agent_for(node), PathMtu::new(mtu))));
        let old = &peer.node;
        if old.key != node.key || old.wireguard_only != node.wireguard_only || node.expired {
            // Another identity under the same number, or none any more: its session, path and packets go at once.
            if let Some(mut tunnel) = peer.tunnel.take() {
                tunnel.release(&mut self.indices);
            }
            peer.path = agent_for(node);
            peer.mtu = PathMtu::new(mtu);
            peer.ours = false;
            peer.features = None;
            peer.relayed = None;
        }
        if peer.node.addresses != node.addresses {
            // The new ones are told below.
            self.outputs.extend(peer.tell_mtu(BASE));
        }
        peer.node = Arc::clone(node);
        self.by_key.insert(node.key, id);
        let endpoints: &[SocketAddr] = if node.expired { &[] } else { &node.endpoints };
        peer.path.set_netmap_endpoints(endpoints, now);
        let restarted = self.set_disco_key(id, told_disco_key(node));
        self.add_routes(node);
        if is_new {
            let event = MeshEvent::PeerAdded {
                name: node.name.clone(),
                key: node.key,
            };
            self.outputs.push_back(Output::Event(event));
        }
        self.greet(id, is_new, restarted, now);
        self.tell_mtu(id);
        self.after_peer(id, now);
    }

    /// Keys that a peer has no more are free before another one takes them.
    fn release_keys(&mut self, id: NodeId, map: &NetworkMap) {
        let Some(peer) = self.peers.get(&id) else { return };
        let key = peer.node.key;
        let keeps = map.peers.get(&id).is_some_and(|node| node.key == key);
        if !keeps && self.by_key.get(&key) == Some(&id) {
            self.by_key.remove(&key);
        }
        // What the tunnel told stays; what the coordinator told goes when it says something else.
        let told = map.peers.get(&id).and_then(|node| told_disco_key(node));
        let known = peer.disco.as_ref().map(|disco| disco.key);
        if told != peer.node.disco_key && known != told {
            self.set_disco_key(id, None);
        }
    }

    /// A peer that knocked before we knew it, or that restarted under a session of ours, is called at once: waiting
    /// for its next handshake would cost seconds.
    fn greet(&mut self, id: NodeId, is_new: bool, restarted: bool, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let key = peer.node.key;
        if let Some(region) = self.knocks.take(&key, now) {
            peer.learned_region = Some(region);
            self.initiate(id, now);
            return;
        }
        if restarted && !is_new {
            peer.path.restart_discovery(now);
            if peer
                .tunnel
                .as_ref()
                .is_some_and(|tunnel| tunnel.has_session() || tunnel.handshaking())
            {
                self.initiate(id, now);
            }
        }
    }

    fn remove_peer(&mut self, id: NodeId) {
        self.remove_routes(id);
        self.forget_relayed(id);
        let Some(mut peer) = self.peers.remove(&id) else { return };
        // Its addresses may be another peer's next.
        self.outputs.extend(peer.tell_mtu(BASE));
        if let Some(tunnel) = &mut peer.tunnel {
            tunnel.release(&mut self.indices);
        }
        if let Some(disco) = &peer.disco {
            self.by_disco.remove(&disco.key);
        }
        if let Some(at) = peer.scheduled {
            self.deadlines.remove(&(at, id));
        }
        if let Some(at) = &peer.listed_at {
            self.by_path.remove(&(**at, id));
        }
        self.by_key.remove(&peer.node.key);
        let event = MeshEvent::PeerRemoved {
            name: peer.node.name.clone(),
            key: peer.node.key,
        };
        self.outputs.push_back(Output::Event(event));
    }

    fn add_routes(&mut self, node: &Node) {
        node.addresses.iter().for_each(|prefix| self.device_routes.add(*prefix));
        let own: BTreeSet<_> = self.own_ips.iter().copied().map(IpNet::from).collect();
        for prefix in usable_routes(node).filter(|prefix| !own.contains(prefix)) {
            self.routes.insert(prefix, node.id);
        }
    }

    fn remove_routes(&mut self, id: NodeId) {
        let Some(peer) = self.peers.get(&id) else { return };
        let addresses = peer.node.addresses.iter();
        addresses.for_each(|prefix| self.device_routes.remove(*prefix));
        for prefix in usable_routes(&peer.node) {
            if self.routes.get(prefix) == Some(id) {
                self.routes.remove(prefix);
            }
        }
    }
}

fn agent_for(node: &Node) -> PathAgent {
    if node.wireguard_only {
        PathAgent::plain(new_tx)
    } else {
        PathAgent::new(new_tx)
    }
}

/// A plain WireGuard peer has none, whatever the map says.
fn told_disco_key(node: &Node) -> Option<DiscoPublicKey> {
    node.disco_key.filter(|_| !node.expired && !node.wireguard_only)
}

/// What a peer carries for us: its own addresses. Subnet and exit routes are taken only when a user asks for them.
fn usable_routes(node: &Node) -> impl Iterator<Item = IpNet> + '_ {
    let expired = node.expired;
    node.addresses.iter().filter(move |_| !expired).map(IpNet::trunc)
}
