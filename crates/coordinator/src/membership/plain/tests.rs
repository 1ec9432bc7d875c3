//! What a file of plain peers may say, and what joins and reloads do beside it.

use std::time::{Duration, Instant, SystemTime};

use proptest::prelude::*;
use sandd_control_client::keys::MachinePublicKey;
use sandd_control_client::wire::{Hostinfo, RegisterAuth, RegisterRequest};

use super::*;
use crate::membership::{KeyOptions, Registration, Saved, Settings};

const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

fn now() -> Now {
    Now {
        wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000),
        instant: Instant::now(),
    }
}

fn membership() -> (Membership, String) {
    let settings = Settings {
        login_url: "http://127.0.0.1/register/".to_owned(),
        ephemeral_timeout: Duration::from_secs(120),
        offline_grace: Duration::from_secs(5),
        node_expiry: None,
    };
    let random = Box::new(|bytes: &mut [u8]| bytes.fill(7));
    let mut membership = Membership::new(settings, Saved::default(), random, now());
    let options = KeyOptions {
        reusable: true,
        ..KeyOptions::default()
    };
    let key = membership.create_key(options, now()).unwrap().to_string();
    (membership, key)
}

fn join(membership: &mut Membership, auth: &str, number: u8, hostname: &str) -> String {
    let request = RegisterRequest {
        version: 131,
        node_key: Some(NodePublicKey::from_bytes([number; 32])),
        auth: Some(RegisterAuth {
            auth_key: auth.to_owned(),
        }),
        hostinfo: Some(Hostinfo {
            hostname: hostname.to_owned(),
            ..Hostinfo::default()
        }),
        ..RegisterRequest::default()
    };
    match membership.register(&MachinePublicKey::from_bytes([number; 32]), &request, now()) {
        Registration::Answer(answer) => answer.error,
        Registration::Wait => panic!("it waits"),
    }
}

fn one(fields: &str) -> String {
    format!(r#"{{"peers": [{{"name": "router", "publicKey": "{KEY}", "addresses": ["100.64.0.2"], {fields}}}]}}"#)
}

#[test]
fn a_file_with_comments_is_read() {
    let text = r#"{
        // the gateway in the cellar
        "peers": [
            {
                "name": "router",
                "publicKey": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
                "endpoints": ["198.51.100.7:51820", "[2001:db8::7]:51820"],
                "addresses": ["100.64.200.1", "fd7a:115c:a1e0::c801/128"],
                "tags": ["tag:plain"],
            },
            {
                "name": "phone",
                "publicKey": "nodekey:0202020202020202020202020202020202020202020202020202020202020202",
                "addresses": ["100.64.200.2/32"],
                "user": "alice@",
            },
        ],
    }"#;
    let (mut membership, _) = membership();
    membership
        .set_plain(&WireGuardPeers::parse(text).unwrap(), now())
        .unwrap();
    let peers: Vec<_> = membership.plain().map(|(peer, _)| peer.clone()).collect();
    let router = peers.iter().find(|peer| peer.name == "router").unwrap();
    assert_eq!(router.key, NodePublicKey::from_bytes([1; 32]));
    assert_eq!((router.endpoints.len(), router.addresses.len()), (2, 2));
    assert_eq!(router.user, TAGGED_USER);
    let phone = peers.iter().find(|peer| peer.name == "phone").unwrap();
    assert_eq!(membership.user_name(phone.user), "alice");
    assert!(router.id.0 >= FIRST_ID && phone.id.0 >= FIRST_ID && router.id != phone.id);
}

#[test]
fn what_is_wrong_is_said_with_what_to_do() {
    let key = |text: &str| format!(r#"{{"peers": [{{"name": "router", "publicKey": "{text}", "addresses": []}}]}}"#);
    let addresses =
        |text: &str| format!(r#"{{"peers": [{{"name": "router", "publicKey": "{KEY}", "addresses": {text}}}]}}"#);
    let two = |first: &str, second: &str| format!(r#"{{"peers": [{first}, {second}]}}"#);
    let peer = |name: &str, number: u8, address: &str| {
        format!(
            r#"{{"name": "{name}", "publicKey": "{}", "addresses": ["{address}"]}}"#,
            NodePublicKey::from_bytes([number; 32])
        )
    };
    for (text, needle) in [
        ("[]".to_owned(), "publicKey"),
        (one(r#""allowedIPs": ["10.0.0.0/8"]"#), "allowedIPs"),
        (one(r#""presharedKey": "abc""#), "preshared"),
        (one(r#""persistentKeepalive": 25"#), "PersistentKeepalive"),
        (one(r#""endpoints": ["gateway.example.com:51820"]"#), "IP:PORT"),
        (one(r#""endpoints": ["198.51.100.7:0"]"#), "IP:PORT"),
        (one(r#""tags": ["plain"]"#), "tag:name"),
        (one(r#""tags": ["tag:plain"], "user": "alice""#), "leave one out"),
        (
            one(r#""name": "Ro uter""#).replacen(r#""name": "router", "#, "", 1),
            "label",
        ),
        (key("short"), "wg pubkey"),
        (key(&"A".repeat(43)), "wg pubkey"),
        (key(&format!("nodekey:{}", "0".repeat(64))), "wg pubkey"),
        (addresses("[]"), "0 addresses"),
        (addresses(r#"["100.64.0.0/24"]"#), "no single address"),
        (addresses(r#"["192.168.1.1"]"#), "outside the mesh"),
        (two(&peer("a", 1, "100.64.9.1"), &peer("a", 2, "100.64.9.2")), "name a"),
        (
            two(&peer("a", 1, "100.64.9.1"), &peer("b", 1, "100.64.9.2")),
            "publicKey",
        ),
        (
            two(&peer("a", 1, "100.64.9.1"), &peer("b", 2, "100.64.9.1")),
            "address 100.64.9.1",
        ),
    ] {
        let error = WireGuardPeers::parse(&text).unwrap_err().to_string();
        assert!(error.contains(needle), "{text}: {error}");
    }
}

#[test]
fn what_a_node_has_is_not_given_to_a_peer() {
    let (mut membership, auth) = membership();
    assert_eq!(join(&mut membership, &auth, 9, "worker"), "");
    for (entry, needle) in [
        (
            one(r#""user": "x""#).replace("100.64.0.2", "100.64.0.1"),
            "belongs to the node `worker`",
        ),
        (
            one(r#""user": "x""#).replace("router", "worker"),
            "node 1 has this name",
        ),
        (
            one(r#""user": "x""#).replace(KEY, &NodePublicKey::from_bytes([9; 32]).to_string()),
            "node 1 has this key",
        ),
    ] {
        let document = WireGuardPeers::parse(&entry).unwrap();
        let error = membership.set_plain(&document, now()).unwrap_err().to_string();
        assert!(error.contains(needle), "{error}");
        assert_eq!(membership.plain().count(), 0);
    }
}

#[test]
fn what_a_peer_has_is_not_given_to_a_node() {
    let (mut membership, auth) = membership();
    let text = one(r#""user": "x""#).replace("100.64.0.2", "fd7a:115c:a1e0::1");
    membership
        .set_plain(&WireGuardPeers::parse(&text).unwrap(), now())
        .unwrap();
    assert!(
        join(&mut membership, &auth, 1, "thief").contains("already in use"),
        "its key"
    );
    assert_eq!(join(&mut membership, &auth, 9, "router"), "");
    let nodes = membership.statuses();
    assert_eq!(nodes[0].name, "router-1");
    assert_eq!(
        nodes[0].addresses[0].to_string(),
        "100.64.0.2",
        "the first pair is half taken"
    );
    assert!(!membership.admits_to_relay(&NodePublicKey::from_bytes([1; 32])));
}

#[test]
fn only_what_changed_gets_a_new_revision() {
    let (mut membership, _) = membership();
    let parse = |second: &str| {
        let text = format!(
            r#"{{"peers": [
                {{"name": "a", "publicKey": "{KEY}", "addresses": ["100.64.9.1"]}},
                {{"name": "b", "publicKey": "{}", "addresses": ["{second}"]}},
            ]}}"#,
            NodePublicKey::from_bytes([2; 32])
        );
        WireGuardPeers::parse(&text).unwrap()
    };
    let revisions = |membership: &Membership| {
        let mut all: Vec<_> = membership.plain().map(|(peer, at)| (peer.name.clone(), at)).collect();
        all.sort();
        all
    };
    membership.set_plain(&parse("100.64.9.2"), now()).unwrap();
    let (first, overall) = (revisions(&membership), membership.revision());
    membership.set_plain(&parse("100.64.9.2"), now()).unwrap();
    assert_eq!(
        (revisions(&membership), membership.revision()),
        (first.clone(), overall)
    );
    membership.set_plain(&parse("100.64.9.3"), now()).unwrap();
    let second = revisions(&membership);
    assert_eq!(second[0], first[0]);
    assert!(second[1].1 > first[1].1);
    membership.set_plain(&WireGuardPeers::default(), now()).unwrap();
    assert!(membership.plain().next().is_none() && membership.revision() > second[1].1);
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC*") {
        let _ = WireGuardPeers::parse(&text);
    }

    #[test]
    fn no_words_make_it_panic(name in "\\PC{0,8}", key in "\\PC{0,50}", endpoint in "\\PC{0,20}", address in "\\PC{0,20}") {
        let text = serde_json::json!({"peers": [
            {"name": name, "publicKey": key, "endpoints": [endpoint], "addresses": [address]}
        ]});
        let _ = WireGuardPeers::parse(&text.to_string());
    }
}
