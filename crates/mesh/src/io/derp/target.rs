//! [`Target`]: one relay server as it is dialled: address, how it proves itself, and what it is asked.

use std::net::IpAddr;

use sandd_control_client::ControlUrl;
use sandd_control_client::dial::{DialTarget, TlsMode};
use sandd_control_client::netmap::{DerpNode, DerpRegion};

const PIN: &str = "sha256-raw:";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// Host and port, by which it is remembered.
    pub(super) server: String,
    pub(super) dial: DialTarget,
    /// As URLs and the Host header name it: a usual port is left out.
    authority: String,
    ideal_node: String,
}

impl Target {
    /// The request that turns HTTP into DERP; with `fast_start` the server answers with frames alone.
    pub(super) fn request(&self, fast_start: bool) -> String {
        let fast_start = if fast_start { "Derp-Fast-Start: 1\r\n" } else { "" };
        let Self {
            authority, ideal_node, ..
        } = self;
        format!(
            "GET /derp HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: DERP\r\n{ideal_node}{fast_start}\r\n"
        )
    }

    /// How it is dialled.
    pub(crate) fn dial(&self) -> &DialTarget {
        &self.dial
    }

    /// The request that is answered at once, to measure the time.
    pub(crate) fn probe_request(&self) -> String {
        format!(
            "GET /derp/probe HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.authority
        )
    }

    /// What a WebSocket is asked for.
    pub(super) fn websocket_url(&self) -> String {
        let scheme = if self.dial.tls.is_some() { "wss" } else { "ws" };
        format!("{scheme}://{}/derp", self.authority)
    }
}

/// The servers of a region in the order in which they are tried. What cannot be dialled is left out.
pub(crate) fn targets(region: &DerpRegion, control: &ControlUrl) -> Vec<Target> {
    let ideal = region.nodes.first();
    let nodes = region.nodes.iter().filter(|node| !node.stun_only);
    nodes
        .filter_map(|node| target(node, ideal.filter(|first| first.name != node.name), control))
        .collect()
}

fn target(node: &DerpNode, ideal: Option<&DerpNode>, control: &ControlUrl) -> Option<Target> {
    let plain_text = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if !plain_text(&node.host_name) {
        return None;
    }
    let literals: Vec<IpAddr> = [&node.ipv4, &node.ipv6]
        .into_iter()
        .filter_map(|text| text.parse().ok())
        .collect();
    // A coordinator elsewhere must not send us to ourselves (S-22).
    let control_is_here = is_host_local(control.host());
    let elsewhere = |host: &str| control_is_here || !is_host_local(host);
    let literals_ok = literals.iter().all(|ip| elsewhere(&ip.to_string()));
    if !literals_ok || (literals.is_empty() && !elsewhere(&node.host_name)) {
        tracing::warn!(relay = %node.name.escape_debug(), "a relay at a loopback or link-local address is not dialled");
        return None;
    }
    // A text that is no address switches its family off; with both off there is nothing to dial.
    if literals.is_empty() && !node.ipv4.is_empty() && !node.ipv6.is_empty() {
        return None;
    }
    // Plain HTTP only where control itself is plain HTTP on the very same host and port.
    let plain = control.is_plain_http() && control.matches(&node.host_name, node.derp_port);
    let tls = if plain { None } else { Some(tls_mode(node)?) };
    let bracketed = if node.host_name.parse::<std::net::Ipv6Addr>().is_ok() {
        format!("[{}]", node.host_name)
    } else {
        node.host_name.clone()
    };
    let port = if node.derp_port == 443 {
        String::new()
    } else {
        format!(":{}", node.derp_port)
    };
    let ideal = ideal.filter(|first| plain_text(&first.name));
    let ideal = ideal
        .map(|first| format!("Ideal-Node: {}\r\n", first.name))
        .unwrap_or_default();
    Some(Target {
        server: format!("{bracketed}:{}", node.derp_port),
        dial: DialTarget {
            host: node.host_name.clone(),
            port: node.derp_port,
            addresses: literals,
            tls,
        },
        authority: format!("{bracketed}{port}"),
        ideal_node: ideal,
    })
}

/// A name or address that means this host or its link alone.
fn is_host_local(host: &str) -> bool {
    match host.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_link_local() || ip.is_unspecified(),
        Ok(IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

/// How the server proves itself. A certificate hash that cannot be read must not fall back to something weaker.
fn tls_mode(node: &DerpNode) -> Option<TlsMode> {
    if let Some(digits) = node.cert_name.strip_prefix(PIN) {
        let mut sha256 = [0u8; 32];
        hex::decode_to_slice(digits, &mut sha256).ok()?;
        let name = node
            .host_name
            .parse::<IpAddr>()
            .is_err()
            .then(|| node.host_name.clone());
        return Some(TlsMode::Pin { sha256, name });
    }
    let name = if node.cert_name.is_empty() {
        &node.host_name
    } else {
        &node.cert_name
    };
    Some(TlsMode::Verify { name: name.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandd_control_client::netmap::RegionId;

    fn node() -> DerpNode {
        DerpNode {
            name: "1a".to_owned(),
            host_name: "derp.example.com".to_owned(),
            cert_name: String::new(),
            ipv4: String::new(),
            ipv6: String::new(),
            derp_port: 443,
            stun_port: Some(3478),
            stun_only: false,
            insecure_for_tests: false,
            stun_test_ip: String::new(),
        }
    }

    fn region(nodes: Vec<DerpNode>) -> DerpRegion {
        DerpRegion {
            id: RegionId(1),
            code: "r1".to_owned(),
            name: "one".to_owned(),
            no_measure_no_home: false,
            avoid: false,
            nodes,
        }
    }

    fn control(text: &str) -> ControlUrl {
        ControlUrl::parse(text).unwrap()
    }

    fn one(node: DerpNode, url: &str) -> Option<Target> {
        targets(&region(vec![node]), &control(url)).pop()
    }

    #[test]
    fn plain_http_is_spoken_to_the_plain_coordinator_alone() {
        let at = |url: &str, port| {
            one(
                DerpNode {
                    derp_port: port,
                    ..node()
                },
                url,
            )
            .unwrap()
            .dial
            .tls
        };
        assert_eq!(at("http://derp.example.com", 80), None);
        let verified = Some(TlsMode::Verify {
            name: "derp.example.com".to_owned(),
        });
        assert_eq!(at("http://derp.example.com", 443), verified);
        assert_eq!(at("http://derp.example.com:8080", 80), verified);
        assert_eq!(at("http://other.example.com", 80), verified);
        assert_eq!(at("https://derp.example.com", 443), verified);
    }

    #[test]
    fn certificates_are_checked_as_the_map_says() {
        let mode = |cert_name: &str, host: &str| {
            let named = DerpNode {
                cert_name: cert_name.to_owned(),
                host_name: host.to_owned(),
                ..node()
            };
            one(named, "https://c").map(|target| target.dial.tls.unwrap())
        };
        assert_eq!(
            mode("cert.example", "d.example"),
            Some(TlsMode::Verify {
                name: "cert.example".to_owned()
            })
        );
        let pin = format!("sha256-raw:{}", "ab".repeat(32));
        let named = Some("d.example".to_owned());
        assert_eq!(
            mode(&pin, "d.example"),
            Some(TlsMode::Pin {
                sha256: [0xab; 32],
                name: named
            })
        );
        assert_eq!(
            mode(&pin, "192.0.2.1"),
            Some(TlsMode::Pin {
                sha256: [0xab; 32],
                name: None
            })
        );
        assert_eq!(
            mode("sha256-raw:nonsense", "d.example"),
            None,
            "no weaker check instead"
        );
        let tests = DerpNode {
            insecure_for_tests: true,
            ..node()
        };
        assert!(
            matches!(one(tests, "https://c").unwrap().dial.tls, Some(TlsMode::Verify { .. })),
            "S-21"
        );
    }

    #[test]
    fn a_coordinator_elsewhere_cannot_send_us_to_ourselves() {
        for (host, ipv4) in [
            ("derp.example.com", "127.0.0.1"),
            ("derp.example.com", "169.254.169.254"),
            ("localhost", ""),
            ("[::1]", ""),
        ] {
            let relay = DerpNode {
                host_name: host.trim_matches(['[', ']']).to_owned(),
                ipv4: ipv4.to_owned(),
                ..node()
            };
            assert_eq!(one(relay.clone(), "https://control.example.com"), None, "{host} {ipv4}");
            assert!(one(relay, "http://127.0.0.1:8080").is_some(), "{host} {ipv4}");
        }
    }

    #[test]
    fn servers_are_tried_in_order_without_those_for_stun() {
        let named = |name: &str, stun_only| DerpNode {
            name: name.to_owned(),
            host_name: format!("{name}.example.com"),
            stun_only,
            ..node()
        };
        let all = region(vec![named("1a", false), named("1b", true), named("1c", false)]);
        let targets = targets(&all, &control("https://c"));
        assert_eq!(
            targets.iter().map(|target| target.server.as_str()).collect::<Vec<_>>(),
            ["1a.example.com:443", "1c.example.com:443"]
        );
        assert!(!targets[0].request(false).contains("Ideal-Node"));
        assert!(targets[1].request(false).contains("\r\nIdeal-Node: 1a\r\n"));
    }

    #[test]
    fn the_request_names_a_port_that_is_not_usual() {
        let target = one(
            DerpNode {
                derp_port: 8443,
                host_name: "2001:db8::1".to_owned(),
                ..node()
            },
            "https://c",
        )
        .unwrap();
        assert_eq!(
            target.request(true),
            "GET /derp HTTP/1.1\r\nHost: [2001:db8::1]:8443\r\nConnection: Upgrade\r\nUpgrade: DERP\r\nDerp-Fast-Start: 1\r\n\r\n"
        );
        assert_eq!(target.websocket_url(), "wss://[2001:db8::1]:8443/derp");
        assert!(
            one(node(), "https://c")
                .unwrap()
                .request(false)
                .contains("\r\nHost: derp.example.com\r\n")
        );
    }

    #[test]
    fn addresses_of_the_map_are_used_instead_of_dns() {
        let at = |v4: &str, v6: &str| {
            one(
                DerpNode {
                    ipv4: v4.to_owned(),
                    ipv6: v6.to_owned(),
                    ..node()
                },
                "https://c",
            )
            .map(|target| target.dial.addresses.len())
        };
        assert_eq!(at("", ""), Some(0));
        assert_eq!(at("192.0.2.1", ""), Some(1));
        assert_eq!(at("192.0.2.1", "2001:db8::1"), Some(2));
        assert_eq!(at("none", "2001:db8::1"), Some(1));
        assert_eq!(at("none", "none"), None);
    }

    #[test]
    fn a_host_name_cannot_smuggle_header_lines() {
        let evil = DerpNode {
            host_name: "a\r\nX: y".to_owned(),
            ..node()
        };
        assert_eq!(one(evil, "https://c"), None);
    }
}
