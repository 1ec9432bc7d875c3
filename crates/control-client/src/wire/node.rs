//! Nodes in a map: [`Node`] whole, [`PeerChange`] in part, and their owners.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::SystemTime;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};

use super::lenient::{is_false, is_zero, list, nullable, object, optional_list};
use super::{Hostinfo, time};
use crate::keys::{DiscoPublicKey, MachinePublicKey, NodePublicKey};

/// Capabilities by name. That the name is there grants it; the values are its parameters.
pub type CapMap = BTreeMap<String, Vec<serde_json::Value>>;

fn cap_map<'de, D: Deserializer<'de>>(deserializer: D) -> Result<CapMap, D::Error> {
    Ok(optional_cap_map(deserializer)?.unwrap_or_default())
}

/// Reads a capability map; a capability with `null` values is there all the same.
pub(super) fn optional_cap_map<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<CapMap>, D::Error> {
    let raw = Option::<BTreeMap<String, Option<Vec<serde_json::Value>>>>::deserialize(deserializer)?;
    Ok(raw.map(|caps| {
        caps.into_iter()
            .map(|(name, values)| (name, values.unwrap_or_default()))
            .collect()
    }))
}

/// A node, ourselves or a peer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "the names are the protocol's; Tailscale's `tailcfg` explains each"
)]
pub struct Node {
    #[serde(rename = "ID")]
    pub id: i64,
    #[serde(rename = "StableID", default, deserialize_with = "nullable")]
    pub stable_id: String,
    #[serde(rename = "Name", default, deserialize_with = "nullable")]
    pub name: String,
    #[serde(rename = "User", default, deserialize_with = "nullable")]
    pub user: i64,
    #[serde(
        rename = "Sharer",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_zero"
    )]
    pub sharer: i64,
    #[serde(rename = "Key", default, skip_serializing_if = "Option::is_none")]
    pub key: Option<NodePublicKey>,
    #[serde(
        rename = "KeyExpiry",
        default,
        with = "time",
        skip_serializing_if = "Option::is_none"
    )]
    pub key_expiry: Option<SystemTime>,
    #[serde(rename = "Machine", default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachinePublicKey>,
    #[serde(rename = "DiscoKey", default, skip_serializing_if = "Option::is_none")]
    pub disco_key: Option<DiscoPublicKey>,
    #[serde(rename = "Addresses", default, deserialize_with = "list")]
    pub addresses: Vec<IpNet>,
    /// Absent and `null` mean the same as `addresses`.
    #[serde(
        rename = "AllowedIPs",
        default,
        deserialize_with = "optional_list",
        skip_serializing_if = "Option::is_none"
    )]
    pub allowed_ips: Option<Vec<IpNet>>,
    #[serde(
        rename = "Endpoints",
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub endpoints: Vec<SocketAddr>,
    /// The old form of `home_derp`: `127.3.3.40:N`.
    #[serde(
        rename = "DERP",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub legacy_derp: String,
    #[serde(
        rename = "HomeDERP",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_zero"
    )]
    pub home_derp: i64,
    #[serde(
        rename = "Hostinfo",
        default,
        deserialize_with = "object",
        skip_serializing_if = "Option::is_none"
    )]
    pub hostinfo: Option<Hostinfo>,
    #[serde(rename = "Created", default, with = "time", skip_serializing_if = "Option::is_none")]
    pub created: Option<SystemTime>,
    #[serde(
        rename = "Cap",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_zero"
    )]
    pub cap: i64,
    #[serde(
        rename = "Tags",
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub tags: Vec<String>,
    #[serde(
        rename = "PrimaryRoutes",
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub primary_routes: Vec<IpNet>,
    #[serde(rename = "LastSeen", default, with = "time", skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<SystemTime>,
    #[serde(rename = "Online", default, skip_serializing_if = "Option::is_none")]
    pub online: Option<bool>,
    #[serde(
        rename = "MachineAuthorized",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_false"
    )]
    pub machine_authorized: bool,
    #[serde(
        rename = "Capabilities",
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub capabilities: Vec<String>,
    #[serde(
        rename = "CapMap",
        default,
        deserialize_with = "cap_map",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub cap_map: CapMap,
    #[serde(
        rename = "UnsignedPeerAPIOnly",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_false"
    )]
    pub unsigned_peer_api_only: bool,
    #[serde(
        rename = "Expired",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_false"
    )]
    pub expired: bool,
    #[serde(
        rename = "IsWireGuardOnly",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_false"
    )]
    pub is_wireguard_only: bool,
    #[serde(
        rename = "IsJailed",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_false"
    )]
    pub is_jailed: bool,
}

/// What changed of a peer; an absent field did not. Region 0 and capability version 0 count as absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "the names are the protocol's; Tailscale's `tailcfg` explains each"
)]
pub struct PeerChange {
    #[serde(rename = "NodeID")]
    pub node_id: i64,
    #[serde(
        rename = "DERPRegion",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_zero"
    )]
    pub derp_region: i64,
    #[serde(
        rename = "Cap",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_zero"
    )]
    pub cap: i64,
    #[serde(
        rename = "CapMap",
        default,
        deserialize_with = "optional_cap_map",
        skip_serializing_if = "Option::is_none"
    )]
    pub cap_map: Option<CapMap>,
    #[serde(
        rename = "Endpoints",
        default,
        deserialize_with = "optional_list",
        skip_serializing_if = "Option::is_none"
    )]
    pub endpoints: Option<Vec<SocketAddr>>,
    #[serde(rename = "Key", default, skip_serializing_if = "Option::is_none")]
    pub key: Option<NodePublicKey>,
    #[serde(rename = "DiscoKey", default, skip_serializing_if = "Option::is_none")]
    pub disco_key: Option<DiscoPublicKey>,
    #[serde(rename = "Online", default, skip_serializing_if = "Option::is_none")]
    pub online: Option<bool>,
    #[serde(rename = "LastSeen", default, with = "time", skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<SystemTime>,
    #[serde(
        rename = "KeyExpiry",
        default,
        deserialize_with = "time::keep_zero",
        serialize_with = "time::serialize",
        skip_serializing_if = "Option::is_none"
    )]
    pub key_expiry: Option<SystemTime>,
}

/// A user as peers see it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are the protocol's")]
pub struct UserProfile {
    #[serde(rename = "ID")]
    pub id: i64,
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
