//! Logins that wait for a person: a node came without a key, got a URL, and asks again until someone has decided.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sandd_control_client::keys::{MachinePublicKey, NodePublicKey};
use sandd_control_client::wire::RegisterRequest;
use serde::Serialize;

use super::NodeId;

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
