//! What is kept of a node and of a user, in memory and in the state file.

use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use sandd_control_client::keys::{DiscoPublicKey, MachinePublicKey, NodePublicKey};
use sandd_control_client::wire::{Hostinfo, Login, User as WireUser, UserProfile};
use serde::{Deserialize, Serialize};

use super::{KeyId, Slot};

/// Number of a node, unique for the life of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub i64);

impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UserId(pub i64);

/// The user that owns all tagged nodes, as Headscale numbers it.
pub(crate) const TAGGED_USER: UserId = UserId(2_147_455_555);

/// A user: an owner of nodes, a name in the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) id: UserId,
    pub(crate) name: String,
    pub(crate) created: SystemTime,
}

impl User {
    pub(crate) fn tagged_devices() -> Self {
        Self {
            id: TAGGED_USER,
            name: "tagged-devices".to_owned(),
            created: SystemTime::UNIX_EPOCH,
        }
    }

    fn display_name(&self) -> String {
        if self.id == TAGGED_USER {
            "Tagged Devices".to_owned()
        } else {
            self.name.clone()
        }
    }

    pub(crate) fn profile(&self) -> UserProfile {
        UserProfile {
            id: self.id.0,
            login_name: self.name.clone(),
            display_name: self.display_name(),
            profile_pic_url: String::new(),
        }
    }

    pub(crate) fn wire(&self) -> (WireUser, Login) {
        let user = WireUser {
            id: self.id.0,
            display_name: self.display_name(),
            profile_pic_url: String::new(),
            created: Some(self.created),
        };
        let login = Login {
            id: self.id.0,
            login_name: self.name.clone(),
            display_name: self.display_name(),
            ..Login::default()
        };
        (user, login)
    }
}

/// A node as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct NodeRecord {
    pub(crate) id: NodeId,
    pub(crate) machine: MachinePublicKey,
    pub(crate) key: NodePublicKey,
    /// None until the node's first map request.
    pub(crate) disco: Option<DiscoPublicKey>,
    pub(crate) user: UserId,
    pub(crate) tags: Vec<String>,
    /// What it wants to be called, as a label.
    pub(crate) label: String,
    /// What it is called: the label, made unique.
    pub(crate) name: String,
    pub(crate) slot: Slot,
    pub(crate) hostinfo: Hostinfo,
    pub(crate) endpoints: Vec<SocketAddr>,
    pub(crate) created: SystemTime,
    /// None = never.
    pub(crate) expiry: Option<SystemTime>,
    pub(crate) ephemeral: bool,
    pub(crate) last_seen: Option<SystemTime>,
    pub(crate) auth_key: Option<KeyId>,
    pub(crate) capability: i64,
}

impl NodeRecord {
    /// The region where it listens; 0 = not known yet.
    pub(crate) fn home_region(&self) -> i64 {
        self.hostinfo.net_info.as_ref().map_or(0, |info| info.preferred_derp)
    }

    /// Tagged nodes belong to nobody.
    pub(crate) fn is_tagged(&self) -> bool {
        !self.tags.is_empty()
    }
}

/// A node as the coordinator's operator sees it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct NodeStatus {
    /// Its number.
    pub id: NodeId,
    /// Its name in the mesh, one label.
    pub name: String,
    /// What it calls itself.
    pub hostname: String,
    /// Its owner.
    pub user: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its overlay addresses.
    pub addresses: Vec<IpAddr>,
    /// Its WireGuard key.
    pub node_key: NodePublicKey,
    /// Its device key.
    pub machine_key: MachinePublicKey,
    /// Underlay addresses where peers may reach it.
    pub endpoints: Vec<SocketAddr>,
    /// Its home relay region; 0 = not known yet.
    pub home_region: i64,
    /// Whether a map stream is open (or ended moments ago).
    pub online: bool,
    /// When the last stream ended.
    pub last_seen: Option<SystemTime>,
    /// When its key ends; none = never.
    pub expiry: Option<SystemTime>,
    /// Whether its key has ended.
    pub expired: bool,
    /// Whether it is forgotten when it stays away.
    pub ephemeral: bool,
    /// Since when it has been known.
    pub created: SystemTime,
}
