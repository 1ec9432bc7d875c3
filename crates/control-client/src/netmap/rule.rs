//! Packet rules from the wire. A part that cannot be read is left out, which only ever lets in less.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::network_map::{CapGrant, FilterDst, FilterRule, FilterSrc, IpRange};
use crate::wire;

const TCP_UDP_AND_ICMP: [u8; 4] = [6, 17, 1, 58];

/// The rules that can be used.
pub(super) fn rules(wire: &[wire::FilterRule]) -> Vec<FilterRule> {
    wire.iter().filter_map(rule).collect()
}

fn rule(wire: &wire::FilterRule) -> Option<FilterRule> {
    if !wire.src_bits.is_empty() {
        tracing::warn!("leaving out a packet rule in a form that is no longer in use");
        return None;
    }
    let src: Vec<FilterSrc> = wire.src_ips.iter().flat_map(|text| source(text)).collect();
    let dst: Vec<FilterDst> = wire.dst_ports.iter().flat_map(destination).collect();
    let protocols = if wire.ip_proto.is_empty() {
        TCP_UDP_AND_ICMP.to_vec()
    } else {
        wire.ip_proto
            .iter()
            .filter_map(|number| u8::try_from(*number).ok())
            .collect()
    };
    let grants: Vec<CapGrant> = wire
        .cap_grant
        .iter()
        .map(|grant| CapGrant {
            dsts: grant.dsts.clone(),
            caps: grant.cap_map.clone(),
        })
        .collect();
    let useless = src.is_empty() || protocols.is_empty() || (dst.is_empty() && grants.is_empty());
    (!useless).then_some(FilterRule {
        src,
        dst,
        protocols,
        grants,
    })
}

fn source(text: &str) -> Vec<FilterSrc> {
    match text.strip_prefix("cap:") {
        Some(name) if !name.is_empty() => vec![FilterSrc::Capability(name.to_owned())],
        Some(_) => Vec::new(),
        None => ranges(text).into_iter().map(FilterSrc::Range).collect(),
    }
}

fn destination(wire: &wire::NetPortRange) -> Vec<FilterDst> {
    if wire.bits.is_some() || wire.ports.first > wire.ports.last {
        return Vec::new();
    }
    let with_ports = |range| FilterDst {
        range,
        first_port: wire.ports.first,
        last_port: wire.ports.last,
    };
    ranges(&wire.ip).into_iter().map(with_ports).collect()
}

/// An address, a network without host bits, a range of one family, or `*` for both families whole.
fn ranges(text: &str) -> Vec<IpRange> {
    let range = if text == "*" {
        return vec![
            IpRange {
                first: Ipv4Addr::UNSPECIFIED.into(),
                last: Ipv4Addr::BROADCAST.into(),
            },
            IpRange {
                first: Ipv6Addr::UNSPECIFIED.into(),
                last: Ipv6Addr::from(u128::MAX).into(),
            },
        ];
    } else if let Some((first, last)) = text.split_once('-') {
        address_range(first, last)
    } else if text.contains('/') {
        let network = text.parse::<IpNet>().ok().filter(|net| net.addr() == net.network());
        network.map(|net| IpRange {
            first: net.network(),
            last: net.broadcast(),
        })
    } else {
        text.parse::<IpAddr>().ok().map(|ip| IpRange { first: ip, last: ip })
    };
    if range.is_none() {
        tracing::warn!(?text, "leaving out an address of a packet rule that cannot be read");
    }
    range.into_iter().collect()
}

fn address_range(first: &str, last: &str) -> Option<IpRange> {
    let (first, last): (IpAddr, IpAddr) = (first.parse().ok()?, last.parse().ok()?);
    (first.is_ipv4() == last.is_ipv4() && first <= last).then_some(IpRange { first, last })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(json: &str) -> Vec<FilterRule> {
        rules(&serde_json::from_str::<Vec<wire::FilterRule>>(json).unwrap())
    }

    #[test]
    fn every_form_of_address_is_read() {
        for (text, first, last) in [
            ("100.64.0.1", "100.64.0.1", "100.64.0.1"),
            ("10.33.0.0/24", "10.33.0.0", "10.33.0.255"),
            ("100.64.0.1-100.64.0.9", "100.64.0.1", "100.64.0.9"),
            (
                "fd7a:115c:a1e0::/48",
                "fd7a:115c:a1e0::",
                "fd7a:115c:a1e0:ffff:ffff:ffff:ffff:ffff",
            ),
        ] {
            let expected = IpRange {
                first: first.parse().unwrap(),
                last: last.parse().unwrap(),
            };
            assert_eq!(ranges(text), [expected], "{text}");
        }
        assert_eq!(ranges("*").len(), 2);
        assert!(ranges("*")[1].contains("2001:db8::1".parse().unwrap()));
        assert!(ranges("*")[1].contains("ffff::1".parse().unwrap()));
        for bad in [
            "10.0.0.1/24",
            "10.0.0.9-10.0.0.1",
            "10.0.0.1-fd7a::1",
            "x",
            "",
            "1.2.3.4/33",
        ] {
            assert_eq!(ranges(bad), [], "{bad}");
        }
    }

    #[test]
    fn defaults_bad_parts_and_grants() {
        let rules = parse(
            r#"[{"SrcIPs":["*","nonsense","cap:x"],"DstPorts":[{"IP":"100.64.0.4","Ports":{"First":22,"Last":22}},
                {"IP":"100.64.0.4","Ports":{"First":9,"Last":1}},{"IP":"1.2.3.4","Bits":8,"Ports":{"First":1,"Last":1}}]},
              {"SrcIPs":["1.1.1.1"],"SrcBits":[8],"DstPorts":[{"IP":"*","Ports":{"First":0,"Last":65535}}]},
              {"SrcIPs":["nonsense"],"DstPorts":[{"IP":"*","Ports":{"First":0,"Last":65535}}]},
              {"SrcIPs":["*"],"IPProto":[300,-1],"DstPorts":[{"IP":"*","Ports":{"First":0,"Last":65535}}]},
              {"SrcIPs":["*"],"IPProto":[6,300],"DstPorts":[{"IP":"1.1.1.1","Ports":{"First":0,"Last":65535}}]},
              {"SrcIPs":["100.64.0.1"],"CapGrant":[{"Dsts":["100.64.0.4/32"],"CapMap":{"a/b":[{"a":1}],"c":null}}]},
              {"SrcIPs":["100.64.0.1"]}]"#,
        );
        assert_eq!(rules.len(), 3);
        assert_eq!(rules[0].src.len(), 3);
        assert_eq!(rules[0].dst.len(), 1);
        assert_eq!(rules[0].protocols, [6, 17, 1, 58]);
        assert_eq!(rules[1].protocols, [6]);
        assert!(rules[2].dst.is_empty());
        assert_eq!(rules[2].grants[0].caps.len(), 2);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,50}", first: u16, last: u16) {
            let _ = source(&text);
            let ports = wire::PortRange { first, last };
            let _ = destination(&wire::NetPortRange { ip: text, bits: None, ports });
        }
    }
}
