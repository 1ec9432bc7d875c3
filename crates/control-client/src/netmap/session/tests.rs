//! Every field of a map message, absent and present, and the mistakes that clients have made with them.

use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;
use crate::keys::NodePrivateKey;
use crate::netmap::{FilterSrc, RegionId, to_wire};

const REAL: &str = include_str!("../../../testdata/map-response.json");

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_503_028)
}

fn message(json: &str) -> MapResponse<MapNode> {
    serde_json::from_str(json).unwrap()
}

fn started() -> MapSession {
    let mut session = MapSession::new();
    session.apply(message(REAL), now()).unwrap();
    session
}

fn apply(session: &mut MapSession, json: &str) -> NetmapDelta {
    session.apply(message(json), now()).unwrap()
}

fn peer(session: &MapSession, id: i64) -> Arc<Node> {
    session.map().peers[&NodeId(id)].clone()
}

fn node_json(id: i64, extra: &str) -> String {
    let key = NodePrivateKey::from_bytes([u8::try_from(id).unwrap(); 32]).public();
    format!(r#"{{"ID":{id},"Name":"n{id}.mesh.test.","Key":"{key}","Addresses":["100.64.0.{id}/32"]{extra}}}"#)
}

#[test]
fn the_first_message_is_the_whole_map() {
    let mut session = MapSession::new();
    let delta = session.apply(message(REAL), now()).unwrap();
    assert!(delta.full && delta.self_node && delta.derp_map && delta.filter && delta.dns && delta.other);
    assert_eq!(delta.upserted, [NodeId(19)]);
    let map = session.map();
    let node = map.self_node.as_ref().unwrap();
    assert_eq!(
        (node.name.as_str(), node.short_name()),
        ("probe-a.mesh.test", "probe-a")
    );
    assert_eq!(peer(&session, 19).home_derp, Some(RegionId(999)));
    assert_eq!(map.dns.extra_records[0].name, "svc.mesh.test");
    assert_eq!(map.filter.len(), 1);
    assert_eq!(map.filter[0].src.len(), 2);
}

#[test]
fn a_stream_must_begin_with_the_self_node() {
    let mut session = MapSession::new();
    assert_eq!(
        session.apply(message(r#"{"Peers":[]}"#), now()),
        Err(SessionError::NoSelfNode)
    );
    assert_eq!(
        session.apply(message(r#"{"KeepAlive":true}"#), now()),
        Ok(NetmapDelta::default())
    );
    assert!(session.apply(message(REAL), now()).is_ok());
}

#[test]
fn messages_without_news_change_nothing() {
    let mut session = started();
    let before = session.map();
    for json in [
        "{}",
        r#"{"KeepAlive":true}"#,
        r#"{"ControlTime":"2026-11-24T06:50:28Z"}"#,
        r#"{"Peers":[]}"#,
        r#"{"Peers":null,"Domain":""}"#,
        r#"{"PeersRemoved":[7],"PeersChangedPatch":[{"NodeID":8,"Online":true}],"OnlineChange":{"9":true},"PeerSeenChange":{"9":true}}"#,
    ] {
        assert!(apply(&mut session, json).is_empty(), "{json}");
    }
    let whole: serde_json::Value = serde_json::from_str(REAL).unwrap();
    for field in [
        "Node",
        "DERPMap",
        "DNSConfig",
        "PacketFilters",
        "UserProfiles",
        "Domain",
    ] {
        let json = serde_json::json!({ field: whole[field] }).to_string();
        assert!(apply(&mut session, &json).is_empty(), "{field} repeated");
    }
    assert!(Arc::ptr_eq(&before, &session.map()));
}

#[test]
fn a_new_stream_replaces_all_but_the_relays_and_does_not_flap() {
    let mut session = started();
    let before = session.map();
    session.begin_stream();
    assert!(Arc::ptr_eq(&before, &session.map()));
    let first = format!(r#"{{"Node":{}}}"#, node_json(20, ""));
    let delta = apply(&mut session, &first);
    assert!(delta.full && delta.filter && delta.dns && !delta.derp_map);
    assert_eq!(delta.removed, [NodeId(19)]);
    let map = session.map();
    assert!(map.peers.is_empty() && map.filter.is_empty());
    assert_eq!(map.derp_map, before.derp_map);

    let mut session = started();
    session.begin_stream();
    let delta = session.apply(message(REAL), now()).unwrap();
    assert_eq!(
        delta,
        NetmapDelta {
            full: true,
            ..NetmapDelta::default()
        }
    );
}

#[test]
fn peers_replaces_and_makes_the_other_peer_fields_void() {
    let mut session = started();
    let json = format!(
        r#"{{"Peers":[{}],"PeersRemoved":[3],"PeersChanged":[{}]}}"#,
        node_json(3, ""),
        node_json(4, "")
    );
    let delta = apply(&mut session, &json);
    assert!(delta.full);
    assert_eq!((delta.upserted, delta.removed), (vec![NodeId(3)], vec![NodeId(19)]));
}

#[test]
fn peer_fields_apply_in_their_order() {
    let mut session = started();
    let json = format!(
        r#"{{"PeersRemoved":[19],"PeersChanged":[{}],"PeerSeenChange":{{"19":true}},"OnlineChange":{{"19":false}},
            "PeersChangedPatch":[{{"NodeID":19,"Online":true}}]}}"#,
        node_json(19, "")
    );
    let delta = apply(&mut session, &json);
    assert_eq!(
        (delta.full, delta.upserted, delta.removed),
        (false, vec![NodeId(19)], vec![])
    );
    assert_eq!(peer(&session, 19).online, Some(true));
    assert_eq!(peer(&session, 19).last_seen, Some(now()));
    apply(&mut session, r#"{"PeerSeenChange":{"19":false}}"#);
    assert_eq!(peer(&session, 19).last_seen, None);
    let delta = apply(&mut session, r#"{"PeersRemoved":[19,19]}"#);
    assert_eq!(delta.removed, [NodeId(19)]);
}

#[test]
fn a_patch_changes_what_it_names() {
    let mut session = started();
    let before = peer(&session, 19);
    apply(
        &mut session,
        r#"{"PeersChangedPatch":[{"NodeID":19,"DERPRegion":0,"Cap":0,"Endpoints":null,"CapMap":null}]}"#,
    );
    assert_eq!(peer(&session, 19), before);
    let disco = format!("discokey:{}", "ab".repeat(32));
    let json = format!(
        r#"{{"PeersChangedPatch":[{{"NodeID":19,"DERPRegion":5,"Endpoints":["1.2.3.4:5","[fd00::1]:6"],"CapMap":{{}},
            "DiscoKey":"{disco}","Online":true,"LastSeen":"2026-11-24T01:00:00Z"}}]}}"#
    );
    let delta = apply(&mut session, &json);
    assert_eq!(delta.upserted, [NodeId(19)]);
    let after = peer(&session, 19);
    assert_eq!(after.home_derp, Some(RegionId(5)));
    assert_eq!(after.endpoints.len(), 2);
    assert_eq!(after.disco_key.unwrap().to_string(), disco);
    assert_eq!((after.online, after.key), (Some(true), before.key));
    apply(&mut session, r#"{"PeersChangedPatch":[{"NodeID":19,"Endpoints":[]}]}"#);
    assert!(peer(&session, 19).endpoints.is_empty());
}

#[test]
fn a_new_key_voids_the_old_end_unless_it_brings_one() {
    let mut session = started();
    apply(
        &mut session,
        &format!(
            r#"{{"PeersChanged":[{}]}}"#,
            node_json(19, r#","Expired":true,"KeyExpiry":"2026-01-01T00:00:00Z""#)
        ),
    );
    assert!(peer(&session, 19).expired);
    let key = NodePrivateKey::generate().public();
    apply(
        &mut session,
        &format!(r#"{{"PeersChangedPatch":[{{"NodeID":19,"Key":"{key}"}}]}}"#),
    );
    let renewed = peer(&session, 19);
    assert_eq!((renewed.key, renewed.expired, renewed.key_expiry), (key, false, None));
    apply(
        &mut session,
        r#"{"PeersChangedPatch":[{"NodeID":19,"KeyExpiry":"2026-01-01T00:00:00Z"}]}"#,
    );
    assert!(peer(&session, 19).expired);
    apply(
        &mut session,
        r#"{"PeersChangedPatch":[{"NodeID":19,"KeyExpiry":"0001-01-01T00:00:00Z"}]}"#,
    );
    assert_eq!(
        (peer(&session, 19).expired, peer(&session, 19).key_expiry),
        (false, None)
    );
}

#[test]
fn keys_end_by_the_clock() {
    let mut session = started();
    let json = format!(
        r#"{{"PeersChanged":[{},{}]}}"#,
        node_json(4, r#","KeyExpiry":"0001-01-01T00:00:00Z""#),
        node_json(5, r#","KeyExpiry":"2026-12-24T00:00:00Z""#)
    );
    apply(&mut session, &json);
    assert!(!peer(&session, 4).expired && !peer(&session, 5).expired);
    let end = session.next_expiry().unwrap();
    assert_eq!(Some(end), peer(&session, 5).key_expiry);
    assert!(session.expire(end - Duration::from_secs(1)).is_empty());
    assert_eq!(session.expire(end).upserted, [NodeId(5)]);
    assert!(peer(&session, 5).expired);
    assert_eq!(session.next_expiry(), None);
}

#[test]
fn filters_are_sets_by_name() {
    let allow =
        |ip: &str| format!(r#"[{{"SrcIPs":["{ip}"],"DstPorts":[{{"IP":"*","Ports":{{"First":1,"Last":1}}}}]}}]"#);
    let sources = |session: &MapSession| -> Vec<String> {
        let rules = session.map().filter.clone();
        rules
            .iter()
            .map(|rule| {
                if let FilterSrc::Range(range) = &rule.src[0] {
                    range.first.to_string()
                } else {
                    String::new()
                }
            })
            .collect()
    };
    let mut session = started();
    let delta = apply(
        &mut session,
        &format!(
            r#"{{"PacketFilters":{{"zeta":{},"alpha":{}}}}}"#,
            allow("1.1.1.1"),
            allow("2.2.2.2")
        ),
    );
    assert!(delta.filter);
    assert_eq!(sources(&session), ["2.2.2.2", "0.0.0.0", "1.1.1.1"]);
    apply(&mut session, &format!(r#"{{"PacketFilter":{}}}"#, allow("3.3.3.3")));
    assert_eq!(sources(&session), ["2.2.2.2", "3.3.3.3", "1.1.1.1"]);
    apply(&mut session, r#"{"PacketFilters":{"alpha":null,"base":[]}}"#);
    assert_eq!(sources(&session), ["1.1.1.1"]);
    apply(
        &mut session,
        &format!(r#"{{"PacketFilters":{{"*":null,"new":{}}}}}"#, allow("4.4.4.4")),
    );
    assert_eq!(sources(&session), ["4.4.4.4"]);
    assert!(apply(&mut session, r#"{"PacketFilter":[],"PacketFilters":{"*":null}}"#).filter);
    assert!(session.map().filter.is_empty());
}

#[test]
fn relays_are_kept_in_part() {
    let mut session = started();
    apply(
        &mut session,
        r#"{"DERPMap":{"HomeParams":{"RegionScore":{"1":0.5,"2":0}}}}"#,
    );
    let map = session.map().derp_map.clone();
    assert_eq!((map.regions.len(), map.home_scores.len()), (1, 1));
    apply(
        &mut session,
        r#"{"DERPMap":{"HomeParams":{},"Regions":{"1":null,"3":{"RegionID":3,"Nodes":[{"Name":"a","STUNPort":-1},{"Name":"b","DERPPort":70000}]}}}}"#,
    );
    let map = session.map().derp_map.clone();
    assert_eq!(map.regions.keys().copied().collect::<Vec<_>>(), [RegionId(3)]);
    let nodes = &map.regions[&RegionId(3)].nodes;
    assert_eq!((nodes.len(), nodes[0].derp_port, nodes[0].stun_port), (1, 443, None));
    assert_eq!(map.home_scores.len(), 1);
    apply(&mut session, r#"{"DERPMap":{"HomeParams":{"RegionScore":{}}}}"#);
    assert!(session.map().derp_map.home_scores.is_empty());
}

#[test]
fn names_users_domain_and_problems_are_replaced_or_patched() {
    let mut session = started();
    assert!(apply(&mut session, r#"{"DNSConfig":{"Proxied":false}}"#).dns);
    assert!(!session.map().dns.magic_dns);
    assert!(
        apply(
            &mut session,
            r#"{"UserProfiles":[{"ID":2147455555,"LoginName":"tagged-devices"}]}"#
        )
        .other
    );
    assert_eq!(session.map().users.len(), 2);
    apply(
        &mut session,
        r#"{"Domain":"example.com","Health":["a\u001b[31m"],"DisplayMessages":{"x":{"Title":"t","Text":"u"}}}"#,
    );
    assert_eq!(
        (session.map().domain.as_str(), session.map().health.clone()),
        ("example.com", vec!["a[31m".into(), "t: u".into()])
    );
    apply(&mut session, r#"{"Health":[],"DisplayMessages":{"x":null}}"#);
    assert!(session.map().health.is_empty());
    apply(&mut session, r#"{"DisplayMessages":{"y":{"Title":"t","Text":"u"}}}"#);
    apply(&mut session, r#"{"DisplayMessages":{"*":null}}"#);
    assert!(session.map().health.is_empty());
}

#[test]
fn lock_on_means_no_peers() {
    let mut session = started();
    assert!(apply(&mut session, r#"{"TKAInfo":{"Head":"","Disabled":true}}"#).is_empty());
    let delta = apply(
        &mut session,
        &format!(
            r#"{{"TKAInfo":{{"Head":"abc"}},"PeersChanged":[{}]}}"#,
            node_json(4, "")
        ),
    );
    assert_eq!(delta.removed, [NodeId(19)]);
    assert!(session.map().lock_enabled && session.map().peers.is_empty());
    assert!(apply(&mut session, &format!(r#"{{"PeersChanged":[{}]}}"#, node_json(5, ""))).is_empty());
    assert_eq!(
        session.apply(message(r#"{"TKAInfo":{"Disabled":true}}"#), now()),
        Err(SessionError::LockSwitchedOff)
    );
}

#[test]
fn odd_nodes_are_read_or_left_out() {
    let mut session = started();
    let zero = format!(
        r#"{{"ID":6,"Key":"nodekey:{}","Addresses":["100.64.0.6/32"]}}"#,
        "0".repeat(64)
    );
    let json = format!(
        r#"{{"PeersChanged":[{zero},{},{},{}]}}"#,
        node_json(7, r#","DERP":"127.3.3.40:9","AllowedIPs":null"#),
        node_json(
            8,
            r#","AllowedIPs":["100.64.0.8/32","10.0.0.0/8"],"Capabilities":["x"],"Endpoints":["0.0.0.0:1","1.2.3.4:0","1.2.3.4:5"]"#
        ),
        node_json(
            9,
            r#","AllowedIPs":["10.0.0.0/8"],"UnsignedPeerAPIOnly":true,"Hostinfo":{"OS":"a\u001bb"}"#
        )
    );
    let delta = apply(&mut session, &json);
    assert_eq!(delta.upserted, [NodeId(7), NodeId(8), NodeId(9)]);
    assert_eq!(
        (peer(&session, 7).home_derp, peer(&session, 7).allowed_ips.len()),
        (Some(RegionId(9)), 1)
    );
    assert_eq!(
        (peer(&session, 8).allowed_ips.len(), peer(&session, 8).endpoints.len()),
        (2, 1)
    );
    assert!(peer(&session, 8).cap_map.contains_key("x"));
    let unsigned = peer(&session, 9);
    assert_eq!(
        (&unsigned.allowed_ips, unsigned.jailed, unsigned.os.as_str()),
        (&unsigned.addresses, true, "ab")
    );
}

#[test]
fn a_map_survives_the_state_file() {
    let session = started();
    let json = serde_json::to_string(&to_wire(&session.map()).unwrap()).unwrap();
    let mut again = MapSession::new();
    apply(&mut again, &json);
    assert_eq!(again.map(), session.map());
    assert!(to_wire(&NetworkMap::default()).is_none());
}

#[test]
fn peers_that_are_told_again_are_not_kept_twice() {
    let mut session = started();
    let before = peer(&session, 19);
    session.begin_stream();
    assert_eq!(session.apply(message(REAL), now()).unwrap().upserted, []);
    assert!(Arc::ptr_eq(&before, &peer(&session, 19)));
    let wire: MapResponse = serde_json::from_str(REAL).unwrap();
    let mut other = MapSession::new();
    other.apply(wire, now()).unwrap();
    assert_eq!(other.map(), session.map(), "by either form");
}

#[test]
fn two_hundred_peers_are_applied_in_no_time() {
    let peers: Vec<String> = (1..=200)
        .map(|id| node_json(id, r#","Endpoints":["192.0.2.1:41641","192.0.2.2:41641"],"HomeDERP":1"#))
        .collect();
    let json = format!(r#"{{"Node":{},"Peers":[{}]}}"#, node_json(201, ""), peers.join(","));
    let start = std::time::Instant::now();
    let mut session = MapSession::new();
    let delta = apply(&mut session, &json);
    assert_eq!(delta.upserted.len(), 200);
    assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
}

proptest! {
    /// Whatever comes after the first message, the delta lists lead from the old peer set to the new one.
    #[test]
    fn deltas_tell_the_whole_truth(ops in prop::collection::vec((0u8..5, 1i64..6, any::<bool>()), 0..20)) {
        let mut session = started();
        for (kind, id, flag) in ops {
            let before = session.map();
            let json = match kind {
                0 => format!(r#"{{"PeersRemoved":[{id}]}}"#),
                1 => format!(r#"{{"PeersChanged":[{}]}}"#, node_json(id, &format!(r#","Online":{flag}"#))),
                2 => format!(r#"{{"PeersChangedPatch":[{{"NodeID":{id},"Online":{flag}}}]}}"#),
                3 => format!(r#"{{"Peers":[{}]}}"#, node_json(id, "")),
                _ => format!(r#"{{"OnlineChange":{{"{id}":{flag}}}}}"#),
            };
            let delta = apply(&mut session, &json);
            let mut replayed = before.peers.clone();
            for id in &delta.removed {
                prop_assert!(replayed.remove(id).is_some());
            }
            for id in &delta.upserted {
                replayed.insert(session.map().peers[id].clone());
            }
            prop_assert_eq!(&replayed, &session.map().peers);
        }
    }
}
