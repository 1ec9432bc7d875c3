//! Plain WireGuard peers: what speaks WireGuard and nothing else (a router, a phone with the stock app), named in a file.
//!
//! They never register, hold no stream and use no relay. Nodes are told of them as `IsWireGuardOnly`: without disco key
//! and home region, with the endpoints of the file. Names, addresses and keys are theirs alone, also towards nodes that
//! join later. Nothing of them is in the state file: the file that names them is the truth.

mod document;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use sandd_control_client::keys::NodePublicKey;
use sha2::{Digest as _, Sha256};

use super::{Membership, NodeId, Now, Slot, TAGGED_USER, UserId};
pub use document::{WireGuardPeers, WireGuardPeersError};

/// Numbers of plain peers begin here: no node that registers gets so far.
const FIRST_ID: i64 = 1 << 40;

/// A plain peer as nodes see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlainPeer {
    pub(crate) id: NodeId,
    pub(crate) name: String,
    pub(crate) key: NodePublicKey,
    pub(crate) endpoints: Vec<SocketAddr>,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) user: UserId,
    pub(crate) tags: Vec<String>,
}

/// The plain peers in force, with what must not be given to anybody else.
#[derive(Debug, Default)]
pub(super) struct PlainPeers {
    pub(super) peers: BTreeMap<NodeId, (PlainPeer, u64)>,
    names: BTreeSet<String>,
    keys: BTreeSet<NodePublicKey>,
    addresses: BTreeSet<IpAddr>,
}

impl PlainPeers {
    pub(super) fn has_name(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    pub(super) fn has_key(&self, key: &NodePublicKey) -> bool {
        self.keys.contains(key)
    }

    pub(super) fn has_slot(&self, slot: Slot) -> bool {
        self.addresses.contains(&slot.v4().into()) || self.addresses.contains(&slot.v6().into())
    }
}

impl Membership {
    /// The plain peers, each with the revision of its last change.
    pub(crate) fn plain(&self) -> impl Iterator<Item = (&PlainPeer, u64)> {
        self.plain.peers.values().map(|(peer, revision)| (peer, *revision))
    }

    /// Puts the peers of a document in the place of those before; on an error the peers stay as they were.
    pub(crate) fn set_plain(&mut self, document: &WireGuardPeers, now: Now) -> Result<(), WireGuardPeersError> {
        self.check_free(document)?;
        let mut next = PlainPeers::default();
        for spec in document.peers() {
            let user = if spec.tags.is_empty() {
                let name = spec.user.as_deref().unwrap_or("sandd");
                self.user_named(name, now.wall)
                    .map_err(|error| WireGuardPeersError::Owner {
                        peer: spec.name.clone(),
                        reason: error.to_string(),
                    })?
            } else {
                TAGGED_USER
            };
            let peer = PlainPeer {
                id: free_id(&spec.key, &next.peers),
                name: spec.name.clone(),
                key: spec.key,
                endpoints: spec.endpoints.clone(),
                addresses: spec.addresses.clone(),
                user,
                tags: spec.tags.clone(),
            };
            next.names.insert(peer.name.clone());
            next.keys.insert(peer.key);
            next.addresses.extend(&peer.addresses);
            next.peers.insert(peer.id, (peer, 0));
        }
        let same = |(id, (peer, _)): (&NodeId, &(PlainPeer, u64))| {
            self.plain.peers.get(id).is_some_and(|(known, _)| known == peer)
        };
        if next.peers.len() == self.plain.peers.len() && next.peers.iter().all(same) {
            return Ok(());
        }
        let revision = self.change_of_structure();
        for (id, (peer, of)) in &mut next.peers {
            let known = self.plain.peers.get(id).filter(|(known, _)| known == peer);
            *of = known.map_or(revision, |(_, before)| *before);
        }
        self.plain = next;
        Ok(())
    }

    /// What a registered node has already cannot be a plain peer's.
    fn check_free(&self, document: &WireGuardPeers) -> Result<(), WireGuardPeersError> {
        let mut names = BTreeMap::new();
        let mut addresses = BTreeMap::new();
        for entry in self.nodes.values() {
            let record = &entry.record;
            names.insert(record.name.as_str(), record.id);
            addresses.insert(IpAddr::V4(record.slot.v4()), record.name.as_str());
            addresses.insert(IpAddr::V6(record.slot.v6()), record.name.as_str());
        }
        for spec in document.peers() {
            if let Some(id) = names.get(spec.name.as_str()) {
                return Err(WireGuardPeersError::NameTaken {
                    peer: spec.name.clone(),
                    node: *id,
                });
            }
            if let Some(id) = self.by_key.get(&spec.key) {
                return Err(WireGuardPeersError::KeyTaken {
                    peer: spec.name.clone(),
                    node: *id,
                });
            }
            let taken = spec.addresses.iter().find_map(|ip| Some((*ip, addresses.get(ip)?)));
            if let Some((address, holder)) = taken {
                return Err(WireGuardPeersError::AddressTaken {
                    peer: spec.name.clone(),
                    address,
                    holder: (*holder).to_owned(),
                });
            }
        }
        Ok(())
    }
}

/// A number that follows from the key, so that it outlives restarts and other orders of the file.
fn free_id(key: &NodePublicKey, taken: &BTreeMap<NodeId, (PlainPeer, u64)>) -> NodeId {
    let hash: [u8; 32] = Sha256::digest(key.as_bytes()).into();
    let [a, b, c, d, ..] = hash;
    let mut id = FIRST_ID + i64::from(u32::from_be_bytes([a, b, c, d]));
    while taken.contains_key(&NodeId(id)) {
        id += 1;
    }
    NodeId(id)
}
