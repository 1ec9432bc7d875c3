//! Relays as the coordinator lists them.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::lenient::{is_false, is_zero, list, nullable};

/// All regions; each part may be absent and then keeps its former value.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DerpMap {
    /// Factors for choosing a home.
    #[serde(rename = "HomeParams", default, skip_serializing_if = "Option::is_none")]
    pub home_params: Option<DerpHomeParams>,
    /// Regions by number; present, they replace all. A region that is `null` is dropped when read.
    #[serde(
        rename = "Regions",
        default,
        deserialize_with = "regions",
        skip_serializing_if = "Option::is_none"
    )]
    pub regions: Option<BTreeMap<i64, DerpRegion>>,
    /// The client's built-in regions are to be left out; we have none.
    #[serde(
        rename = "omitDefaultRegions",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_false"
    )]
    pub omit_default_regions: bool,
}

fn regions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BTreeMap<i64, DerpRegion>>, D::Error> {
    let raw = Option::<BTreeMap<i64, Option<DerpRegion>>>::deserialize(deserializer)?;
    Ok(raw.map(|regions| {
        regions
            .into_iter()
            .filter_map(|(id, region)| Some((id, region?)))
            .collect()
    }))
}

/// How to weigh latencies when choosing a home region.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DerpHomeParams {
    /// Factor by region; absent = keep, empty = none.
    #[serde(rename = "RegionScore", default, skip_serializing_if = "Option::is_none")]
    pub region_score: Option<BTreeMap<i64, f64>>,
}

/// One region.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "the names are the protocol's; Tailscale's `tailcfg` explains each"
)]
pub struct DerpRegion {
    #[serde(rename = "RegionID", default)]
    pub region_id: i64,
    #[serde(rename = "RegionCode", default, deserialize_with = "nullable")]
    pub region_code: String,
    #[serde(rename = "RegionName", default, deserialize_with = "nullable")]
    pub region_name: String,
    #[serde(
        rename = "Avoid",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_false"
    )]
    pub avoid: bool,
    #[serde(
        rename = "NoMeasureNoHome",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_false"
    )]
    pub no_measure_no_home: bool,
    #[serde(rename = "Nodes", default, deserialize_with = "list")]
    pub nodes: Vec<DerpNode>,
}

/// One relay server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "the names are the protocol's; Tailscale's `tailcfg` explains each"
)]
pub struct DerpNode {
    #[serde(rename = "Name", default, deserialize_with = "nullable")]
    pub name: String,
    #[serde(rename = "RegionID", default)]
    pub region_id: i64,
    #[serde(rename = "HostName", default, deserialize_with = "nullable")]
    pub host_name: String,
    #[serde(
        rename = "CertName",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub cert_name: String,
    #[serde(
        rename = "IPv4",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub ipv4: String,
    #[serde(
        rename = "IPv6",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub ipv6: String,
    /// 0 = 3478, -1 = none.
    #[serde(
        rename = "STUNPort",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_zero"
    )]
    pub stun_port: i64,
    #[serde(
        rename = "STUNOnly",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_false"
    )]
    pub stun_only: bool,
    /// 0 = 443.
    #[serde(
        rename = "DERPPort",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_zero"
    )]
    pub derp_port: i64,
    #[serde(
        rename = "InsecureForTests",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_false"
    )]
    pub insecure_for_tests: bool,
    #[serde(
        rename = "STUNTestIP",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub stun_test_ip: String,
    #[serde(
        rename = "CanPort80",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_false"
    )]
    pub can_port_80: bool,
}
