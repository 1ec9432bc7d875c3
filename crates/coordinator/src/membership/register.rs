//! `POST /machine/register`: joining, refreshing, rotating and leaving.
//!
//! The table of cases, in the order of the code: logout; refresh of a known key; follow-up of a login; pre-auth key;
//! new login. A refusal is an answer with `Error`, and its text is Headscale's wherever Headscale has one.

use sandd_control_client::keys::{MachinePublicKey, NodePublicKey};
use sandd_control_client::wire::{RegisterRequest, RegisterResponse};

use super::key;
use super::{Entry, KeyId, MAX_KEY_LENGTH, Membership, NodeId, NodeRecord, Now, TAGGED_USER, UserId, name};

/// What becomes of a registration.
#[derive(Debug, PartialEq)]
pub(crate) enum Registration {
    /// Answer this.
    Answer(Box<RegisterResponse>),
    /// Ask again when a login has been decided; this one waits.
    Wait,
}

impl Registration {
    pub(super) fn refuse(text: impl Into<String>) -> Self {
        Self::answer(RegisterResponse {
            error: text.into(),
            ..RegisterResponse::default()
        })
    }

    pub(super) fn answer(response: RegisterResponse) -> Self {
        Self::Answer(Box::new(response))
    }
}

/// Who will own a node, and how it came.
pub(super) struct Owner {
    pub(super) user: UserId,
    pub(super) tags: Vec<String>,
    pub(super) ephemeral: bool,
    pub(super) auth_key: Option<KeyId>,
}

impl Membership {
    /// Answers a registration.
    pub(crate) fn register(&mut self, machine: &MachinePublicKey, request: &RegisterRequest, now: Now) -> Registration {
        let Some(node_key) = request.node_key.and_then(NodePublicKey::non_zero) else {
            return Registration::refuse("node key is missing");
        };
        let auth_key = request.auth.as_ref().map(|auth| auth.auth_key.as_str());
        let auth_key = auth_key.filter(|text| !text.is_empty());
        let known = self.by_key.get(&node_key).copied();
        if let Some(id) = known
            && let Some(answer) = self.refresh_or_logout(id, machine, request, auth_key.is_none(), now)
        {
            return answer;
        }
        if known.is_none() && is_logout(request, now) {
            // Headscale would go on and register the node; who wants to leave is answered as one who has left.
            return Registration::answer(RegisterResponse {
                node_key_expired: true,
                ..RegisterResponse::default()
            });
        }
        if !request.followup.is_empty() {
            return self.follow_up(machine, request, now);
        }
        match auth_key {
            Some(text) => match self.register_with_key(machine, node_key, request, text, now) {
                Ok(id) => self.success(id),
                Err(text) => Registration::refuse(text),
            },
            None => self.begin_login(machine, request, now),
        }
    }

    pub(super) fn success(&self, id: NodeId) -> Registration {
        let Some(entry) = self.nodes.get(&id) else {
            return Registration::refuse("node not found");
        };
        let (user, login) = self
            .users
            .get(&entry.record.user)
            .map(super::User::wire)
            .unwrap_or_default();
        Registration::answer(RegisterResponse {
            user,
            login,
            machine_authorized: true,
            ..RegisterResponse::default()
        })
    }

    /// The node key is known; nothing when a pre-auth key has to be looked at all the same.
    fn refresh_or_logout(
        &mut self,
        id: NodeId,
        machine: &MachinePublicKey,
        request: &RegisterRequest,
        without_key: bool,
        now: Now,
    ) -> Option<Registration> {
        let entry = self.nodes.get(&id)?;
        if entry.record.machine != *machine {
            return (without_key || is_logout(request, now))
                .then(|| Registration::refuse("node exists with a different machine key"));
        }
        if is_logout(request, now) {
            return Some(self.logout(id, now));
        }
        if !without_key {
            return None;
        }
        if entry.expired {
            // A login that was begun with this very key goes on; otherwise the node needs another key.
            return request.followup.is_empty().then(|| {
                Registration::answer(RegisterResponse {
                    node_key_expired: true,
                    ..RegisterResponse::default()
                })
            });
        }
        if request.expiry.is_some() {
            return Some(Registration::refuse("extending key is not allowed"));
        }
        Some(self.success(id))
    }

    fn logout(&mut self, id: NodeId, now: Now) -> Registration {
        let ephemeral = self.nodes.get(&id).is_some_and(|entry| entry.record.ephemeral);
        if ephemeral {
            self.remove_node(id);
            return Registration::answer(RegisterResponse {
                node_key_expired: true,
                ..RegisterResponse::default()
            });
        }
        self.expire_node(id, now);
        match self.success(id) {
            Registration::Answer(mut response) => {
                response.node_key_expired = true;
                Registration::Answer(response)
            }
            Registration::Wait => Registration::Wait,
        }
    }

    fn register_with_key(
        &mut self,
        machine: &MachinePublicKey,
        node_key: NodePublicKey,
        request: &RegisterRequest,
        text: &str,
        now: Now,
    ) -> Result<NodeId, String> {
        if text.len() > MAX_KEY_LENGTH {
            return Err("invalid pre auth key".to_owned());
        }
        let (handle, secret) = key::split(text)?;
        let found = self.keys.values().find(|key| key.handle == handle);
        let key = found.ok_or_else(|| "invalid pre auth key".to_owned())?.clone();
        if !key.proves(secret) {
            return Err(
                "handling register with auth key: invalid auth key: crypto/bcrypt: hashedPassword is not the hash of the given password"
                    .to_owned(),
            );
        }
        let owner = Owner {
            user: if key.tags.is_empty() { key.user } else { TAGGED_USER },
            tags: key.tags.clone(),
            ephemeral: key.ephemeral || request.ephemeral,
            auth_key: Some(key.id),
        };
        let existing = self.same_node(machine, &owner)?;
        if let Some(entry) = existing.and_then(|id| self.nodes.get(&id))
            && entry.record.user == owner.user
            && entry.record.key == node_key
            && !entry.expired
        {
            // A container that starts again with the key it once used is the same node still.
            let id = entry.record.id;
            self.describe(id, request, now);
            return Ok(id);
        }
        key.check(now.wall)?;
        let hostinfo = request.hostinfo.as_ref().map(super::update::bounded_with_tags);
        let requested = hostinfo.map(|info| info.request_tags.join(" "));
        if let Some(tags) = requested.filter(|tags| !tags.is_empty() && existing.is_none()) {
            return Err(format!(
                "handling register with auth key: creating new node: requested tags [{tags}] are invalid or not permitted"
            ));
        }
        let id = self
            .admit(machine, node_key, request, existing, owner, now)
            .map_err(|text| format!("handling register with auth key: creating new node: {text}"))?;
        if let Some(key) = self.keys.get_mut(&key.id) {
            key.used = true;
        }
        self.mark_key(key.id);
        Ok(id)
    }

    /// The node that this machine is for this owner already.
    pub(super) fn same_node(&self, machine: &MachinePublicKey, owner: &Owner) -> Result<Option<NodeId>, String> {
        let of_owner = self.nodes_of(machine).find(|entry| entry.record.user == owner.user);
        if let Some(entry) = of_owner {
            return Ok(Some(entry.record.id));
        }
        if owner.user != TAGGED_USER {
            return Ok(None);
        }
        let mut others = self.nodes_of(machine).map(|entry| entry.record.id);
        match (others.next(), others.next()) {
            (Some(_), Some(_)) => Err("machine key maps to ambiguous node ownership".to_owned()),
            (only, _) => Ok(only),
        }
    }

    /// Makes a node, or gives an existing one this key.
    pub(super) fn admit(
        &mut self,
        machine: &MachinePublicKey,
        node_key: NodePublicKey,
        request: &RegisterRequest,
        existing: Option<NodeId>,
        owner: Owner,
        now: Now,
    ) -> Result<NodeId, String> {
        let holder = self.by_key.get(&node_key);
        // Nobody proves a node key here: a plain peer's must not be claimed, or its packets would go astray.
        if self.plain.has_key(&node_key) || holder.is_some_and(|holder| Some(*holder) != existing) {
            return Err("node key already in use by another machine".to_owned());
        }
        let asked = request.expiry.filter(|expiry| *expiry > now.wall);
        let standard = self
            .settings
            .node_expiry
            .and_then(|lifetime| now.wall.checked_add(lifetime));
        let expiry = if owner.tags.is_empty() {
            asked.or(standard)
        } else {
            None
        };
        if let Some(id) = existing {
            self.rekey(id, node_key, expiry, owner);
            self.describe(id, request, now);
            return Ok(id);
        }
        let is_node = |slot| self.nodes.values().any(|entry| entry.record.slot == slot);
        let is_taken = |slot| self.plain.has_slot(slot) || is_node(slot);
        let slot = self.last_slot.next_free(is_taken);
        let slot = slot.ok_or_else(|| "no address is left in the mesh".to_owned())?;
        self.last_slot = slot;
        let hostinfo = request
            .hostinfo
            .as_ref()
            .map(super::update::bounded)
            .unwrap_or_default();
        let label = name::label(&hostinfo.hostname);
        let record = NodeRecord {
            id: self.next_node_id(),
            machine: *machine,
            key: node_key,
            disco: None,
            user: owner.user,
            tags: owner.tags,
            name: self.unique_name(&label, None),
            label,
            slot,
            hostinfo,
            endpoints: Vec::new(),
            created: now.wall,
            expiry,
            ephemeral: owner.ephemeral,
            last_seen: None,
            auth_key: owner.auth_key,
            capability: 0,
        };
        let id = record.id;
        self.insert(record, now);
        Ok(id)
    }

    fn rekey(&mut self, id: NodeId, node_key: NodePublicKey, expiry: Option<std::time::SystemTime>, owner: Owner) {
        let Some(entry) = self.nodes.get_mut(&id) else {
            return;
        };
        let record = &mut entry.record;
        self.by_key.remove(&record.key);
        self.by_key.insert(node_key, id);
        record.key = node_key;
        record.ephemeral = owner.ephemeral;
        record.auth_key = owner.auth_key.or(record.auth_key);
        // Tags given by a key count at the first registration only; a user's node may become a tagged one, not back.
        if !record.is_tagged() {
            record.tags = owner.tags;
            record.user = owner.user;
        }
        record.expiry = if record.is_tagged() { None } else { expiry };
        entry.expired = false;
        self.touch_structure(id);
    }

    fn describe(&mut self, id: NodeId, request: &RegisterRequest, _now: Now) {
        if let Some(hostinfo) = &request.hostinfo {
            self.set_hostinfo(id, hostinfo);
        }
    }

    /// The entry of a node key, if `machine` holds it.
    pub(super) fn owned(&self, machine: &MachinePublicKey, node_key: &NodePublicKey) -> Option<&Entry> {
        self.by_key
            .get(node_key)
            .and_then(|id| self.nodes.get(id))
            .filter(|entry| entry.record.machine == *machine)
    }
}

fn is_logout(request: &RegisterRequest, now: Now) -> bool {
    request.expiry.is_some_and(|expiry| expiry <= now.wall)
}
