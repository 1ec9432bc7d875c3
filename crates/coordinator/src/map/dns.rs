//! Names: MagicDNS under the base domain, and the reverse zones that are the mesh's own.

use std::collections::BTreeMap;

use sandd_control_client::wire::DnsConfig;

/// The reverse zones of 100.64.0.0/10 and fd7a:115c:a1e0::/48, answered by each node itself and never forwarded.
fn reverse_zones() -> impl Iterator<Item = String> {
    let v6 = std::iter::once("0.e.1.a.c.5.1.1.a.7.d.f.ip6.arpa".to_owned());
    v6.chain((64..=127).map(|octet| format!("{octet}.100.in-addr.arpa")))
}

/// DNS settings that every node gets.
pub(crate) fn dns_config(base_domain: &str) -> DnsConfig {
    DnsConfig {
        proxied: true,
        domains: vec![base_domain.to_owned()],
        routes: reverse_zones()
            .map(|zone| (zone, Vec::new()))
            .collect::<BTreeMap<_, _>>(),
        ..DnsConfig::default()
    }
}
