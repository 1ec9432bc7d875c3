//! What a node says of itself: [`Hostinfo`] and, within it, [`NetInfo`].

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::lenient::{is_false, is_zero, list, nullable};

/// A node's description. It must be complete in every request: Headscale replaces what it has.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "the names are the protocol's; Tailscale's `tailcfg` explains those that matter"
)]
pub struct Hostinfo {
    #[serde(
        rename = "IPNVersion",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub ipn_version: String,
    #[serde(
        rename = "BackendLogID",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub backend_log_id: String,
    #[serde(
        rename = "OS",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub os: String,
    #[serde(
        rename = "OSVersion",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    #[serde(rename = "Container", default, skip_serializing_if = "Option::is_none")]
    pub container: Option<bool>,
    #[serde(
        rename = "Distro",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub distro: String,
    #[serde(
        rename = "DistroVersion",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub distro_version: String,
    #[serde(
        rename = "App",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub app: String,
    #[serde(
        rename = "Package",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub package: String,
    #[serde(
        rename = "Hostname",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub hostname: String,
    #[serde(
        rename = "ShieldsUp",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_false"
    )]
    pub shields_up: bool,
    #[serde(
        rename = "PeerRelay",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_false"
    )]
    pub peer_relay: bool,
    #[serde(
        rename = "Machine",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub machine: String,
    #[serde(
        rename = "GoArch",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub go_arch: String,
    #[serde(
        rename = "RoutableIPs",
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub routable_ips: Vec<IpNet>,
    #[serde(
        rename = "RequestTags",
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub request_tags: Vec<String>,
    #[serde(
        rename = "Services",
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub services: Vec<Service>,
    #[serde(rename = "NetInfo", default, skip_serializing_if = "Option::is_none")]
    pub net_info: Option<NetInfo>,
    #[serde(rename = "Userspace", default, skip_serializing_if = "Option::is_none")]
    pub userspace: Option<bool>,
    #[serde(rename = "UserspaceRouter", default, skip_serializing_if = "Option::is_none")]
    pub userspace_router: Option<bool>,
    #[serde(rename = "AppConnector", default, skip_serializing_if = "Option::is_none")]
    pub app_connector: Option<bool>,
}

/// A service that a node offers to peers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are the protocol's")]
pub struct Service {
    #[serde(rename = "Proto", default)]
    pub proto: String,
    #[serde(rename = "Port", default)]
    pub port: u16,
    #[serde(
        rename = "Description",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub description: String,
}

/// What a node found out about its network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "the names are the protocol's; Tailscale's `tailcfg` explains those that matter"
)]
pub struct NetInfo {
    #[serde(rename = "MappingVariesByDestIP", default, skip_serializing_if = "Option::is_none")]
    pub mapping_varies_by_dest_ip: Option<bool>,
    #[serde(rename = "WorkingIPv6", default, skip_serializing_if = "Option::is_none")]
    pub working_ipv6: Option<bool>,
    #[serde(rename = "OSHasIPv6", default, skip_serializing_if = "Option::is_none")]
    pub os_has_ipv6: Option<bool>,
    #[serde(rename = "WorkingUDP", default, skip_serializing_if = "Option::is_none")]
    pub working_udp: Option<bool>,
    #[serde(
        rename = "HavePortMap",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_false"
    )]
    pub have_port_map: bool,
    #[serde(rename = "UPnP", default, skip_serializing_if = "Option::is_none")]
    pub upnp: Option<bool>,
    #[serde(rename = "PMP", default, skip_serializing_if = "Option::is_none")]
    pub pmp: Option<bool>,
    #[serde(rename = "PCP", default, skip_serializing_if = "Option::is_none")]
    pub pcp: Option<bool>,
    #[serde(
        rename = "PreferredDERP",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_zero"
    )]
    pub preferred_derp: i64,
    #[serde(
        rename = "LinkType",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub link_type: String,
    #[serde(
        rename = "DERPLatency",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub derp_latency: BTreeMap<String, f64>,
    #[serde(
        rename = "FirewallMode",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub firewall_mode: String,
}

impl NetInfo {
    /// True when nothing differs that is worth waking every peer for: latencies do not count.
    #[must_use]
    pub fn basically_equal(&self, other: &Self) -> bool {
        let bare = |info: &Self| Self {
            derp_latency: BTreeMap::new(),
            ..info.clone()
        };
        bare(self) == bare(other)
    }
}
