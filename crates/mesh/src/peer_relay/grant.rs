//! Who may use whose relay: capabilities of the packet filter.

use std::net::IpAddr;

use sandd_control_client::netmap::{FilterRule, FilterSrc, Node};

/// Held by a client on a server: it may ask for endpoints.
pub(crate) const RELAY: &str = "tailscale.com/cap/relay";
/// Held by a server on a client: the client may ask it. The coordinator adds it to the other.
pub(crate) const RELAY_TARGET: &str = "tailscale.com/cap/relay-target";
/// Attributes of the node itself that take the one or the other away.
pub(crate) const NO_SERVER: &str = "disable-relay-server";
pub(crate) const NO_CLIENT: &str = "disable-relay-client";

/// True when `node` holds this capability on us, whose addresses are `own`.
pub(crate) fn holds(node: &Node, capability: &str, own: &[IpAddr], rules: &[FilterRule]) -> bool {
    !node.expired
        && !node.jailed
        && rules
            .iter()
            .filter(|rule| grants(rule, capability, own))
            .any(|rule| from(rule, node))
}

/// The rule gives this capability on one of these addresses.
pub(crate) fn grants(rule: &FilterRule, capability: &str, own: &[IpAddr]) -> bool {
    rule.grants.iter().any(|grant| {
        grant.caps.contains_key(capability) && grant.dsts.iter().any(|dst| own.iter().any(|ip| dst.contains(ip)))
    })
}

fn from(rule: &FilterRule, node: &Node) -> bool {
    rule.src.iter().any(|src| match src {
        FilterSrc::Range(range) => node.ips().any(|ip| range.contains(ip)),
        FilterSrc::Capability(name) => node.cap_map.contains_key(name),
    })
}
