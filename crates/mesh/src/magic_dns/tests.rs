//! Names by example, and one law: a table that followed every change equals one made anew.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sandd_control_client::keys::NodePublicKey;
use sandd_control_client::netmap::{DnsConfig, DnsRecord, UserId};

use super::*;

fn node(id: i64, name: &str, host: u8) -> Arc<Node> {
    let address = format!("100.64.0.{host}/32").parse().unwrap();
    let second = format!("fd7a:115c:a1e0::{host:x}/128").parse().unwrap();
    Arc::new(Node {
        id: NodeId(id),
        stable_id: id.to_string(),
        name: name.to_owned(),
        user: UserId(1),
        key: NodePublicKey::from_bytes([host; 32]),
        key_expiry: None,
        expired: false,
        machine: None,
        disco_key: None,
        addresses: vec![second, address],
        allowed_ips: vec![address],
        endpoints: Vec::new(),
        home_derp: None,
        os: String::new(),
        hostname: String::new(),
        tags: Vec::new(),
        online: None,
        last_seen: None,
        wireguard_only: false,
        jailed: false,
        cap_map: BTreeMap::new(),
        machine_authorized: true,
    })
}

fn map(peers: impl IntoIterator<Item = Arc<Node>>) -> NetworkMap {
    let dns = DnsConfig {
        extra_records: vec![DnsRecord {
            name: "db.sandd.local".to_owned(),
            value: "100.64.9.9".parse().unwrap(),
        }],
        ..DnsConfig::default()
    };
    NetworkMap {
        self_node: Some(node(1_000, "me.sandd.local", 200)),
        peers: peers.into_iter().collect(),
        dns: Arc::new(dns),
        ..NetworkMap::default()
    }
}

#[test]
fn full_and_short_names_records_and_addresses() {
    let table = NameTable::new(&map([
        node(1, "worker-1.sandd.local", 1),
        node(2, "guest.other.net", 2),
    ]));
    let both: Vec<IpAddr> = vec!["100.64.0.1".parse().unwrap(), "fd7a:115c:a1e0::1".parse().unwrap()];
    for name in ["worker-1.sandd.local", "Worker-1", "worker-1.sandd.local.", "worker-1."] {
        assert_eq!(table.addresses(name).as_ref(), Some(&both), "{name}");
    }
    assert_eq!(table.addresses("guest.other.net").map(|ips| ips.len()), Some(2));
    assert_eq!(table.addresses("guest"), None, "short names belong to our own domain");
    assert_eq!(table.addresses("db.sandd.local").map(|ips| ips.len()), Some(1));
    assert_eq!(table.addresses("me").map(|ips| ips.len()), Some(2));
    assert_eq!(table.addresses("worker-1.sandd"), None);
    assert_eq!(table.node_of("fd7a:115c:a1e0::2".parse().unwrap()), Some(NodeId(2)));
    assert_eq!(table.node_of("100.64.0.9".parse().unwrap()), None);
}

proptest! {
    #[test]
    fn following_changes_equals_reading_the_map(
        steps in prop::collection::vec((1i64..6, "[a-d]", 1u8..8, any::<bool>()), 1..60),
    ) {
        let mut now = map([]);
        let mut table = NameTable::new(&now);
        for (id, name, host, stays) in steps {
            let old = now.peers.get(&NodeId(id)).cloned();
            let new = stays.then(|| node(id, &format!("{name}.sandd.local"), host));
            match &new {
                Some(new) => drop(now.peers.insert(Arc::clone(new))),
                None => drop(now.peers.remove(&NodeId(id))),
            }
            table.change(&now, old.iter(), new.iter());
            let fresh = NameTable::new(&now);
            for name in ["a", "b", "c", "d", "me", "db.sandd.local", "a.sandd.local"] {
                prop_assert_eq!(table.addresses(name), fresh.addresses(name), "{}", name);
            }
            for host in 1..8 {
                let ip: IpAddr = format!("100.64.0.{host}").parse().unwrap();
                prop_assert_eq!(table.node_of(ip), fresh.node_of(ip));
            }
        }
    }
}
