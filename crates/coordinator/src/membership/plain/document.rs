//! [`WireGuardPeers`]: the file that names plain WireGuard peers, in HuJSON (JSON with comments and trailing commas),
//! read and checked. docs/coordinator.md describes it.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use sandd_control_client::keys::NodePublicKey;
use serde::Deserialize;

use super::super::{NodeId, RANGE_V4, RANGE_V6, check_tag, name};

/// Longest document that is read.
const MAX_LENGTH: usize = 8 << 20;
/// More peers than this are no small mesh.
const MAX_PEERS: usize = 16_384;
/// As many as a node would try.
const MAX_ENDPOINTS: usize = 8;
const MAX_ADDRESSES: usize = 16;

/// Why a file of plain WireGuard peers is not usable. Each text names the peer and says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireGuardPeersError {
    /// No HuJSON, or with fields that are not known.
    #[error("cannot read it as `{{ \"peers\": [ {{ \"name\", \"publicKey\", \"addresses\", .. }} ] }}`: {0}")]
    Syntax(String),
    /// Longer than 8 MiB or more than 16,384 peers.
    #[error("it is longer than 8 MiB or has more than 16384 peers: split the mesh")]
    TooLong,
    /// A name that is no DNS label.
    #[error("`{0}` is no name for a peer: use one label of lower-case letters, digits and hyphens, at most 63")]
    Name(String),
    /// A key that is none.
    #[error("peer `{0}`: publicKey must be the 44 characters that `wg pubkey` prints, or `nodekey:` and 64 hex digits")]
    Key(String),
    /// A field for a preshared key.
    #[error(
        "peer `{0}` has a preshared key: the network map has no field for one, so nodes cannot be told; leave it out here \
         and in the peer's own configuration"
    )]
    PresharedKey(String),
    /// A field for a keepalive.
    #[error(
        "peer `{0}` has a keepalive: the network map has no field for one; if the peer is behind a NAT, set \
         PersistentKeepalive in the peer's own configuration"
    )]
    Keepalive(String),
    /// No address, too many, or one outside the mesh.
    #[error(
        "peer `{peer}`: {reason}; give 1 to 16 single addresses within 100.64.0.0/10 and fd7a:115c:a1e0::/48, such as \
         \"100.64.200.1\""
    )]
    Address {
        /// The peer.
        peer: String,
        /// What is wrong.
        reason: String,
    },
    /// An endpoint that nobody could send to.
    #[error(
        "peer `{peer}`: `{endpoint}` is no endpoint: write IP:PORT, such as \"198.51.100.7:51820\", at most 8 of them"
    )]
    Endpoint {
        /// The peer.
        peer: String,
        /// The text.
        endpoint: String,
    },
    /// A user or tag that cannot be.
    #[error("peer `{peer}`: {reason}")]
    Owner {
        /// The peer.
        peer: String,
        /// What is wrong.
        reason: String,
    },
    /// Two peers of the file share something.
    #[error("two peers have the {what} {value}: each needs its own")]
    Twice {
        /// Name, key or address.
        what: &'static str,
        /// Which.
        value: String,
    },
    /// A node has this name.
    #[error("peer `{peer}`: node {node} has this name already: choose another, or remove the node")]
    NameTaken {
        /// The peer.
        peer: String,
        /// The node.
        node: NodeId,
    },
    /// A node has this key.
    #[error(
        "peer `{peer}`: node {node} has this key already: a peer with SandD or Tailscale joins by itself, leave it out"
    )]
    KeyTaken {
        /// The peer.
        peer: String,
        /// The node.
        node: NodeId,
    },
    /// A node has this address.
    #[error(
        "peer `{peer}`: {address} belongs to the node `{holder}`: choose another address, far from the beginning of the range"
    )]
    AddressTaken {
        /// The peer.
        peer: String,
        /// The address.
        address: IpAddr,
        /// The node's name.
        holder: String,
    },
    /// The owners it names could not be saved.
    #[error("cannot save the owners of the peers")]
    Store(#[from] crate::error::StoreError),
}

/// One peer, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) name: String,
    pub(super) key: NodePublicKey,
    pub(super) endpoints: Vec<SocketAddr>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) user: Option<String>,
    pub(super) tags: Vec<String>,
}

/// Plain WireGuard peers of a mesh, as a file names them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WireGuardPeers(Vec<Spec>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    peers: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Entry {
    name: String,
    public_key: String,
    #[serde(default)]
    endpoints: Vec<String>,
    addresses: Vec<String>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    // Looked for only to say why there is no such thing.
    #[serde(default)]
    preshared_key: Option<serde::de::IgnoredAny>,
    #[serde(default, alias = "keepAlive", alias = "keepalive")]
    persistent_keepalive: Option<serde::de::IgnoredAny>,
}

impl WireGuardPeers {
    /// Reads a file's text.
    ///
    /// # Errors
    /// [`WireGuardPeersError`] for anything that is not understood, out of range, or there twice.
    pub fn parse(text: &str) -> Result<Self, WireGuardPeersError> {
        if text.len() > MAX_LENGTH {
            return Err(WireGuardPeersError::TooLong);
        }
        let document: Document =
            json5::from_str(text).map_err(|error| WireGuardPeersError::Syntax(error.to_string()))?;
        if document.peers.len() > MAX_PEERS {
            return Err(WireGuardPeersError::TooLong);
        }
        let peers: Result<Vec<Spec>, _> = document.peers.into_iter().map(Entry::check).collect();
        let peers = peers?;
        let mut seen = BTreeSet::new();
        for peer in &peers {
            let names = [("name", peer.name.clone()), ("publicKey", peer.key.to_string())];
            let addresses = peer.addresses.iter().map(|ip| ("address", ip.to_string()));
            for (what, value) in names.into_iter().chain(addresses) {
                if !seen.insert((what, value.clone())) {
                    return Err(WireGuardPeersError::Twice { what, value });
                }
            }
        }
        Ok(Self(peers))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn peers(&self) -> &[Spec] {
        &self.0
    }
}

impl Entry {
    fn check(self) -> Result<Spec, WireGuardPeersError> {
        let peer = self.name;
        if name::label(&peer) != peer {
            return Err(WireGuardPeersError::Name(peer.escape_debug().to_string()));
        }
        if self.preshared_key.is_some() {
            return Err(WireGuardPeersError::PresharedKey(peer));
        }
        if self.persistent_keepalive.is_some() {
            return Err(WireGuardPeersError::Keepalive(peer));
        }
        let Some(key) = public_key(&self.public_key) else {
            return Err(WireGuardPeersError::Key(peer));
        };
        let owner = |reason: String| WireGuardPeersError::Owner {
            peer: peer.clone(),
            reason,
        };
        if self.user.is_some() && !self.tags.is_empty() {
            return Err(owner(
                "it has a user and tags: tagged peers belong to nobody, leave one out".to_owned(),
            ));
        }
        for tag in &self.tags {
            check_tag(tag).map_err(|error| owner(error.to_string()))?;
        }
        Ok(Spec {
            endpoints: endpoints(&peer, &self.endpoints)?,
            addresses: addresses(&peer, &self.addresses)?,
            name: peer,
            key,
            user: self.user,
            tags: self.tags,
        })
    }
}

fn public_key(text: &str) -> Option<NodePublicKey> {
    let key = match text.parse() {
        Ok(key) => key,
        Err(_) => NodePublicKey::from_bytes(STANDARD.decode(text).ok()?.try_into().ok()?),
    };
    key.non_zero()
}

fn endpoints(peer: &str, texts: &[String]) -> Result<Vec<SocketAddr>, WireGuardPeersError> {
    let bad = |text: &str| WireGuardPeersError::Endpoint {
        peer: peer.to_owned(),
        endpoint: text.escape_debug().to_string(),
    };
    if let Some(text) = texts.get(MAX_ENDPOINTS) {
        return Err(bad(text));
    }
    let endpoint = |text: &String| {
        let parsed = text.parse::<SocketAddr>().ok();
        let usable = parsed.filter(|at| at.port() != 0 && !at.ip().is_unspecified() && !at.ip().is_multicast());
        usable.ok_or_else(|| bad(text))
    };
    texts.iter().map(endpoint).collect()
}

fn addresses(peer: &str, texts: &[String]) -> Result<Vec<IpAddr>, WireGuardPeersError> {
    let bad = |reason: String| WireGuardPeersError::Address {
        peer: peer.to_owned(),
        reason,
    };
    if texts.is_empty() || texts.len() > MAX_ADDRESSES {
        return Err(bad(format!("it has {} addresses", texts.len())));
    }
    let address = |text: &String| {
        let whole = text
            .parse::<IpNet>()
            .ok()
            .filter(|net| net.prefix_len() == net.max_prefix_len());
        let ip = text.parse::<IpAddr>().ok().or(whole.map(|net| net.addr()));
        let ip = ip.ok_or_else(|| bad(format!("`{}` is no single address", text.escape_debug())))?;
        let inside = match ip {
            IpAddr::V4(ip) => RANGE_V4.contains(&ip),
            IpAddr::V6(ip) => RANGE_V6.contains(&ip),
        };
        if inside {
            Ok(ip)
        } else {
            Err(bad(format!("{ip} lies outside the mesh")))
        }
    };
    texts.iter().map(address).collect()
}
