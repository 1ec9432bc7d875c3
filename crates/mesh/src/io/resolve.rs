//! Addresses of the STUN servers that a relay map names, through literals first and the system's DNS else.

use std::net::IpAddr;
use std::sync::Arc;

use sandd_control_client::netmap::{DerpMap, DerpNode};

use crate::netcheck::StunServer;

/// Addresses of all regions' STUN servers. Literals cost nothing; names ask the system, all at the same time.
pub(crate) async fn stun_servers(map: Arc<DerpMap>) -> Vec<StunServer> {
    let mut servers = Vec::new();
    let mut lookups = tokio::task::JoinSet::new();
    for (id, region) in map.regions.iter().filter(|(_, region)| !region.no_measure_no_home) {
        for node in &region.nodes {
            let Some(port) = node.stun_port else { continue };
            let literals = literals(node);
            if literals.needs_dns {
                let (host, region) = (node.host_name.clone(), *id);
                lookups.spawn(async move { (region, port, lookup(host, port).await) });
            }
            servers.extend(literals.found.into_iter().map(|ip| StunServer {
                region: *id,
                addr: (ip, port).into(),
            }));
        }
    }
    while let Some(found) = lookups.join_next().await {
        let Ok((region, port, ips)) = found else { continue };
        servers.extend(ips.into_iter().map(|ip| StunServer {
            region,
            addr: (ip, port).into(),
        }));
    }
    servers.dedup();
    servers
}

struct Literals {
    found: Vec<IpAddr>,
    needs_dns: bool,
}

/// The node's literal addresses. A text that is no address, such as `none`, turns its family off; an empty one asks DNS.
fn literals(node: &DerpNode) -> Literals {
    let test: Option<IpAddr> = node.stun_test_ip.parse().ok();
    if let Some(ip) = test {
        return Literals {
            found: vec![ip],
            needs_dns: false,
        };
    }
    let host: Option<IpAddr> = node.host_name.parse().ok();
    let given = [&node.ipv4, &node.ipv6];
    let mut found: Vec<IpAddr> = given.iter().filter_map(|text| text.parse().ok()).collect();
    if found.is_empty() {
        found.extend(host);
    }
    let needs_dns = found.is_empty() && given.iter().any(|text| text.is_empty());
    Literals { found, needs_dns }
}

async fn lookup(host: String, port: u16) -> Vec<IpAddr> {
    let found = tokio::net::lookup_host((host.as_str(), port)).await;
    let mut ips: Vec<_> = found
        .map(|addrs| addrs.map(|addr| addr.ip()).collect())
        .unwrap_or_default();
    ips.sort();
    ips.dedup();
    // One of each family is enough.
    let v4 = ips.iter().find(|ip| ip.is_ipv4()).copied();
    let v6 = ips.iter().find(|ip| ip.is_ipv6()).copied();
    [v4, v6].into_iter().flatten().collect()
}
