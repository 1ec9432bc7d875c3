//! The JSON's traps, one by one, and that both directions agree.

use proptest::prelude::*;

use super::*;

const REAL: &str = include_str!("../../testdata/map-response.json");

fn parse(json: &str) -> MapResponse {
    serde_json::from_str(json).unwrap()
}

#[test]
fn a_real_first_message_is_read() {
    let map = parse(REAL);
    let node = map.node.as_ref().unwrap();
    assert_eq!(node.name, "probe-a.mesh.test.");
    assert_eq!(node.addresses.len(), 2);
    assert_eq!(node.cap_map["default-auto-update"], [serde_json::Value::Bool(false)]);
    assert_eq!(map.peers.len(), 1);
    assert_eq!(map.peers[0].endpoints, ["10.1.1.1:1".parse().unwrap()]);
    assert_eq!(
        map.derp_map.as_ref().unwrap().regions.as_ref().unwrap()[&999].nodes[0].stun_port,
        13478
    );
    assert_eq!(
        map.packet_filters["base"].as_ref().unwrap()[0].dst_ports[0].ports.last,
        65535
    );
    assert_eq!(map.user_profiles[0].login_name, "alice");
    let again: MapResponse = serde_json::from_str(&serde_json::to_string(&map).unwrap()).unwrap();
    assert_eq!(again, map);
}

#[test]
fn every_field_may_be_null() {
    fn nulled(json: &str) -> String {
        let value: serde_json::Value = serde_json::from_str(json).unwrap();
        let nulls = value
            .as_object()
            .unwrap()
            .keys()
            .map(|key| (key.clone(), serde_json::Value::Null));
        serde_json::Value::Object(nulls.collect()).to_string()
    }
    assert_eq!(parse(&nulled(REAL)), MapResponse::default());
    for part in ["/DERPMap", "/DNSConfig"] {
        let value: serde_json::Value = serde_json::from_str(REAL).unwrap();
        let part = nulled(&value.pointer(part).unwrap().to_string());
        assert!(serde_json::from_str::<DerpMap>(&part).is_ok());
        assert!(serde_json::from_str::<DnsConfig>(&part).is_ok());
    }
    let node = r#"{"ID":1,"StableID":null,"Name":null,"Key":null,"KeyExpiry":null,"Machine":null,"DiscoKey":null,
        "Addresses":null,"AllowedIPs":null,"Endpoints":null,"HomeDERP":null,"Hostinfo":null,"Tags":null,"CapMap":null,
        "Capabilities":null,"Online":null,"LastSeen":null,"MachineAuthorized":null,"PrimaryRoutes":null,"New":[1]}"#;
    assert_eq!(
        serde_json::from_str::<Node>(node).unwrap(),
        Node {
            id: 1,
            ..Node::default()
        }
    );
    let change = r#"{"NodeID":1,"DERPRegion":null,"CapMap":null,"Endpoints":null,"Key":null,"Online":null}"#;
    assert_eq!(
        serde_json::from_str::<PeerChange>(change).unwrap(),
        PeerChange {
            node_id: 1,
            ..PeerChange::default()
        }
    );
    let response =
        r#"{"User":null,"Login":null,"NodeKeyExpired":null,"AuthURL":null,"Error":null,"NodeKeySignature":null}"#;
    assert_eq!(
        serde_json::from_str::<RegisterResponse>(response).unwrap(),
        RegisterResponse::default()
    );
    assert!(
        serde_json::from_str::<Hostinfo>(r#"{"RoutableIPs":null,"Services":null,"NetInfo":null,"OS":null}"#).is_ok()
    );
}

#[test]
fn absent_differs_from_empty_where_it_matters() {
    let change: PeerChange = serde_json::from_str(r#"{"NodeID":1,"Endpoints":[],"CapMap":{}}"#).unwrap();
    assert_eq!((change.endpoints, change.cap_map), (Some(vec![]), Some(CapMap::new())));
    let map = parse(r#"{"PacketFilters":{"*":null,"base":[]},"Health":[],"PacketFilter":[]}"#);
    assert_eq!(map.packet_filters["*"], None);
    assert_eq!(map.packet_filters["base"], Some(vec![]));
    assert_eq!(map.health, Some(vec![]));
    assert_eq!(map.packet_filter, Some(vec![]));
    let derp: DerpMap =
        serde_json::from_str(r#"{"Regions":{"1":null,"2":{"RegionID":2}},"omitDefaultRegions":true}"#).unwrap();
    assert_eq!(derp.regions.unwrap().into_keys().collect::<Vec<_>>(), [2]);
    assert!(derp.omit_default_regions);
}

#[test]
fn one_bad_element_costs_only_itself() {
    let map = parse(
        r#"{"Peers":[{"ID":1,"Key":"nodekey:short"},{"ID":2,"Endpoints":["1.2.3.4","1.2.3.4:5"]},7],
            "PacketFilters":{"base":[{"SrcIPs":["*"],"DstPorts":[{"IP":"*","Ports":{"First":0,"Last":99999}}]}, 3]},
            "Node":{"ID":"x"},"KeepAlive":true}"#,
    );
    assert!(map.keep_alive);
    assert_eq!(map.node, None);
    assert_eq!(map.peers.iter().map(|peer| peer.id).collect::<Vec<_>>(), [2]);
    assert_eq!(map.peers[0].endpoints, ["1.2.3.4:5".parse().unwrap()]);
    assert!(map.packet_filters["base"].as_ref().unwrap()[0].dst_ports.is_empty());
}

#[test]
fn escapes_zero_values_and_large_user_ids_are_read() {
    let zero = format!("nodekey:{}", "0".repeat(64));
    let json = format!(
        r#"{{"ID":1,"Key":"{zero}","KeyExpiry":"0001-01-01T00:00:00Z","User":2147455555,
            "CapMap":{{"a\u0026b":null,"c":[],"d":[false]}}}}"#
    );
    let node: Node = serde_json::from_str(&json).unwrap();
    assert!(node.key.unwrap().is_zero());
    assert_eq!(node.key_expiry, None);
    assert_eq!(node.user, 2_147_455_555);
    assert_eq!(node.cap_map["a&b"], Vec::<serde_json::Value>::new());
    let resolver: Resolver = serde_json::from_str(r#"{"Addr":"https://dns/x?a=1\u0026b=2"}"#).unwrap();
    assert_eq!(resolver.addr, "https://dns/x?a=1&b=2");
}

#[test]
fn requests_leave_out_what_must_not_be_sent() {
    let register = RegisterRequest {
        version: 131,
        hostinfo: Some(Hostinfo {
            hostname: "a".into(),
            os: "linux".into(),
            ..Hostinfo::default()
        }),
        ..RegisterRequest::default()
    };
    let json = serde_json::to_string(&register).unwrap();
    assert_eq!(json, r#"{"Version":131,"Hostinfo":{"OS":"linux","Hostname":"a"}}"#);
    let map = MapRequest {
        version: 131,
        endpoints: Some(vec![]),
        omit_peers: true,
        ..MapRequest::default()
    };
    assert_eq!(
        serde_json::to_string(&map).unwrap(),
        r#"{"Version":131,"Endpoints":[],"OmitPeers":true}"#
    );
}

#[test]
fn an_auth_key_does_not_print() {
    let auth = RegisterAuth {
        auth_key: "hskey-auth-a_-b-secret".into(),
    };
    let request = RegisterRequest {
        auth: Some(auth),
        ..RegisterRequest::default()
    };
    assert!(!format!("{request:?}").contains("secret"));
    assert!(
        serde_json::to_string(&request)
            .unwrap()
            .contains(r#""Auth":{"AuthKey":"hskey-auth-a_-b-secret"}"#)
    );
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,200}", cut in 0usize..REAL.len()) {
        let _ = serde_json::from_str::<MapResponse>(&text);
        let _ = serde_json::from_str::<RegisterResponse>(&text);
        let _ = serde_json::from_slice::<MapResponse>(&REAL.as_bytes()[..cut]);
    }

    #[test]
    fn net_info_comes_back(derp in 0i64..70000, udp in prop::option::of(any::<bool>()), eighths in prop::collection::btree_map("[0-9]{1,3}-v4", 0u8..80, 0..4)) {
        // Latencies are only informational: the JSON reader may be off by the last bit, eighths are exact.
        let latency = eighths.into_iter().map(|(region, eighths)| (region, f64::from(eighths) / 8.0)).collect();
        let info = NetInfo { preferred_derp: derp, working_udp: udp, derp_latency: latency, ..NetInfo::default() };
        let again: NetInfo = serde_json::from_str(&serde_json::to_string(&info).unwrap()).unwrap();
        prop_assert!(again.basically_equal(&info));
        prop_assert_eq!(again, info);
    }
}
