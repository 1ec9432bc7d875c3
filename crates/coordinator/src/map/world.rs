//! [`World`]: all that maps are made from, immutable, one per change and shared by all streams.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use sandd_control_client::wire::{Hostinfo, Node, UserProfile};

use crate::membership::{Entry, Membership, NodeId, PlainPeer};
use crate::policy::{Compiled, Policy, Subject};

/// A node as its peers see it.
#[derive(Debug, Clone)]
pub(super) struct Known {
    revision: u64,
    pub(super) node: Arc<Node>,
    /// It has sent a map request, so that peers can do something with it.
    pub(super) introduced: bool,
}

/// The members and what they may do, at one moment.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub(super) nodes: BTreeMap<NodeId, Known>,
    pub(super) users: BTreeMap<i64, UserProfile>,
    pub(super) compiled: Arc<Compiled>,
    compiled_from: (u64, u64),
    base_domain: String,
}

impl World {
    /// The world before anybody came.
    pub(crate) fn new(base_domain: &str) -> Self {
        Self {
            base_domain: base_domain.to_owned(),
            ..Self::default()
        }
    }

    /// The world now; whatever has not changed is shared with this one. `policy_revision` grows with each new policy.
    #[must_use]
    pub(crate) fn next(&self, membership: &Membership, policy: &Policy, policy_revision: u64) -> Self {
        let nodes = membership.nodes().map(|entry| {
            let id = entry.record.id;
            let unchanged = self.nodes.get(&id).filter(|known| known.revision == entry.revision);
            let known = unchanged.cloned().unwrap_or_else(|| self.view(entry));
            (id, known)
        });
        let plain = membership.plain().map(|(peer, revision)| {
            let unchanged = self.nodes.get(&peer.id).filter(|known| known.revision == revision);
            let known = unchanged.cloned().unwrap_or_else(|| self.view_plain(peer, revision));
            (peer.id, known)
        });
        let nodes = nodes.chain(plain).collect();
        let compiled_from = (membership.structure(), policy_revision);
        let compiled = if compiled_from == self.compiled_from {
            Arc::clone(&self.compiled)
        } else {
            let members = membership.nodes().map(|entry| subject(membership, entry));
            let plain = membership.plain().map(|(peer, _)| plain_subject(membership, peer));
            Arc::new(policy.compile(members.chain(plain)))
        };
        let users = membership.users().map(|user| (user.id.0, user.profile()));
        Self {
            nodes,
            users: users.collect(),
            compiled,
            compiled_from,
            base_domain: self.base_domain.clone(),
        }
    }

    fn view(&self, entry: &Entry) -> Known {
        let record = &entry.record;
        let addresses = record.slot.networks().to_vec();
        let node = Node {
            id: record.id.0,
            stable_id: record.id.to_string(),
            name: format!("{}.{}.", record.name, self.base_domain),
            user: record.user.0,
            key: Some(record.key),
            key_expiry: record.expiry,
            machine: Some(record.machine),
            disco_key: record.disco,
            allowed_ips: Some(addresses.clone()),
            addresses,
            endpoints: record.endpoints.clone(),
            home_derp: record.home_region(),
            hostinfo: Some(Hostinfo {
                net_info: None,
                ..record.hostinfo.clone()
            }),
            created: Some(record.created),
            cap: record.capability,
            tags: record.tags.clone(),
            last_seen: record.last_seen.filter(|_| !entry.online),
            online: Some(entry.online),
            machine_authorized: !entry.expired,
            expired: entry.expired,
            ..Node::default()
        };
        Known {
            revision: entry.revision,
            node: Arc::new(node),
            introduced: record.capability != 0,
        }
    }

    /// No disco key and no home: neither disco nor a relay reaches it.
    fn view_plain(&self, peer: &PlainPeer, revision: u64) -> Known {
        let addresses: Vec<IpNet> = peer.addresses.iter().copied().map(IpNet::from).collect();
        let node = Node {
            id: peer.id.0,
            stable_id: peer.id.to_string(),
            name: format!("{}.{}.", peer.name, self.base_domain),
            user: peer.user.0,
            key: Some(peer.key),
            allowed_ips: Some(addresses.clone()),
            addresses,
            endpoints: peer.endpoints.clone(),
            hostinfo: Some(Hostinfo {
                hostname: peer.name.clone(),
                ..Hostinfo::default()
            }),
            tags: peer.tags.clone(),
            // Nobody can tell; what asks before it sends would not send at all.
            online: Some(true),
            machine_authorized: true,
            is_wireguard_only: true,
            ..Node::default()
        };
        Known {
            revision,
            node: Arc::new(node),
            introduced: true,
        }
    }

    /// The peers that a node may see.
    pub(super) fn peers_of(&self, id: NodeId) -> impl Iterator<Item = (NodeId, &Arc<Node>)> {
        self.nodes
            .iter()
            .filter(move |(other, known)| **other != id && known.introduced && self.compiled.sees(id, **other))
            .map(|(other, known)| (*other, &known.node))
    }
}

fn subject(membership: &Membership, entry: &Entry) -> Subject {
    let record = &entry.record;
    Subject {
        id: record.id,
        user: membership.user_name(record.user).to_owned(),
        tags: record.tags.clone(),
        addresses: vec![IpAddr::V4(record.slot.v4()), IpAddr::V6(record.slot.v6())],
    }
}

fn plain_subject(membership: &Membership, peer: &PlainPeer) -> Subject {
    Subject {
        id: peer.id,
        user: membership.user_name(peer.user).to_owned(),
        tags: peer.tags.clone(),
        addresses: peer.addresses.clone(),
    }
}
