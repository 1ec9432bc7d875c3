//! The relay inside, as nodes are told of it: one region with one server.

use std::collections::BTreeMap;
use std::net::IpAddr;

use sandd_control_client::wire::{DerpMap, DerpNode, DerpRegion};

/// The region's number; 900 to 999 are for users, and Headscale's is the same.
const DERP_REGION: i64 = 999;

/// Where nodes reach the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RelayAddress {
    /// Name or address, as in the coordinator's own url.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// None = no STUN.
    pub(crate) stun_port: Option<u16>,
    /// SHA-256 of the certificate, when it is self-made; otherwise nodes verify it by name.
    pub(crate) certificate: Option<[u8; 32]>,
}

/// The map with this one relay.
///
/// The port serves DERP both over TLS, which real clients always use, and plainly, which our own nodes use when the
/// coordinator's url is plain http on that same host and port.
pub(crate) fn derp_map(relay: &RelayAddress) -> DerpMap {
    // A host that is an address stands for its family alone; a name is left to DNS.
    let literal = relay.host.parse::<IpAddr>().ok();
    let family = |mine: bool| match literal {
        None => String::new(),
        Some(address) if mine => address.to_string(),
        Some(_) => "none".to_owned(),
    };
    let node = DerpNode {
        name: DERP_REGION.to_string(),
        region_id: DERP_REGION,
        host_name: relay.host.clone(),
        cert_name: relay
            .certificate
            .map(|hash| format!("sha256-raw:{}", hex::encode(hash)))
            .unwrap_or_default(),
        ipv4: family(literal.is_some_and(|address| address.is_ipv4())),
        ipv6: family(literal.is_some_and(|address| address.is_ipv6())),
        stun_port: relay.stun_port.map_or(-1, i64::from),
        derp_port: i64::from(relay.port),
        ..DerpNode::default()
    };
    let region = DerpRegion {
        region_id: DERP_REGION,
        region_code: "sandd".to_owned(),
        region_name: "SandD relay".to_owned(),
        nodes: vec![node],
        ..DerpRegion::default()
    };
    DerpMap {
        regions: Some(BTreeMap::from([(DERP_REGION, region)])),
        omit_default_regions: true,
        ..DerpMap::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: &str, certificate: Option<[u8; 32]>) -> DerpNode {
        let map = derp_map(&RelayAddress {
            host: host.to_owned(),
            port: 8443,
            stun_port: None,
            certificate,
        });
        map.regions.unwrap()[&DERP_REGION].nodes[0].clone()
    }

    #[test]
    fn an_address_closes_the_other_family_and_a_name_leaves_both_to_dns() {
        let v4 = node("192.0.2.1", Some([0xab; 32]));
        assert_eq!((v4.ipv4.as_str(), v4.ipv6.as_str()), ("192.0.2.1", "none"));
        assert_eq!(v4.cert_name, format!("sha256-raw:{}", "ab".repeat(32)));
        assert_eq!((v4.derp_port, v4.stun_port), (8443, -1));
        let v6 = node("2001:db8::1", None);
        assert_eq!((v6.ipv4.as_str(), v6.ipv6.as_str()), ("none", "2001:db8::1"));
        let name = node("control.example", None);
        assert_eq!(
            (name.ipv4.as_str(), name.ipv6.as_str(), name.cert_name.as_str()),
            ("", "", "")
        );
    }
}
