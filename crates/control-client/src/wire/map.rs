//! `POST /machine/map`: [`MapRequest`], and [`MapResponse`], of which a stream brings many.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use super::lenient::{List, is_false, is_zero, list, nullable, object, optional_list};
use super::{DerpMap, DnsConfig, FilterRule, Hostinfo, Node, PeerChange, UserProfile, time};
use crate::keys::{DiscoPublicKey, NodePublicKey};

/// Opens the stream, or updates what the coordinator knows of us.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "the names are the protocol's; Tailscale's `tailcfg` explains each"
)]
pub struct MapRequest {
    #[serde(rename = "Version", default)]
    pub version: i64,
    #[serde(
        rename = "Compress",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub compress: String,
    #[serde(
        rename = "KeepAlive",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_false"
    )]
    pub keep_alive: bool,
    #[serde(rename = "NodeKey", default, skip_serializing_if = "Option::is_none")]
    pub node_key: Option<NodePublicKey>,
    #[serde(rename = "DiscoKey", default, skip_serializing_if = "Option::is_none")]
    pub disco_key: Option<DiscoPublicKey>,
    #[serde(
        rename = "Stream",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_false"
    )]
    pub stream: bool,
    #[serde(rename = "Hostinfo", default, skip_serializing_if = "Option::is_none")]
    pub hostinfo: Option<Hostinfo>,
    /// Absent = unchanged, empty = none.
    #[serde(
        rename = "Endpoints",
        default,
        deserialize_with = "optional_list",
        skip_serializing_if = "Option::is_none"
    )]
    pub endpoints: Option<Vec<SocketAddr>>,
    /// As many as endpoints: 0 unknown, 1 local, 2 STUN, 3 port-mapped, 4 STUN with local port, 5 explicit.
    #[serde(
        rename = "EndpointTypes",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub endpoint_types: Vec<i64>,
    #[serde(
        rename = "ReadOnly",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_false"
    )]
    pub read_only: bool,
    #[serde(
        rename = "OmitPeers",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_false"
    )]
    pub omit_peers: bool,
}

/// One message of the stream: a whole map first, changes later. What an absent field means is in Tailscale's `tailcfg`
/// and is carried out by `netmap::MapSession`. Peers are whatever `N` makes of a [`Node`]'s JSON.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(bound(deserialize = "N: DeserializeOwned"))]
#[expect(
    missing_docs,
    reason = "the names are the protocol's; Tailscale's `tailcfg` explains each"
)]
pub struct MapResponse<N = Node> {
    #[serde(
        rename = "KeepAlive",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_false"
    )]
    pub keep_alive: bool,
    #[serde(
        rename = "PingRequest",
        default,
        deserialize_with = "object",
        skip_serializing_if = "Option::is_none"
    )]
    pub ping_request: Option<PingRequest>,
    #[serde(
        rename = "PopBrowserURL",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub pop_browser_url: String,
    #[serde(
        rename = "Node",
        default,
        deserialize_with = "object",
        skip_serializing_if = "Option::is_none"
    )]
    pub node: Option<Box<Node>>,
    #[serde(
        rename = "DERPMap",
        default,
        deserialize_with = "object",
        skip_serializing_if = "Option::is_none"
    )]
    pub derp_map: Option<DerpMap>,
    #[serde(
        rename = "Peers",
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub peers: Vec<N>,
    #[serde(
        rename = "PeersChanged",
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub peers_changed: Vec<N>,
    #[serde(
        rename = "PeersRemoved",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub peers_removed: Vec<i64>,
    #[serde(
        rename = "PeersChangedPatch",
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub peers_changed_patch: Vec<PeerChange>,
    #[serde(
        rename = "PeerSeenChange",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub peer_seen_change: BTreeMap<i64, bool>,
    #[serde(
        rename = "OnlineChange",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub online_change: BTreeMap<i64, bool>,
    #[serde(
        rename = "DNSConfig",
        default,
        deserialize_with = "object",
        skip_serializing_if = "Option::is_none"
    )]
    pub dns_config: Option<DnsConfig>,
    #[serde(
        rename = "Domain",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub domain: String,
    #[serde(rename = "CollectServices", default, skip_serializing_if = "Option::is_none")]
    pub collect_services: Option<bool>,
    #[serde(
        rename = "PacketFilter",
        default,
        deserialize_with = "optional_list",
        skip_serializing_if = "Option::is_none"
    )]
    pub packet_filter: Option<Vec<FilterRule>>,
    /// Sets of rules by name; a set that is nothing is dropped, and `*` stands for all.
    #[serde(
        rename = "PacketFilters",
        default,
        deserialize_with = "packet_filters",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub packet_filters: BTreeMap<String, Option<Vec<FilterRule>>>,
    #[serde(
        rename = "UserProfiles",
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub user_profiles: Vec<UserProfile>,
    #[serde(
        rename = "Health",
        default,
        deserialize_with = "optional_list",
        skip_serializing_if = "Option::is_none"
    )]
    pub health: Option<Vec<String>>,
    #[serde(
        rename = "DisplayMessages",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub display_messages: BTreeMap<String, Option<DisplayMessage>>,
    #[serde(rename = "SSHPolicy", default, skip_serializing_if = "Option::is_none")]
    pub ssh_policy: Option<serde_json::Value>,
    #[serde(
        rename = "ControlTime",
        default,
        with = "time",
        skip_serializing_if = "Option::is_none"
    )]
    pub control_time: Option<SystemTime>,
    #[serde(rename = "TKAInfo", default, skip_serializing_if = "Option::is_none")]
    pub tka_info: Option<serde_json::Value>,
    #[serde(
        rename = "Debug",
        default,
        deserialize_with = "object",
        skip_serializing_if = "Option::is_none"
    )]
    pub debug: Option<Debug>,
}

fn packet_filters<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, Option<Vec<FilterRule>>>, D::Error> {
    let raw = Option::<BTreeMap<String, Option<List<FilterRule>>>>::deserialize(deserializer)?.unwrap_or_default();
    Ok(raw
        .into_iter()
        .map(|(name, rules)| (name, rules.map(|rules| rules.0)))
        .collect())
}

/// The coordinator wants to know whether we are alive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "the names are the protocol's; Tailscale's `tailcfg` explains each"
)]
pub struct PingRequest {
    #[serde(rename = "URL", default, deserialize_with = "nullable")]
    pub url: String,
    #[serde(
        rename = "URLIsNoise",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_false"
    )]
    pub url_is_noise: bool,
    #[serde(
        rename = "Log",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_false"
    )]
    pub log: bool,
    #[serde(
        rename = "Types",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub types: String,
    #[serde(
        rename = "IP",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub ip: String,
    #[serde(
        rename = "Payload",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub payload: String,
}

/// A message for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are the protocol's")]
pub struct DisplayMessage {
    #[serde(rename = "Title", default, deserialize_with = "nullable")]
    pub title: String,
    #[serde(rename = "Text", default, deserialize_with = "nullable")]
    pub text: String,
}

/// Orders for debugging; of these only a short pause is obeyed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Debug {
    /// Pause before going on.
    #[serde(
        rename = "SleepSeconds",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_zero"
    )]
    pub sleep_seconds: f64,
}
