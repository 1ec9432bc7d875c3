//! Pre-auth keys: what lets a machine join without a person.
//!
//! A key looks like Headscale's, `hskey-auth-` + 12 characters + `-` + 64 characters, both parts base64url (so either
//! may hold a hyphen, and only positions separate them). The first part finds the key, the second proves it; only its
//! SHA-256 is kept. The secret has 384 random bits, so a slow hash would protect nothing.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::UserId;

const PREFIX: &str = "hskey-auth-";
const ID_LENGTH: usize = 12;
const SECRET_LENGTH: usize = 64;
/// Longest key text that is looked at.
pub(crate) const MAX_KEY_LENGTH: usize = 1024;

/// Number of a pre-auth key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub i64);

impl std::fmt::Display for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a new pre-auth key is good for. The default: one machine, within one hour, for ever after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyOptions {
    /// For more than one machine.
    pub reusable: bool,
    /// Its nodes are forgotten when they log out or stay away.
    pub ephemeral: bool,
    /// How long it can be used; none = until revoked.
    pub expiry: Option<Duration>,
    /// The owner of its nodes; none = the user `sandd`. Made when it does not exist yet.
    pub user: Option<String>,
    /// Tags of its nodes (`tag:name`); tagged nodes belong to no user and never expire.
    pub tags: Vec<String>,
}

impl Default for KeyOptions {
    fn default() -> Self {
        Self {
            reusable: false,
            ephemeral: false,
            expiry: Some(Duration::from_secs(3600)),
            user: None,
            tags: Vec::new(),
        }
    }
}

/// Why a key was not made or not revoked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not of the form `tag:name`.
    #[error("`{0}` is no tag: write tag:name with letters, digits and hyphens")]
    BadTag(String),
    /// An empty or overlong name, or one that does not print.
    #[error("`{0}` is no user name: use 1 to 128 printable characters without blanks")]
    BadUser(String),
    /// The end of the key lies beyond what a clock can say.
    #[error("expiry is too far in the future")]
    ExpiryTooFar,
    /// No such key.
    #[error("there is no key with number {0}")]
    Unknown(KeyId),
    /// It could not be saved.
    #[error("cannot save the key")]
    Store(#[from] crate::error::StoreError),
}

/// A key as it is kept; its secret is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyRecord {
    pub(crate) id: KeyId,
    /// The part that finds it.
    pub(crate) handle: String,
    pub(crate) secret_sha256: [u8; 32],
    pub(crate) reusable: bool,
    pub(crate) ephemeral: bool,
    pub(crate) user: UserId,
    pub(crate) tags: Vec<String>,
    pub(crate) created: SystemTime,
    pub(crate) expiry: Option<SystemTime>,
    pub(crate) used: bool,
    pub(crate) revoked: bool,
}

/// A key as the operator sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct KeyStatus {
    /// Its number, for revoking it.
    pub id: KeyId,
    /// Its beginning, as Headscale's lists show keys.
    pub key: String,
    /// For more than one machine.
    pub reusable: bool,
    /// Its nodes are forgotten when they stay away.
    pub ephemeral: bool,
    /// Owner of its nodes.
    pub user: String,
    /// Tags of its nodes.
    pub tags: Vec<String>,
    /// When it was made.
    pub created: SystemTime,
    /// When it ends; none = when revoked.
    pub expiry: Option<SystemTime>,
    /// Whether a machine has used it.
    pub used: bool,
    /// Whether it was revoked.
    pub revoked: bool,
}

impl KeyRecord {
    /// Makes the key's text and what is kept of it; `id` and owner are filled in by the caller.
    pub(super) fn generate(random: &mut dyn FnMut(&mut [u8])) -> (Zeroizing<String>, String, [u8; 32]) {
        let mut handle = [0u8; ID_LENGTH / 4 * 3];
        let mut secret = Zeroizing::new([0u8; SECRET_LENGTH / 4 * 3]);
        random(&mut handle);
        random(&mut secret[..]);
        let handle = URL_SAFE_NO_PAD.encode(handle);
        let secret = Zeroizing::new(URL_SAFE_NO_PAD.encode(&secret[..]));
        let hash = Sha256::digest(secret.as_bytes()).into();
        let text = Zeroizing::new(format!("{PREFIX}{handle}-{}", secret.as_str()));
        (text, handle, hash)
    }

    pub(super) fn proves(&self, secret: &str) -> bool {
        let hash: [u8; 32] = Sha256::digest(secret.as_bytes()).into();
        hash.ct_eq(&self.secret_sha256).into()
    }

    /// Whether it lets one more machine in, and Headscale's text if not. Headscale says `authkey expired` for a revoked
    /// key, too; here the two differ.
    pub(super) fn check(&self, now: SystemTime) -> Result<(), &'static str> {
        if self.revoked {
            Err("authkey revoked")
        } else if self.expiry.is_some_and(|expiry| expiry <= now) {
            Err("authkey expired")
        } else if self.used && !self.reusable {
            Err("authkey already used")
        } else {
            Ok(())
        }
    }
}

/// Splits a key's text into the part that finds it and the part that proves it.
pub(super) fn split(text: &str) -> Result<(&str, &str), String> {
    let invalid = || "invalid pre auth key".to_owned();
    let rest = text.strip_prefix(PREFIX).ok_or_else(invalid)?;
    let expected = ID_LENGTH + 1 + SECRET_LENGTH;
    if rest.len() < expected {
        return Err(format!(
            "handling register with auth key: failed to parse auth-key: key too short, expected at least {expected} chars after prefix, got {}",
            rest.len()
        ));
    }
    let handle = rest.get(..ID_LENGTH).ok_or_else(invalid)?;
    let secret = rest.get(ID_LENGTH + 1..).ok_or_else(invalid)?;
    Ok((handle, secret))
}

pub(crate) fn check_tag(tag: &str) -> Result<(), KeyError> {
    let valid = tag.strip_prefix("tag:").is_some_and(|name| {
        (1..=63).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    });
    if valid {
        Ok(())
    } else {
        Err(KeyError::BadTag(tag.escape_debug().to_string()))
    }
}

pub(super) fn check_user(name: &str) -> Result<(), KeyError> {
    let valid = (1..=128).contains(&name.len())
        && !name.starts_with('-')
        && name.chars().all(|c| !c.is_control() && !c.is_whitespace());
    if valid {
        Ok(())
    } else {
        Err(KeyError::BadUser(name.escape_debug().to_string()))
    }
}
