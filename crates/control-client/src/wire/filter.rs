//! Packet rules as the coordinator gives them. What they mean is read in
//! [`crate::netmap`], where a part that does not parse is left out: rules only ever let in.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::lenient::{list, nullable};
use super::node::CapMap;

/// Lets sources in to destinations, or grants them capabilities.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FilterRule {
    /// Addresses, networks, ranges, `*`, or `cap:NAME`.
    #[serde(rename = "SrcIPs", default, deserialize_with = "nullable")]
    pub src_ips: Vec<String>,
    /// Obsolete; a rule that has it is refused.
    #[serde(
        rename = "SrcBits",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub src_bits: Vec<i64>,
    /// Destinations.
    #[serde(
        rename = "DstPorts",
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub dst_ports: Vec<NetPortRange>,
    /// Protocol numbers; empty = TCP, UDP and both ICMPs.
    #[serde(
        rename = "IPProto",
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub ip_proto: Vec<i64>,
    /// Application capabilities.
    #[serde(
        rename = "CapGrant",
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub cap_grant: Vec<CapGrant>,
}

/// A destination: addresses and ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetPortRange {
    /// Address, network, range or `*`.
    #[serde(rename = "IP")]
    pub ip: String,
    /// Obsolete; a destination that has it is refused.
    #[serde(rename = "Bits", default, skip_serializing_if = "Option::is_none")]
    pub bits: Option<i64>,
    /// Ports.
    #[serde(rename = "Ports")]
    pub ports: PortRange,
}

/// Ports, both ends included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRange {
    /// First port.
    #[serde(rename = "First")]
    pub first: u16,
    /// Last port.
    #[serde(rename = "Last")]
    pub last: u16,
}

/// Capabilities for the sources of a rule at these destinations.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CapGrant {
    /// Destinations.
    #[serde(
        rename = "Dsts",
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub dsts: Vec<IpNet>,
    /// Capabilities by name.
    #[serde(
        rename = "CapMap",
        default,
        deserialize_with = "cap_map",
        skip_serializing_if = "CapMap::is_empty"
    )]
    pub cap_map: CapMap,
}

fn cap_map<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<CapMap, D::Error> {
    Ok(super::node::optional_cap_map(deserializer)?.unwrap_or_default())
}
