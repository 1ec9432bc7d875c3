//! Names as the coordinator gives them.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::lenient::{List, is_false, list, nullable};

/// DNS settings of the tailnet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "the names are the protocol's; Tailscale's `tailcfg` explains each"
)]
pub struct DnsConfig {
    #[serde(
        rename = "Resolvers",
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub resolvers: Vec<Resolver>,
    #[serde(
        rename = "Routes",
        default,
        deserialize_with = "routes",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub routes: BTreeMap<String, Vec<Resolver>>,
    #[serde(
        rename = "FallbackResolvers",
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub fallback_resolvers: Vec<Resolver>,
    #[serde(
        rename = "Domains",
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub domains: Vec<String>,
    #[serde(
        rename = "Proxied",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_false"
    )]
    pub proxied: bool,
    #[serde(
        rename = "CertDomains",
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub cert_domains: Vec<String>,
    #[serde(
        rename = "ExtraRecords",
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub extra_records: Vec<DnsRecord>,
    #[serde(
        rename = "ExitNodeFilteredSet",
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub exit_node_filtered_set: Vec<String>,
}

fn routes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, Vec<Resolver>>, D::Error> {
    let raw = Option::<BTreeMap<String, List<Resolver>>>::deserialize(deserializer)?.unwrap_or_default();
    Ok(raw
        .into_iter()
        .map(|(suffix, resolvers)| (suffix, resolvers.0))
        .collect())
}

/// An upstream resolver.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "the names are the protocol's; Tailscale's `tailcfg` explains each"
)]
pub struct Resolver {
    #[serde(
        rename = "Addr",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub addr: String,
    #[serde(
        rename = "BootstrapResolution",
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub bootstrap_resolution: Vec<String>,
    #[serde(
        rename = "UseWithExitNode",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_false"
    )]
    pub use_with_exit_node: bool,
}

/// A record that the coordinator adds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "the names are the protocol's; Tailscale's `tailcfg` explains each"
)]
pub struct DnsRecord {
    #[serde(rename = "Name", default)]
    pub name: String,
    #[serde(
        rename = "Type",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub kind: String,
    #[serde(rename = "Value", default)]
    pub value: String,
}
