//! From the wire's nodes, relays and names to ours: sentinels become `None`, what cannot be used is left out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::network_map::{
    DerpMap, DerpNode, DerpRegion, DnsConfig, DnsRecord, Node, NodeId, RegionId, UserId, UserProfile,
};
use crate::keys::{DiscoPublicKey, MachinePublicKey};
use crate::wire;

/// More candidates than this are noise.
const MAX_ENDPOINTS: usize = 64;
const MAX_TEXT: usize = 256;

/// A text from elsewhere that may end up in a log or a terminal.
pub(super) fn clean(text: &str) -> String {
    let mut text: String = text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect();
    text.shrink_to_fit();
    text
}

fn host_name(text: &str) -> String {
    clean(text.trim_end_matches('.')).to_ascii_lowercase()
}

/// Go's zero time, and whatever else lies before 1970, means "none".
pub(super) fn real_time(time: Option<SystemTime>) -> Option<SystemTime> {
    time.filter(|time| *time > UNIX_EPOCH + Duration::from_secs(1))
}

pub(super) fn region_id(number: i64) -> Option<RegionId> {
    u16::try_from(number).ok().filter(|id| *id != 0).map(RegionId)
}

/// `127.3.3.40:N` is how region N used to be written.
fn legacy_region(text: &str) -> Option<RegionId> {
    region_id(text.strip_prefix("127.3.3.40:")?.parse().ok()?)
}

/// A usable node, or nothing when it has no key.
pub(super) fn node(wire: wire::Node) -> Option<Node> {
    let key = wire.key?.non_zero()?;
    // A list that was read one by one has room for more; there may be thousands of nodes.
    let mut addresses = wire.addresses;
    addresses.shrink_to_fit();
    let mut allowed_ips = match wire.allowed_ips {
        Some(allowed) if !wire.unsigned_peer_api_only => allowed,
        _ => addresses.clone(),
    };
    allowed_ips.shrink_to_fit();
    let mut cap_map = wire.cap_map;
    for capability in wire.capabilities {
        cap_map.entry(capability).or_default();
    }
    let (os, hostname) = wire
        .hostinfo
        .map(|info| (clean(&info.os), clean(&info.hostname)))
        .unwrap_or_default();
    Some(Node {
        id: NodeId(wire.id),
        stable_id: clean(&wire.stable_id),
        name: host_name(&wire.name),
        user: UserId(wire.user),
        key,
        key_expiry: real_time(wire.key_expiry),
        expired: wire.expired,
        machine: wire.machine.and_then(MachinePublicKey::non_zero),
        disco_key: wire.disco_key.and_then(DiscoPublicKey::non_zero),
        addresses,
        allowed_ips,
        endpoints: endpoints(wire.endpoints),
        home_derp: region_id(wire.home_derp).or_else(|| legacy_region(&wire.legacy_derp)),
        os,
        hostname,
        tags: wire.tags.iter().map(|tag| clean(tag)).collect(),
        online: wire.online,
        last_seen: real_time(wire.last_seen),
        wireguard_only: wire.is_wireguard_only,
        jailed: wire.is_jailed || wire.unsigned_peer_api_only,
        cap_map,
        machine_authorized: wire.machine_authorized,
    })
}

pub(super) fn endpoints(mut endpoints: Vec<std::net::SocketAddr>) -> Vec<std::net::SocketAddr> {
    endpoints
        .retain(|endpoint| endpoint.port() != 0 && !endpoint.ip().is_unspecified() && !endpoint.ip().is_multicast());
    endpoints.truncate(MAX_ENDPOINTS);
    endpoints.shrink_to_fit();
    endpoints
}

/// Absent parts keep what `known` has.
pub(super) fn derp_map(known: &DerpMap, wire: wire::DerpMap) -> DerpMap {
    let regions = match wire.regions {
        Some(regions) => regions
            .into_iter()
            .filter_map(|(id, region)| derp_region(id, region))
            .collect(),
        None => known.regions.clone(),
    };
    let home_scores = match wire.home_params.and_then(|params| params.region_score) {
        Some(scores) => scores
            .into_iter()
            .filter(|(_, score)| *score > 0.0)
            .filter_map(|(id, score)| Some((region_id(id)?, score)))
            .collect(),
        None => known.home_scores.clone(),
    };
    DerpMap { regions, home_scores }
}

fn derp_region(id: i64, wire: wire::DerpRegion) -> Option<(RegionId, Arc<DerpRegion>)> {
    let id = region_id(id)?;
    let region = DerpRegion {
        id,
        code: clean(&wire.region_code),
        name: clean(&wire.region_name),
        no_measure_no_home: wire.no_measure_no_home,
        avoid: wire.avoid,
        nodes: wire.nodes.into_iter().filter_map(derp_node).collect(),
    };
    Some((id, Arc::new(region)))
}

fn derp_node(wire: wire::DerpNode) -> Option<DerpNode> {
    let derp_port = if wire.derp_port == 0 {
        443
    } else {
        u16::try_from(wire.derp_port).ok()?
    };
    let stun_port = match wire.stun_port {
        0 => Some(3478),
        port => u16::try_from(port).ok(),
    };
    Some(DerpNode {
        name: clean(&wire.name),
        host_name: clean(&wire.host_name),
        cert_name: clean(&wire.cert_name),
        ipv4: clean(&wire.ipv4),
        ipv6: clean(&wire.ipv6),
        derp_port,
        stun_port,
        stun_only: wire.stun_only,
        insecure_for_tests: wire.insecure_for_tests,
        stun_test_ip: clean(&wire.stun_test_ip),
    })
}

pub(super) fn dns_config(wire: &wire::DnsConfig) -> DnsConfig {
    DnsConfig {
        magic_dns: wire.proxied,
        domains: wire.domains.iter().map(|domain| host_name(domain)).collect(),
        extra_records: wire.extra_records.iter().filter_map(dns_record).collect(),
        raw: serde_json::to_value(wire).unwrap_or_default(),
    }
}

fn dns_record(wire: &wire::DnsRecord) -> Option<DnsRecord> {
    let value: IpAddr = wire.value.parse().ok()?;
    let fits = match wire.kind.as_str() {
        "" => true,
        "A" => value.is_ipv4(),
        "AAAA" => value.is_ipv6(),
        _ => false,
    };
    fits.then(|| DnsRecord {
        name: host_name(&wire.name),
        value,
    })
}

pub(super) fn user(wire: wire::UserProfile) -> UserProfile {
    UserProfile {
        id: UserId(wire.id),
        login_name: clean(&wire.login_name),
        display_name: clean(&wire.display_name),
    }
}

/// Health texts and messages for people as one list.
pub(super) fn problems(health: &[String], messages: &BTreeMap<String, wire::DisplayMessage>) -> Vec<String> {
    let shown = messages
        .values()
        .map(|message| format!("{}: {}", message.title, message.text));
    health.iter().cloned().chain(shown).map(|text| clean(&text)).collect()
}
