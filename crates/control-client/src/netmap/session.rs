//! [`MapSession`]: applies the messages of one map stream, first the whole map, then deltas.
//!
//! Pure: a message and the time in, a [`NetmapDelta`] out. A new stream begins with [`MapSession::begin_stream`]; the map
//! of the old one stays in force until the first message replaces it, so that the data plane does not flap, and what the
//! new stream need not repeat (the relays) is kept. Flags in the delta mean real change: coordinators repeat themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use super::clock::ControlClock;
use super::network_map::{FilterRule, NetworkMap, Node, NodeId, UserId};
use super::{MapNode, NetmapDelta, PeerMap, convert, rule};
use crate::wire::{self, MapResponse, PeerChange};

/// Why a message cannot be used; the stream must be started again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// A stream must begin with a map that has this node in it.
    #[error("first message of the stream has no usable self node")]
    NoSelfNode,
    /// Peers were withheld while tailnet lock was on; only a new stream brings them.
    #[error("tailnet lock was switched off, a full map is needed")]
    LockSwitchedOff,
}

/// The state of one map stream.
#[derive(Debug, Default)]
pub struct MapSession {
    map: Arc<NetworkMap>,
    started: bool,
    rule_sets: BTreeMap<String, Vec<FilterRule>>,
    dns: Option<wire::DnsConfig>,
    health: Vec<String>,
    messages: BTreeMap<String, wire::DisplayMessage>,
    clock: ControlClock,
    /// When the keys of peers end.
    expiries: BTreeSet<(SystemTime, NodeId)>,
}

impl MapSession {
    /// A session without a map.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The map as of the last message.
    #[must_use]
    pub fn map(&self) -> Arc<NetworkMap> {
        self.map.clone()
    }

    /// The next message is the first of a new stream and replaces everything.
    pub fn begin_stream(&mut self) {
        self.started = false;
    }

    /// Applies one message.
    ///
    /// # Errors
    /// [`SessionError`] when the stream must be started again; the map is unchanged then.
    pub fn apply<N: Into<MapNode>>(
        &mut self,
        message: MapResponse<N>,
        now: SystemTime,
    ) -> Result<NetmapDelta, SessionError> {
        if let Some(control) = message.control_time {
            self.clock.learn(control, now);
        }
        if message.keep_alive {
            return Ok(NetmapDelta::default());
        }
        let first = !self.started;
        let self_node = message.node.and_then(|node| convert::node(*node));
        if first && self_node.is_none() {
            return Err(SessionError::NoSelfNode);
        }
        let was_locked = !first && self.map.lock_enabled;
        let lock_enabled = message.tka_info.as_ref().map_or(was_locked, is_lock_on);
        if was_locked && !lock_enabled {
            return Err(SessionError::LockSwitchedOff);
        }
        if first {
            self.started = true;
            self.rule_sets.clear();
            self.health.clear();
            self.messages.clear();
        }

        let before = self.map.clone();
        let mut map = NetworkMap::clone(&before);
        map.lock_enabled = lock_enabled;
        let full = first || !message.peers.is_empty();
        let mut touched = BTreeSet::new();
        if full {
            map.peers = message
                .peers
                .into_iter()
                .filter_map(|node| node.into().into_node())
                .map(|node| known_or_new(&before, node))
                .collect();
        } else {
            for id in message.peers_removed {
                if map.peers.remove(&NodeId(id)).is_some() {
                    touched.insert(NodeId(id));
                }
            }
        }
        // Beside `Peers` the partial fields do not count; beside a first message without peers they do.
        if !full || map.peers.is_empty() {
            for node in message.peers_changed {
                let Some(node) = node.into().into_node() else { continue };
                touched.insert(node.id);
                map.peers.insert(known_or_new(&before, node));
            }
            let changes = PeerPatches {
                seen: message.peer_seen_change,
                online: message.online_change,
                patches: message.peers_changed_patch,
            };
            changes.apply(&mut map.peers, &mut touched, self.clock.adjust(now));
        }
        if let Some(node) = self_node {
            map.self_node = Some(Arc::new(node));
        }
        add_users(&mut map, message.user_profiles);
        apply_relays(&mut map, message.derp_map);
        self.apply_rules(&mut map, first, message.packet_filter, message.packet_filters);
        self.apply_dns(&mut map, first, message.dns_config);
        if !message.domain.is_empty() {
            map.domain = convert::clean(&message.domain);
        }
        self.apply_health(&mut map, message.health, message.display_messages);
        if lock_enabled {
            touched.extend(map.peers.keys());
            map.peers = PeerMap::new();
        }
        if full || lock_enabled {
            touched.extend(before.peers.keys().chain(map.peers.keys()));
        }
        self.note_expiries(&before, &map, &touched);
        self.expire_in(&mut map, &mut touched, self.clock.adjust(now));
        let delta = difference(&before, &map, full, touched);
        if !delta.is_empty() {
            self.map = Arc::new(map);
        }
        Ok(delta)
    }

    /// When the next key in the map ends, on our clock.
    #[must_use]
    pub fn next_expiry(&self) -> Option<SystemTime> {
        let own = self.map.self_node.as_ref().filter(|node| !node.expired);
        let own = own.and_then(|node| node.key_expiry);
        let peers = self.expiries.first().map(|(at, _)| *at);
        let next = [own, peers].into_iter().flatten().min()?;
        Some(self.clock.local(next))
    }

    /// Marks the keys that have ended by now.
    pub fn expire(&mut self, now: SystemTime) -> NetmapDelta {
        let before = self.map.clone();
        let mut map = NetworkMap::clone(&before);
        let mut touched = BTreeSet::new();
        self.expire_in(&mut map, &mut touched, self.clock.adjust(now));
        let delta = difference(&before, &map, false, touched);
        if !delta.is_empty() {
            self.map = Arc::new(map);
        }
        delta
    }

    /// Follows what the touched peers' keys' ends were and are.
    fn note_expiries(&mut self, before: &NetworkMap, after: &NetworkMap, touched: &BTreeSet<NodeId>) {
        let end = |map: &NetworkMap, id: &NodeId| {
            let node = map.peers.get(id).filter(|node| !node.expired);
            node.and_then(|node| node.key_expiry)
        };
        for id in touched {
            if let Some(old) = end(before, id) {
                self.expiries.remove(&(old, *id));
            }
            if let Some(new) = end(after, id) {
                self.expiries.insert((new, *id));
            }
        }
    }

    /// Marks nodes whose key has ended.
    fn expire_in(&mut self, map: &mut NetworkMap, touched: &mut BTreeSet<NodeId>, now: SystemTime) {
        let ended = |node: &Node| !node.expired && node.key_expiry.is_some_and(|end| end <= now);
        for node in map.self_node.iter_mut().filter(|node| ended(node)) {
            Arc::make_mut(node).expired = true;
        }
        while let Some((end, id)) = self.expiries.first().copied().filter(|(end, _)| *end <= now) {
            self.expiries.remove(&(end, id));
            if map.peers.change(id, |node| node.expired = true) {
                touched.insert(id);
            }
        }
    }

    fn apply_rules(
        &mut self,
        map: &mut NetworkMap,
        first: bool,
        base: Option<Vec<wire::FilterRule>>,
        mut sets: BTreeMap<String, Option<Vec<wire::FilterRule>>>,
    ) {
        if base.is_none() && sets.is_empty() && !first {
            return;
        }
        if let Some(base) = base {
            self.rule_sets.insert("base".to_owned(), rule::rules(&base));
        }
        if matches!(sets.remove("*"), Some(None)) {
            self.rule_sets.clear();
        }
        for (name, set) in sets {
            match set {
                Some(set) => {
                    self.rule_sets.insert(name, rule::rules(&set));
                }
                None => {
                    self.rule_sets.remove(&name);
                }
            }
        }
        let all: Vec<FilterRule> = self.rule_sets.values().flatten().cloned().collect();
        if all != *map.filter {
            map.filter = Arc::new(all);
        }
    }

    fn apply_dns(&mut self, map: &mut NetworkMap, first: bool, dns: Option<wire::DnsConfig>) {
        if dns.is_some() {
            if dns == self.dns {
                return;
            }
        } else if !first {
            return;
        }
        map.dns = Arc::new(dns.as_ref().map(convert::dns_config).unwrap_or_default());
        self.dns = dns;
    }

    fn apply_health(
        &mut self,
        map: &mut NetworkMap,
        health: Option<Vec<String>>,
        mut messages: BTreeMap<String, Option<wire::DisplayMessage>>,
    ) {
        if let Some(health) = health {
            self.health = health;
        }
        if matches!(messages.remove("*"), Some(None)) {
            self.messages.clear();
        }
        for (id, message) in messages {
            match message {
                Some(message) => {
                    self.messages.insert(id, message);
                }
                None => {
                    self.messages.remove(&id);
                }
            }
        }
        map.health = convert::problems(&self.health, &self.messages);
    }
}

/// A coordinator tells all peers again with each stream: what did not change is not kept twice by those who look at it.
fn known_or_new(before: &NetworkMap, node: Arc<Node>) -> Arc<Node> {
    let known = before.peers.get(&node.id).filter(|known| **known == node);
    known.map_or(node, Arc::clone)
}

/// Users are added and replaced, never removed.
fn add_users(map: &mut NetworkMap, profiles: Vec<wire::UserProfile>) {
    for profile in profiles {
        let id = UserId(profile.id);
        let user = convert::user(profile);
        if map.users.get(&id).is_none_or(|known| **known != user) {
            Arc::make_mut(&mut map.users).insert(id, Arc::new(user));
        }
    }
}

fn apply_relays(map: &mut NetworkMap, wire: Option<wire::DerpMap>) {
    let Some(wire) = wire else { return };
    let derp_map = convert::derp_map(&map.derp_map, wire);
    if derp_map != *map.derp_map {
        map.derp_map = Arc::new(derp_map);
    }
}

fn is_lock_on(info: &serde_json::Value) -> bool {
    let head = info.get("Head").and_then(serde_json::Value::as_str).unwrap_or_default();
    let disabled = info
        .get("Disabled")
        .and_then(serde_json::Value::as_bool)
        .unwrap_or(false);
    !head.is_empty() && !disabled
}

/// The parts of a message that change peers in part.
struct PeerPatches {
    seen: BTreeMap<i64, bool>,
    online: BTreeMap<i64, bool>,
    patches: Vec<PeerChange>,
}

impl PeerPatches {
    /// Nodes that are not there are passed over.
    fn apply(self, peers: &mut PeerMap, touched: &mut BTreeSet<NodeId>, now: SystemTime) {
        let mut with = |id: i64, change: &mut dyn FnMut(&mut Node)| {
            if peers.change(NodeId(id), change) {
                touched.insert(NodeId(id));
            }
        };
        for (id, seen) in self.seen {
            with(id, &mut |node| node.last_seen = seen.then_some(now));
        }
        for (id, online) in self.online {
            with(id, &mut |node| node.online = Some(online));
        }
        for mut patch in self.patches {
            with(patch.node_id, &mut |node| apply_patch(node, &mut patch, now));
        }
    }
}

fn apply_patch(node: &mut Node, patch: &mut PeerChange, now: SystemTime) {
    if let Some(region) = convert::region_id(patch.derp_region) {
        node.home_derp = Some(region);
    }
    if let Some(cap_map) = patch.cap_map.take() {
        node.cap_map = cap_map;
    }
    if let Some(endpoints) = patch.endpoints.take() {
        node.endpoints = convert::endpoints(endpoints);
    }
    if let Some(key) = patch.key.and_then(crate::keys::NodePublicKey::non_zero) {
        // Headscale does not say that the new key has another end, or none: without word of it the old end is void.
        node.key = key;
        node.expired = false;
        node.key_expiry = None;
    }
    if let Some(disco_key) = patch.disco_key.and_then(crate::keys::DiscoPublicKey::non_zero) {
        node.disco_key = Some(disco_key);
    }
    if let Some(online) = patch.online {
        node.online = Some(online);
    }
    if patch.last_seen.is_some() {
        node.last_seen = convert::real_time(patch.last_seen);
    }
    if patch.key_expiry.is_some() {
        node.key_expiry = convert::real_time(patch.key_expiry);
        node.expired = node.key_expiry.is_some_and(|end| end <= now);
    }
}

/// What differs between two maps, looking only at the `touched` peers.
fn difference(before: &NetworkMap, after: &NetworkMap, full: bool, touched: BTreeSet<NodeId>) -> NetmapDelta {
    let mut delta = NetmapDelta {
        full,
        self_node: before.self_node != after.self_node,
        derp_map: differ(&before.derp_map, &after.derp_map),
        filter: differ(&before.filter, &after.filter),
        dns: differ(&before.dns, &after.dns),
        other: differ(&before.users, &after.users)
            || before.domain != after.domain
            || before.health != after.health
            || before.lock_enabled != after.lock_enabled,
        ..NetmapDelta::default()
    };
    for id in touched {
        match (before.peers.get(&id), after.peers.get(&id)) {
            (Some(_), None) => delta.removed.push(id),
            (old, Some(new)) if old.is_none_or(|old| differ(old, new)) => delta.upserted.push(id),
            _ => {}
        }
    }
    delta
}

/// What is shared is the same without a look.
fn differ<T: PartialEq>(before: &Arc<T>, after: &Arc<T>) -> bool {
    !Arc::ptr_eq(before, after) && before != after
}

#[cfg(test)]
mod tests;
