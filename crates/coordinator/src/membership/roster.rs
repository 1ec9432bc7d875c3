//! [`Membership`]: the tables, who looks up what in them, and what time does to them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use sandd_control_client::keys::{MachinePublicKey, NodePublicKey};
use zeroize::Zeroizing;

use super::login::Login;
use super::plain::PlainPeers;
use super::record::User;
use super::{
    KeyError, KeyId, KeyOptions, KeyRecord, KeyStatus, NodeId, NodeRecord, NodeStatus, Slot, TAGGED_USER, UserId, key,
    name,
};

/// The two clocks: expiry is told in the wall's time, grace is measured in the other, which nobody sets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) wall: SystemTime,
    pub(crate) instant: Instant,
}

/// What does not change while a coordinator runs.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Before a login's name: `https://host/register/`.
    pub(crate) login_url: String,
    /// How long an ephemeral node may stay away.
    pub(crate) ephemeral_timeout: Duration,
    /// How long after its last stream a node still counts as online.
    pub(crate) offline_grace: Duration,
    /// How long a node key lives that nobody asked otherwise for.
    pub(crate) node_expiry: Option<Duration>,
}

/// A node with what is known of it only while we run.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) record: NodeRecord,
    /// Grows with each change that peers or the node itself can see.
    pub(crate) revision: u64,
    /// Online, or within the grace.
    pub(crate) online: bool,
    /// Whether its expiry has passed.
    pub(crate) expired: bool,
    pub(super) streams: u32,
    /// Since when no stream has been open; none = one is.
    pub(super) away_since: Option<Instant>,
}

/// Whatever a state file brings back.
#[derive(Debug, Default)]
pub(crate) struct Saved {
    pub(crate) users: Vec<User>,
    pub(crate) nodes: Vec<NodeRecord>,
    pub(crate) keys: Vec<KeyRecord>,
}

/// One thing to save.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Unsaved {
    User(User),
    Node(Box<NodeRecord>),
    NodeGone(NodeId),
    Key(KeyRecord),
}

/// Where random bytes come from.
pub(crate) type Random = Box<dyn FnMut(&mut [u8]) + Send>;

/// Everything about who belongs to the mesh.
pub(crate) struct Membership {
    pub(super) settings: Settings,
    pub(super) random: Random,
    pub(super) users: BTreeMap<UserId, User>,
    pub(super) nodes: BTreeMap<NodeId, Entry>,
    pub(super) by_key: BTreeMap<NodePublicKey, NodeId>,
    pub(super) keys: BTreeMap<KeyId, KeyRecord>,
    pub(super) logins: BTreeMap<String, Login>,
    pub(super) plain: PlainPeers,
    pub(super) last_slot: Slot,
    last_node: i64,
    revision: u64,
    structure: u64,
    unsaved_nodes: BTreeSet<NodeId>,
    unsaved_keys: BTreeSet<KeyId>,
    unsaved_users: BTreeSet<UserId>,
}

impl std::fmt::Debug for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Membership")
            .field("nodes", &self.nodes.len())
            .field("keys", &self.keys.len())
            .field("logins", &self.logins.len())
            .finish_non_exhaustive()
    }
}

impl Membership {
    pub(crate) fn new(settings: Settings, saved: Saved, random: Random, now: Now) -> Self {
        let mut membership = Self {
            settings,
            random,
            users: BTreeMap::from([(TAGGED_USER, User::tagged_devices())]),
            nodes: BTreeMap::new(),
            by_key: BTreeMap::new(),
            keys: saved.keys.into_iter().map(|key| (key.id, key)).collect(),
            logins: BTreeMap::new(),
            plain: PlainPeers::default(),
            last_slot: Slot(0),
            last_node: 0,
            revision: 1,
            structure: 1,
            unsaved_nodes: BTreeSet::new(),
            unsaved_keys: BTreeSet::new(),
            unsaved_users: BTreeSet::new(),
        };
        membership
            .users
            .extend(saved.users.into_iter().map(|user| (user.id, user)));
        for record in saved.nodes {
            membership.last_slot = membership.last_slot.max(record.slot);
            membership.last_node = membership.last_node.max(record.id.0);
            membership.insert(record, now);
        }
        membership.unsaved_nodes.clear();
        membership
    }

    pub(super) fn next_node_id(&mut self) -> NodeId {
        self.last_node = self.last_node.saturating_add(1);
        NodeId(self.last_node)
    }

    pub(super) fn insert(&mut self, record: NodeRecord, now: Now) {
        let id = record.id;
        self.by_key.insert(record.key, id);
        let expired = record.expiry.is_some_and(|expiry| expiry <= now.wall);
        let entry = Entry {
            record,
            revision: 0,
            online: false,
            expired,
            streams: 0,
            away_since: Some(now.instant),
        };
        self.nodes.insert(id, entry);
        // Nobody sees it before its first map request.
        self.unsaved_nodes.insert(id);
    }

    /// Marks a node as changed, for peers and for the state file.
    pub(super) fn touch(&mut self, id: NodeId) {
        self.revise(id);
        self.unsaved_nodes.insert(id);
    }

    /// Marks a change that peers or the node see, but that is not worth saving.
    pub(super) fn revise(&mut self, id: NodeId) {
        self.revision += 1;
        if let Some(entry) = self.nodes.get_mut(&id) {
            entry.revision = self.revision;
        }
    }

    /// Marks a change that may decide who sees whom: members, owners, tags, addresses.
    pub(super) fn touch_structure(&mut self, id: NodeId) {
        self.structure += 1;
        self.touch(id);
    }

    /// A change that may decide who sees whom and is of no registered node; returns its revision.
    pub(super) fn change_of_structure(&mut self) -> u64 {
        self.structure += 1;
        self.revision += 1;
        self.revision
    }

    pub(super) fn mark_key(&mut self, id: KeyId) {
        self.unsaved_keys.insert(id);
    }

    /// Grows with each change that anybody can see.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Grows with each change of members, owners, tags or addresses.
    pub(crate) fn structure(&self) -> u64 {
        self.structure
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Entry> {
        self.nodes.values()
    }

    pub(crate) fn users(&self) -> impl Iterator<Item = &User> {
        self.users.values()
    }

    pub(crate) fn user_name(&self, id: UserId) -> &str {
        self.users.get(&id).map_or("", |user| user.name.as_str())
    }

    pub(super) fn nodes_of(&self, machine: &MachinePublicKey) -> impl Iterator<Item = &Entry> {
        self.nodes
            .values()
            .filter(move |entry| entry.record.machine == *machine)
    }

    /// The user of that name, made when there is none.
    pub(super) fn user_named(&mut self, name: &str, now: SystemTime) -> Result<UserId, KeyError> {
        let name = name.strip_suffix('@').unwrap_or(name);
        key::check_user(name)?;
        if let Some(user) = self
            .users
            .values()
            .find(|user| user.name == name && user.id != TAGGED_USER)
        {
            return Ok(user.id);
        }
        let last = self.users.keys().filter(|id| **id != TAGGED_USER).max();
        let id = UserId(last.map_or(1, |id| id.0.saturating_add(1)));
        self.users.insert(
            id,
            User {
                id,
                name: name.to_owned(),
                created: now,
            },
        );
        self.unsaved_users.insert(id);
        Ok(id)
    }

    pub(super) fn unique_name(&self, label: &str, own: Option<NodeId>) -> String {
        name::unique(label, |candidate| {
            let is_node = |entry: &Entry| Some(entry.record.id) != own && entry.record.name == candidate;
            self.plain.has_name(candidate) || self.nodes.values().any(is_node)
        })
    }

    /// Takes what must be written to the state file.
    pub(crate) fn take_unsaved(&mut self) -> Vec<Unsaved> {
        let users = std::mem::take(&mut self.unsaved_users);
        let keys = std::mem::take(&mut self.unsaved_keys);
        let nodes = std::mem::take(&mut self.unsaved_nodes);
        let users = users.into_iter().filter_map(|id| self.users.get(&id).cloned());
        let keys = keys.into_iter().filter_map(|id| self.keys.get(&id).cloned());
        let nodes = nodes.into_iter().map(|id| match self.nodes.get(&id) {
            Some(entry) => Unsaved::Node(Box::new(entry.record.clone())),
            None => Unsaved::NodeGone(id),
        });
        users
            .map(Unsaved::User)
            .chain(keys.map(Unsaved::Key))
            .chain(nodes)
            .collect()
    }

    /// Makes a pre-auth key; its text exists only in the answer.
    pub(crate) fn create_key(&mut self, options: KeyOptions, now: Now) -> Result<Zeroizing<String>, KeyError> {
        options.tags.iter().try_for_each(|tag| key::check_tag(tag))?;
        let expiry = match options.expiry {
            Some(lifetime) => Some(now.wall.checked_add(lifetime).ok_or(KeyError::ExpiryTooFar)?),
            None => None,
        };
        let user = self.user_named(options.user.as_deref().unwrap_or("sandd"), now.wall)?;
        let (text, handle, secret_sha256) = KeyRecord::generate(&mut self.random);
        let id = KeyId(self.keys.keys().last().map_or(1, |id| id.0.saturating_add(1)));
        let record = KeyRecord {
            id,
            handle,
            secret_sha256,
            reusable: options.reusable,
            ephemeral: options.ephemeral,
            user,
            tags: options.tags,
            created: now.wall,
            expiry,
            used: false,
            revoked: false,
        };
        self.keys.insert(id, record);
        self.mark_key(id);
        Ok(text)
    }

    /// Makes a key useless; the nodes that joined with it stay.
    pub(crate) fn revoke_key(&mut self, id: KeyId) -> Result<(), KeyError> {
        self.keys.get_mut(&id).ok_or(KeyError::Unknown(id))?.revoked = true;
        self.mark_key(id);
        Ok(())
    }

    pub(crate) fn key_statuses(&self) -> Vec<KeyStatus> {
        let status = |key: &KeyRecord| KeyStatus {
            id: key.id,
            key: format!("hskey-auth-{}-***", key.handle),
            reusable: key.reusable,
            ephemeral: key.ephemeral,
            user: self.user_name(key.user).to_owned(),
            tags: key.tags.clone(),
            created: key.created,
            expiry: key.expiry,
            used: key.used,
            revoked: key.revoked,
        };
        self.keys.values().map(status).collect()
    }

    pub(crate) fn statuses(&self) -> Vec<NodeStatus> {
        let status = |entry: &Entry| {
            let record = &entry.record;
            NodeStatus {
                id: record.id,
                name: record.name.clone(),
                hostname: record.hostinfo.hostname.clone(),
                user: self.user_name(record.user).to_owned(),
                tags: record.tags.clone(),
                addresses: vec![record.slot.v4().into(), record.slot.v6().into()],
                node_key: record.key,
                machine_key: record.machine,
                endpoints: record.endpoints.clone(),
                home_region: record.home_region(),
                online: entry.online,
                last_seen: record.last_seen,
                expiry: record.expiry,
                expired: entry.expired,
                ephemeral: record.ephemeral,
                created: record.created,
            }
        };
        self.nodes.values().map(status).collect()
    }

    /// Whether a node key may use the relay: known here and not expired.
    pub(crate) fn admits_to_relay(&self, key: &NodePublicKey) -> bool {
        self.by_key
            .get(key)
            .and_then(|id| self.nodes.get(id))
            .is_some_and(|entry| !entry.expired)
    }

    /// Forgets a node; true when there was one.
    pub(crate) fn remove_node(&mut self, id: NodeId) -> bool {
        let Some(entry) = self.nodes.remove(&id) else {
            return false;
        };
        self.by_key.remove(&entry.record.key);
        self.touch_structure(id);
        true
    }

    /// Ends a node's key now; true when there was one.
    pub(crate) fn expire_node(&mut self, id: NodeId, now: Now) -> bool {
        let Some(entry) = self.nodes.get_mut(&id) else {
            return false;
        };
        entry.record.expiry = Some(now.wall);
        entry.expired = true;
        self.touch(id);
        true
    }
}
