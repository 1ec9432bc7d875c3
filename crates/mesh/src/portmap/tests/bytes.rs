//! Codecs: the layouts of the RFCs byte by byte, and whatever else may come.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use crate::portmap::{Place, nat_pmp, pcp, ssdp, xml};

fn place() -> Place {
    Place::new([192, 168, 1, 1].into(), [192, 168, 1, 2].into(), 41_641).unwrap()
}

#[test]
fn a_place_is_private_on_both_sides() {
    let (private, public): (Ipv4Addr, Ipv4Addr) = ([10, 0, 0, 1].into(), [203, 0, 113, 1].into());
    assert!(Place::new(private, private, 1).is_some());
    assert!(Place::new(public, private, 1).is_none());
    assert!(Place::new(private, public, 1).is_none());
    assert!(Place::new(private, [100, 64, 0, 1].into(), 1).is_none());
}

#[test]
fn nat_pmp_as_in_rfc_6886() {
    assert_eq!(nat_pmp::ADDRESS_REQUEST, [0, 0]);
    let request = nat_pmp::map_request(41_641, 0x1234, 7_200);
    assert_eq!(request, [0, 1, 0, 0, 0xa2, 0xa9, 0x12, 0x34, 0, 0, 0x1c, 0x20]);
    assert_eq!(
        nat_pmp::delete_request(41_641),
        [0, 1, 0, 0, 0xa2, 0xa9, 0, 0, 0, 0, 0, 0]
    );
    let address = [0, 0x80, 0, 0, 0, 0, 0, 9, 203, 0, 113, 7];
    assert_eq!(
        nat_pmp::parse(&address),
        Some(nat_pmp::Response::Address {
            epoch: 9,
            address: [203, 0, 113, 7].into()
        })
    );
    let mapped = [0, 0x81, 0, 0, 0, 0, 1, 0, 0xa2, 0xa9, 0x12, 0x34, 0, 0, 0x0e, 0x10];
    assert_eq!(
        nat_pmp::parse(&mapped),
        Some(nat_pmp::Response::Mapped {
            epoch: 256,
            internal: 41_641,
            external: 0x1234,
            lifetime: 3_600
        })
    );
    let refused = [0, 0x81, 0, 2, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(
        nat_pmp::parse(&refused),
        Some(nat_pmp::Response::Refused {
            mapping: true,
            result: 2
        })
    );
    for len in 0..mapped.len() {
        assert_eq!(nat_pmp::parse(&mapped[..len]), None, "{len}");
    }
    assert_eq!(nat_pmp::parse(&[0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None, "a request");
}

#[test]
fn pcp_as_in_rfc_6887() {
    let own = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 168, 1, 2];
    let announce = pcp::announce_request(place().own);
    assert_eq!(announce[..8], [2, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(announce[8..], own);
    let request = pcp::map_request(&place(), &[7; 12], 0x1234, 7_200);
    assert_eq!(request[..8], [2, 1, 0, 0, 0, 0, 0x1c, 0x20]);
    assert_eq!(request[8..24], own);
    assert_eq!(request[24..36], [7; 12]);
    assert_eq!(request[36..44], [17, 0, 0, 0, 0xa2, 0xa9, 0x12, 0x34]);
    assert_eq!(request[44..], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0]);

    let mut mapped = request;
    mapped[1] = 0x81;
    mapped[8..24].copy_from_slice(&[0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    mapped[56..].copy_from_slice(&[203, 0, 113, 7]);
    let expected = pcp::Response::Mapped {
        epoch: 5,
        nonce: [7; 12],
        internal: 41_641,
        external: 0x1234,
        address: [203, 0, 113, 7].into(),
        lifetime: 7_200,
    };
    assert_eq!(pcp::parse(&mapped), Some(expected));
    for len in 0..mapped.len() {
        assert_eq!(pcp::parse(&mapped[..len]), None, "{len}");
    }
    mapped[3] = 12;
    assert_eq!(
        pcp::parse(&mapped),
        Some(pcp::Response::Refused {
            mapping: true,
            result: 12
        })
    );
    assert_eq!(pcp::parse(&request), None, "a request");
}

#[test]
fn ssdp_answers_are_read_and_their_host_is_not_heeded() {
    let answer = |location: &str, target: &str| {
        let text = format!(
            "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: {target}\r\nEXT:\r\nlocation: {location}\r\n\r\n"
        );
        ssdp::parse(text.as_bytes())
    };
    let first = "urn:schemas-upnp-org:device:InternetGatewayDevice:1";
    let found = answer("http://198.51.100.66:5000/rootDesc.xml", first).unwrap();
    assert_eq!(
        (found.description.port, found.description.path.as_str()),
        (5_000, "/rootDesc.xml")
    );
    assert!(!found.second_version);
    let second = "urn:schemas-upnp-org:device:InternetGatewayDevice:2";
    let found = answer("http://192.168.1.1", second).unwrap();
    assert_eq!((found.description.port, found.description.path.as_str()), (80, "/"));
    assert!(found.second_version);
    assert_eq!(answer("https://192.168.1.1/x", first), None);
    assert_eq!(answer("http://192.168.1.1:0/x", first), None);
    assert_eq!(answer("http://192.168.1.1:99999/x", first), None);
    assert_eq!(answer("http://192.168.1.1/a b", first), None);
    assert_eq!(answer("http://192.168.1.1/x", "upnp:rootdevice"), None);
    assert_eq!(ssdp::parse(b"NOTIFY * HTTP/1.1\r\nLOCATION: http://a/b\r\n\r\n"), None);
    for (_, search) in ssdp::searches(place().gateway) {
        assert!(search.starts_with("M-SEARCH * HTTP/1.1\r\n") && search.ends_with("\r\n\r\n"));
    }
}

#[test]
fn xml_leaves_are_found_and_their_texts_unescaped() {
    let text = "<?xml version='1.0'?><!-- <a>x</a> --><s:a q='1'><b> 1 &amp;lt; &lt;2 </b><c/><u:d>x</u:d></s:a>";
    assert_eq!(xml::leaf(text, "b").unwrap(), "1 &lt; <2");
    assert_eq!(xml::leaf(text, "c").unwrap(), "");
    assert_eq!(xml::leaf(text, "d").unwrap(), "x");
    assert_eq!(xml::leaf(text, "a"), None, "it has children");
    assert_eq!(xml::leaf("<a>1", "a"), None);
}

proptest! {
    #[test]
    fn nothing_makes_them_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[<>/!a-c&;: -]{0,80}") {
        let _ = nat_pmp::parse(&bytes);
        let _ = pcp::parse(&bytes);
        let _ = ssdp::parse(&bytes);
        let _ = ssdp::parse(text.as_bytes());
        prop_assert!(xml::pieces(&text).count() <= text.len());
    }

    #[test]
    fn nat_pmp_mappings_survive_the_wire(epoch: u32, internal: u16, external: u16, lifetime: u32) {
        let mut bytes = vec![0, 0x81, 0, 0];
        bytes.extend(epoch.to_be_bytes());
        bytes.extend(&nat_pmp::map_request(internal, external, lifetime)[4..]);
        prop_assert_eq!(nat_pmp::parse(&bytes), Some(nat_pmp::Response::Mapped { epoch, internal, external, lifetime }));
    }

    #[test]
    fn pcp_mappings_survive_the_wire(epoch: u32, port: u16, nonce: [u8; 12], external: u16, lifetime: u32, ip: u32) {
        let place = Place { port, ..place() };
        let mut bytes = pcp::map_request(&place, &nonce, external, lifetime);
        bytes[1] = 0x81;
        bytes[8..12].copy_from_slice(&epoch.to_be_bytes());
        bytes[56..].copy_from_slice(&ip.to_be_bytes());
        let address = Ipv4Addr::from(ip);
        let expected = pcp::Response::Mapped { epoch, nonce, internal: port, external, address, lifetime };
        prop_assert_eq!(pcp::parse(&bytes), Some(expected));
    }
}
