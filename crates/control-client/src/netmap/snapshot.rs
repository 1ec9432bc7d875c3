//! A map back into the wire's form, for the state file: a node that starts while the coordinator is away reads it as the
//! first message of a stream. Keeping the *current* map, not the last full message, is what lets it know a peer that came
//! later.

use std::sync::Arc;

use super::MapNode;
use super::network_map::{DerpRegion, FilterRule, FilterSrc, IpRange, NetworkMap, Node};
use crate::wire;

/// The message that leads to this map; nothing while there is no self node.
#[must_use]
pub fn to_wire(map: &NetworkMap) -> Option<wire::MapResponse<MapNode>> {
    let self_node = map.self_node.as_deref()?;
    Some(wire::MapResponse {
        node: Some(Box::new(node(self_node))),
        peers: map.peers.values().map(|peer| MapNode::from(Arc::clone(peer))).collect(),
        derp_map: Some(derp_map(map)),
        dns_config: serde_json::from_value(map.dns.raw.clone()).ok(),
        domain: map.domain.clone(),
        packet_filters: [("base".to_owned(), Some(map.filter.iter().map(rule).collect()))].into(),
        user_profiles: map
            .users
            .values()
            .map(|user| wire::UserProfile {
                id: user.id.0,
                login_name: user.login_name.clone(),
                display_name: user.display_name.clone(),
                ..wire::UserProfile::default()
            })
            .collect(),
        // Only the fact counts: the peers are withheld either way.
        tka_info: map.lock_enabled.then(|| serde_json::json!({ "Head": "unknown" })),
        ..wire::MapResponse::default()
    })
}

pub(super) fn node(node: &Node) -> wire::Node {
    wire::Node {
        id: node.id.0,
        stable_id: node.stable_id.clone(),
        name: node.name.clone(),
        user: node.user.0,
        key: Some(node.key),
        key_expiry: node.key_expiry,
        machine: node.machine,
        disco_key: node.disco_key,
        addresses: node.addresses.clone(),
        allowed_ips: Some(node.allowed_ips.clone()),
        endpoints: node.endpoints.clone(),
        home_derp: node.home_derp.map_or(0, |region| region.0.into()),
        hostinfo: Some(wire::Hostinfo {
            os: node.os.clone(),
            hostname: node.hostname.clone(),
            ..wire::Hostinfo::default()
        }),
        tags: node.tags.clone(),
        last_seen: node.last_seen,
        online: node.online,
        machine_authorized: node.machine_authorized,
        cap_map: node.cap_map.clone(),
        expired: node.expired,
        is_wireguard_only: node.wireguard_only,
        is_jailed: node.jailed,
        ..wire::Node::default()
    }
}

fn derp_map(map: &NetworkMap) -> wire::DerpMap {
    let regions = map
        .derp_map
        .regions
        .iter()
        .map(|(id, region)| (i64::from(id.0), derp_region(region)));
    let scores = map
        .derp_map
        .home_scores
        .iter()
        .map(|(id, score)| (i64::from(id.0), *score));
    wire::DerpMap {
        home_params: Some(wire::DerpHomeParams {
            region_score: Some(scores.collect()),
        }),
        regions: Some(regions.collect()),
        omit_default_regions: false,
    }
}

fn derp_region(region: &DerpRegion) -> wire::DerpRegion {
    wire::DerpRegion {
        region_id: region.id.0.into(),
        region_code: region.code.clone(),
        region_name: region.name.clone(),
        avoid: region.avoid,
        no_measure_no_home: region.no_measure_no_home,
        nodes: region
            .nodes
            .iter()
            .map(|node| wire::DerpNode {
                name: node.name.clone(),
                region_id: region.id.0.into(),
                host_name: node.host_name.clone(),
                cert_name: node.cert_name.clone(),
                ipv4: node.ipv4.clone(),
                ipv6: node.ipv6.clone(),
                stun_port: node.stun_port.map_or(-1, i64::from),
                stun_only: node.stun_only,
                derp_port: node.derp_port.into(),
                insecure_for_tests: node.insecure_for_tests,
                stun_test_ip: node.stun_test_ip.clone(),
                can_port_80: false,
            })
            .collect(),
    }
}

fn rule(rule: &FilterRule) -> wire::FilterRule {
    wire::FilterRule {
        src_ips: rule
            .src
            .iter()
            .map(|source| match source {
                FilterSrc::Range(range) => text(range),
                FilterSrc::Capability(name) => format!("cap:{name}"),
            })
            .collect(),
        src_bits: Vec::new(),
        dst_ports: rule
            .dst
            .iter()
            .map(|dst| wire::NetPortRange {
                ip: text(&dst.range),
                bits: None,
                ports: wire::PortRange {
                    first: dst.first_port,
                    last: dst.last_port,
                },
            })
            .collect(),
        ip_proto: rule.protocols.iter().map(|number| i64::from(*number)).collect(),
        cap_grant: rule
            .grants
            .iter()
            .map(|grant| wire::CapGrant {
                dsts: grant.dsts.clone(),
                cap_map: grant.caps.clone(),
            })
            .collect(),
    }
}

fn text(range: &IpRange) -> String {
    if range.first == range.last {
        range.first.to_string()
    } else {
        format!("{}-{}", range.first, range.last)
    }
}
