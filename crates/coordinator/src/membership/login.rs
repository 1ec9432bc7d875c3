//! Logins that wait for a person: a node came without a key, got a URL, and asks again until someone has decided
//!.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sandd_control_client::keys::{MachinePublicKey, NodePublicKey};
use sandd_control_client::wire::{RegisterRequest, RegisterResponse};
use serde::Serialize;

use super::register::Owner;
use super::{Membership, NodeId, Now, Registration, TAGGED_USER, update};

const PREFIX: &str = "hskey-authreq-";
const ID_LENGTH: usize = 24;
/// How long a login waits.
pub(super) const LIFETIME: Duration = Duration::from_secs(15 * 60);
/// How many wait at once; the oldest goes.
pub(super) const MAX_PENDING: usize = 1024;

/// Why a login was not approved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoginError {
    /// Not waiting: never was, too old, or decided already.
    #[error("no login `{0}` is waiting: it may have been decided, or be older than 15 minutes")]
    Unknown(String),
    /// The user name is of no use.
    #[error(transparent)]
    User(super::KeyError),
    /// The node asked for a tag that the policy does not let this user give.
    #[error("{user} may not give the tags that the node asks for ({tags}): see `tagOwners` in the policy", tags = .tags.join(", "))]
    Tags {
        /// Who approves.
        user: String,
        /// What the node asks for.
        tags: Vec<String>,
    },
    /// The node cannot be admitted.
    #[error("the node cannot be admitted: {0}")]
    Refused(String),
    /// It could not be saved.
    #[error("cannot save the node")]
    Store(#[from] crate::error::StoreError),
}

/// A login that waits, as the operator sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LoginRequest {
    /// What to approve it by: `hskey-authreq-…`.
    pub id: String,
    /// What the node calls itself.
    pub hostname: String,
    /// The node's key.
    pub node_key: Option<NodePublicKey>,
    /// The device's key.
    pub machine_key: MachinePublicKey,
    /// Tags that it asks for.
    pub tags: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    Pending,
    Approved(NodeId),
}

/// A login as it is kept, in memory only.
#[derive(Debug)]
pub(super) struct Login {
    pub(super) machine: MachinePublicKey,
    pub(super) request: RegisterRequest,
    pub(super) began: Instant,
    pub(super) decision: Decision,
}

pub(super) fn generate_id(random: &mut dyn FnMut(&mut [u8])) -> String {
    let mut bytes = [0u8; ID_LENGTH / 4 * 3];
    random(&mut bytes);
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// The login's name at the end of its URL.
pub(crate) fn id_in(followup: &str) -> Option<&str> {
    let id = followup.rsplit('/').next()?;
    let name = id.strip_prefix(PREFIX)?;
    let valid = name.len() == ID_LENGTH
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    valid.then_some(id)
}

impl Membership {
    pub(super) fn begin_login(
        &mut self,
        machine: &MachinePublicKey,
        request: &RegisterRequest,
        now: Now,
    ) -> Registration {
        self.forget_old_logins(now);
        let same = |login: &Login| {
            login.machine == *machine
                && login.request.node_key == request.node_key
                && login.decision == Decision::Pending
        };
        let waiting = self
            .logins
            .iter()
            .find(|(_, login)| same(login))
            .map(|(id, _)| id.clone());
        let id = waiting.unwrap_or_else(|| generate_id(&mut self.random));
        if self.logins.len() >= MAX_PENDING && !self.logins.contains_key(&id) {
            let oldest = self.logins.iter().min_by_key(|(_, login)| login.began);
            if let Some(oldest) = oldest.map(|(id, _)| id.clone()) {
                self.logins.remove(&oldest);
            }
        }
        let login = Login {
            machine: *machine,
            request: RegisterRequest {
                hostinfo: request.hostinfo.as_ref().map(update::bounded_with_tags),
                followup: String::new(),
                ..request.clone()
            },
            began: now.instant,
            decision: Decision::Pending,
        };
        let auth_url = format!("{}{id}", self.settings.login_url);
        self.logins.insert(id, login);
        Registration::answer(RegisterResponse {
            auth_url,
            ..RegisterResponse::default()
        })
    }

    pub(super) fn follow_up(
        &mut self,
        machine: &MachinePublicKey,
        request: &RegisterRequest,
        now: Now,
    ) -> Registration {
        self.forget_old_logins(now);
        let Some(id) = id_in(&request.followup) else {
            return Registration::refuse("invalid registration ID");
        };
        let decision = self
            .logins
            .get(id)
            .filter(|login| login.machine == *machine && login.request.node_key == request.node_key)
            .map(|login| login.decision);
        match decision {
            Some(Decision::Pending) => Registration::Wait,
            Some(Decision::Approved(node)) => {
                self.logins.remove(id);
                self.success(node)
            }
            // Rejected, too old, or never heard of: not an error, but a new url.
            None => self.begin_login(machine, request, now),
        }
    }

    pub(super) fn forget_old_logins(&mut self, now: Now) {
        self.logins
            .retain(|_, login| now.instant.saturating_duration_since(login.began) < LIFETIME);
    }

    pub(crate) fn login_requests(&self) -> Vec<LoginRequest> {
        let pending = self
            .logins
            .iter()
            .filter(|(_, login)| login.decision == Decision::Pending);
        pending
            .map(|(id, login)| {
                let hostinfo = login.request.hostinfo.clone().unwrap_or_default();
                LoginRequest {
                    id: id.clone(),
                    hostname: hostinfo.hostname,
                    node_key: login.request.node_key,
                    machine_key: login.machine,
                    tags: hostinfo.request_tags,
                }
            })
            .collect()
    }

    /// Lets a waiting node in as one of `user`'s.
    pub(crate) fn approve_login(
        &mut self,
        id: &str,
        user: &str,
        may_tag: impl Fn(&str, &str) -> bool,
        now: Now,
    ) -> Result<NodeId, LoginError> {
        self.forget_old_logins(now);
        let unknown = || LoginError::Unknown(id.escape_debug().to_string());
        let id = id_in(id).ok_or_else(unknown)?;
        let login = self.logins.get(id).filter(|login| login.decision == Decision::Pending);
        let login = login.ok_or_else(unknown)?;
        let (machine, request) = (login.machine, login.request.clone());
        let node_key = request.node_key.ok_or_else(unknown)?;
        let tags = request.hostinfo.as_ref().map(|info| info.request_tags.clone());
        let tags = tags.unwrap_or_default();
        if !tags.iter().all(|tag| may_tag(user, tag)) {
            return Err(LoginError::Tags {
                user: user.to_owned(),
                tags,
            });
        }
        let user = self.user_named(user, now.wall).map_err(LoginError::User)?;
        let owner = Owner {
            user: if tags.is_empty() { user } else { TAGGED_USER },
            tags,
            ephemeral: request.ephemeral,
            auth_key: None,
        };
        let existing = self.same_node(&machine, &owner).map_err(LoginError::Refused)?;
        let node = self
            .admit(&machine, node_key, &request, existing, owner, now)
            .map_err(LoginError::Refused)?;
        if let Some(login) = self.logins.get_mut(id) {
            login.decision = Decision::Approved(node);
        }
        Ok(node)
    }

    /// Turns a waiting login away; its node gets a new url.
    pub(crate) fn reject_login(&mut self, id: &str) -> Result<(), LoginError> {
        let unknown = || LoginError::Unknown(id.escape_debug().to_string());
        let id = id_in(id).ok_or_else(unknown)?;
        let login = self.logins.get(id).filter(|login| login.decision == Decision::Pending);
        login.ok_or_else(unknown)?;
        self.logins.remove(id);
        Ok(())
    }

    /// Whether a login of that name waits.
    pub(crate) fn is_login_waiting(&self, id: &str) -> bool {
        self.logins
            .get(id)
            .is_some_and(|login| login.decision == Decision::Pending)
    }
}
