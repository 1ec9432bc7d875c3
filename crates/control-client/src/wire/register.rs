//! `GET /key` and `POST /machine/register`.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::lenient::{is_false, nullable};
use super::{Hostinfo, time};
use crate::keys::{MachinePublicKey, NodePublicKey};

/// The coordinator's keys as `/key` tells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerKeys {
    /// The key of the protocol before ts2021; all zeros today.
    #[serde(rename = "legacyPublicKey", default, skip_serializing_if = "Option::is_none")]
    pub legacy_public_key: Option<MachinePublicKey>,
    /// The key for ts2021.
    #[serde(rename = "publicKey")]
    pub public_key: MachinePublicKey,
}

/// How a node proves that it may join. Holds a secret, so it does not print.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterAuth {
    /// A pre-auth key, opaque.
    #[serde(
        rename = "AuthKey",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub auth_key: String,
}

impl std::fmt::Debug for RegisterAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RegisterAuth([redacted])")
    }
}

impl Drop for RegisterAuth {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.auth_key);
    }
}

/// What a node asks for: to join, refresh, rotate its key, or leave.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RegisterRequest {
    /// Capability version.
    #[serde(rename = "Version", default)]
    pub version: i64,
    /// The node key to register.
    #[serde(rename = "NodeKey", default, skip_serializing_if = "Option::is_none")]
    pub node_key: Option<NodePublicKey>,
    /// The node key before a rotation.
    #[serde(rename = "OldNodeKey", default, skip_serializing_if = "Option::is_none")]
    pub old_node_key: Option<NodePublicKey>,
    /// Pre-auth key; absent = interactive, refresh or logout.
    #[serde(rename = "Auth", default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<RegisterAuth>,
    /// Wanted end of the key; in the past = logout.
    #[serde(rename = "Expiry", default, with = "time", skip_serializing_if = "Option::is_none")]
    pub expiry: Option<SystemTime>,
    /// The login URL of an earlier answer, to wait for.
    #[serde(
        rename = "Followup",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub followup: String,
    /// The node's description, complete.
    #[serde(rename = "Hostinfo", default, skip_serializing_if = "Option::is_none")]
    pub hostinfo: Option<Hostinfo>,
    /// Wish to be forgotten when gone (Headscale decides by the key instead).
    #[serde(
        rename = "Ephemeral",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_false"
    )]
    pub ephemeral: bool,
}

/// The answer. Evaluate in this order: `error`, `node_key_signature`, `node_key_expired`, `auth_url`, success.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RegisterResponse {
    /// Owner.
    #[serde(rename = "User", default, deserialize_with = "nullable")]
    pub user: User,
    /// Login of the owner.
    #[serde(rename = "Login", default, deserialize_with = "nullable")]
    pub login: Login,
    /// The node key has ended: make a new one and register again.
    #[serde(rename = "NodeKeyExpired", default, deserialize_with = "nullable")]
    pub node_key_expired: bool,
    /// Device approval.
    #[serde(rename = "MachineAuthorized", default, deserialize_with = "nullable")]
    pub machine_authorized: bool,
    /// Where a person must go to approve the node.
    #[serde(rename = "AuthURL", default, deserialize_with = "nullable")]
    pub auth_url: String,
    /// Tailnet lock's signature, base64; Headscale has none.
    #[serde(rename = "NodeKeySignature", default)]
    pub node_key_signature: Option<String>,
    /// Why it was refused; Headscale says so with status 200.
    #[serde(rename = "Error", default, deserialize_with = "nullable")]
    pub error: String,
}

/// A user in a register answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are the protocol's")]
pub struct User {
    #[serde(rename = "ID", default)]
    pub id: i64,
    #[serde(rename = "DisplayName", default, deserialize_with = "nullable")]
    pub display_name: String,
    #[serde(
        rename = "ProfilePicURL",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub profile_pic_url: String,
    #[serde(rename = "Created", default, with = "time")]
    pub created: Option<SystemTime>,
}

/// A login in a register answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are the protocol's")]
pub struct Login {
    #[serde(rename = "ID", default)]
    pub id: i64,
    #[serde(rename = "Provider", default, deserialize_with = "nullable")]
    pub provider: String,
    #[serde(rename = "LoginName", default, deserialize_with = "nullable")]
    pub login_name: String,
    #[serde(rename = "DisplayName", default, deserialize_with = "nullable")]
    pub display_name: String,
    #[serde(
        rename = "ProfilePicURL",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub profile_pic_url: String,
}
