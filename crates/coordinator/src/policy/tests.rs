//! What policies say, as tables.

use super::*;
use crate::membership::{NodeId, Slot};

fn member(id: u32, user: &str, tags: &[&str]) -> Subject {
    let slot = Slot(id);
    Subject {
        id: NodeId(id.into()),
        user: user.to_owned(),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        addresses: vec![slot.v4().into(), slot.v6().into()],
    }
}

fn members() -> Vec<Subject> {
    vec![
        member(1, "alice", &[]),
        member(2, "alice", &[]),
        member(3, "bob", &[]),
        member(4, "tagged-devices", &["tag:web"]),
    ]
}

fn compile(text: &str) -> Compiled {
    Policy::parse(text).unwrap().compile(members())
}

fn sight(compiled: &Compiled, id: i64) -> Vec<i64> {
    (1..=4)
        .filter(|other| *other != id && compiled.sees(NodeId(id), NodeId(*other)))
        .collect()
}

fn rules(compiled: &Compiled, id: i64) -> serde_json::Value {
    serde_json::to_value(compiled.rules_for(NodeId(id))).unwrap()
}

#[test]
fn without_rules_everybody_may() {
    for compiled in [Policy::allow_all().compile(members()), compile("{}")] {
        assert_eq!(sight(&compiled, 1), [2, 3, 4]);
        assert_eq!(
            rules(&compiled, 3),
            serde_json::json!([{"SrcIPs":["*"],"DstPorts":[{"IP":"*","Ports":{"First":0,"Last":65535}}]}])
        );
    }
}

#[test]
fn an_empty_list_lets_nobody() {
    let compiled = compile(r#"{"acls":[]}"#);
    assert_eq!(sight(&compiled, 1), [0i64; 0]);
    assert_eq!(rules(&compiled, 1), serde_json::json!([]));
}

#[test]
fn users_tags_ports_and_protocols() {
    let compiled = compile(
        r#"{
            // comments and trailing commas are HuJSON's
            "groups": {"group:dev": ["alice@"],},
            "tagOwners": {"tag:web": ["group:dev"]},
            "acls": [
                {"action": "accept", "proto": "tcp", "src": ["group:dev"], "dst": ["tag:web:80,443", "tag:web:8000-8010"]},
                {"action": "accept", "proto": "udp", "src": ["tag:web"], "dst": ["bob@:53"]},
            ],
        }"#,
    );
    assert_eq!(sight(&compiled, 1), [4]);
    assert_eq!(sight(&compiled, 3), [4]);
    assert_eq!(sight(&compiled, 4), [1, 2, 3]);
    let port = |ip: &str, first: u16, last: u16| serde_json::json!({"IP":ip,"Ports":{"First":first,"Last":last}});
    let (v4, v6) = ("100.64.0.4", "fd7a:115c:a1e0::4");
    assert_eq!(
        rules(&compiled, 4),
        serde_json::json!([{
            "SrcIPs": ["100.64.0.1", "fd7a:115c:a1e0::1", "100.64.0.2", "fd7a:115c:a1e0::2"],
            "DstPorts": [port(v4, 80, 80), port(v4, 443, 443), port(v6, 80, 80), port(v6, 443, 443),
                         port(v4, 8000, 8010), port(v6, 8000, 8010)],
            "IPProto": [6],
        }])
    );
    assert_eq!(rules(&compiled, 1), serde_json::json!([]));
    assert_eq!(rules(&compiled, 3)[0]["IPProto"], serde_json::json!([17]));
}

#[test]
fn everyone_is_the_mesh_and_not_the_internet() {
    let compiled = compile(r#"{"acls":[{"action":"accept","src":["*"],"dst":["*:*"]}]}"#);
    assert_eq!(sight(&compiled, 4), [1, 2, 3]);
    let rules = rules(&compiled, 2);
    assert_eq!(
        rules[0]["SrcIPs"],
        serde_json::json!(["100.64.0.0/10", "fd7a:115c:a1e0::/48"])
    );
    assert_eq!(rules[0]["DstPorts"][0]["IP"], "100.64.0.2");
    assert!(rules[0].get("IPProto").is_none());
}

#[test]
fn own_nodes_only() {
    let compiled = compile(r#"{"acls":[{"action":"accept","src":["autogroup:member"],"dst":["autogroup:self:*"]}]}"#);
    assert_eq!(sight(&compiled, 1), [2]);
    assert_eq!(sight(&compiled, 3), [0i64; 0]);
    assert_eq!(sight(&compiled, 4), [0i64; 0]);
    assert_eq!(
        rules(&compiled, 1)[0]["SrcIPs"],
        serde_json::json!(["100.64.0.1", "fd7a:115c:a1e0::1", "100.64.0.2", "fd7a:115c:a1e0::2"])
    );
}

#[test]
fn hosts_and_networks_match_by_address() {
    let compiled = compile(
        r#"{"hosts":{"db":"100.64.0.3"},
            "acls":[{"action":"accept","src":["100.64.0.0/30"],"dst":["db:5432"]},
                    {"action":"accept","src":["fd7a:115c:a1e0::4"],"dst":["[fd7a:115c:a1e0::3]:22"]}]}"#,
    );
    assert_eq!(sight(&compiled, 3), [1, 2, 4]);
    let rules = rules(&compiled, 3);
    assert_eq!(rules[0]["SrcIPs"], serde_json::json!(["100.64.0.0/30"]));
    assert_eq!(
        rules[0]["DstPorts"].as_array().unwrap().len(),
        1,
        "the host has one address only"
    );
    assert_eq!(rules[1]["DstPorts"][0]["IP"], "fd7a:115c:a1e0::3");
}

#[test]
fn what_is_not_understood_is_refused() {
    let acl = |body: &str| format!(r#"{{"acls":[{{"action":"accept",{body}}}]}}"#);
    for (text, needle) in [
        ("{".to_owned(), "cannot read"),
        (r#"{"grants":[]}"#.to_owned(), "grants"),
        (r#"{"acls":[{"action":"drop","src":[],"dst":[]}]}"#.to_owned(), "drop"),
        (acl(r#""src":["group:x"],"dst":["*:*"]"#), "group:x"),
        (acl(r#""src":["tag:x"],"dst":["*:*"]"#), "tag:x"),
        (acl(r#""src":["db"],"dst":["*:*"]"#), "db"),
        (acl(r#""src":["*"],"dst":["*"]"#), "destination"),
        (acl(r#""src":["*"],"dst":["*:70000"]"#), "destination"),
        (acl(r#""src":["*"],"dst":["*:9-1"]"#), "destination"),
        (acl(r#""src":["*"],"dst":["*:+1"]"#), "destination"),
        (acl(r#""proto":"nope","src":["*"],"dst":["*:*"]"#), "nope"),
        (acl(r#""proto":"icmp","src":["*"],"dst":["*:22"]"#), "icmp"),
        (acl(r#""src":["autogroup:self"],"dst":["*:*"]"#), "autogroup:self"),
        (acl(r#""src":["100.64.0.1"],"dst":["autogroup:self:*"]"#), "100.64.0.1"),
        (
            acl(r#""src":["autogroup:internet"],"dst":["*:*"]"#),
            "autogroup:internet",
        ),
    ] {
        let error = Policy::parse(&text).unwrap_err().to_string();
        assert!(error.contains(needle), "{text}: {error}");
    }
}

#[test]
fn tags_are_given_by_their_owners() {
    let policy = Policy::parse(r#"{"groups":{"group:ops":["carol@"]},"tagOwners":{"tag:web":["group:ops","alice@"]}}"#);
    let policy = policy.unwrap();
    assert!(policy.may_tag("alice", "tag:web") && policy.may_tag("carol@", "tag:web"));
    assert!(!policy.may_tag("bob", "tag:web") && !policy.may_tag("alice", "tag:other"));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC*") {
        let _ = Policy::parse(&text);
    }

    #[test]
    fn no_words_make_it_panic(source in "\\PC{0,30}", target in "\\PC{0,30}", protocol in "\\PC{0,8}") {
        let text = serde_json::json!({"acls":[{"action":"accept","proto":protocol,"src":[source],"dst":[target]}]});
        if let Ok(policy) = Policy::parse(&text.to_string()) {
            let compiled = policy.compile(members());
            compiled.rules_for(NodeId(1));
            compiled.sees(NodeId(1), NodeId(2));
        }
    }
}
