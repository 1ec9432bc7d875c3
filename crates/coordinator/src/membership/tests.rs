//! Registration as a table of cases, updates, and what time does.

use std::time::{Duration, Instant, SystemTime};

use proptest::prelude::*;
use sandd_control_client::keys::{DiscoPublicKey, MachinePublicKey, NodePublicKey};
use sandd_control_client::wire::{Hostinfo, MapRequest, RegisterAuth, RegisterRequest, RegisterResponse};

use super::*;

struct Bench {
    membership: Membership,
    now: Now,
}

fn machine(number: u8) -> MachinePublicKey {
    MachinePublicKey::from_bytes([number; 32])
}

fn node_key(number: u8) -> NodePublicKey {
    NodePublicKey::from_bytes([number; 32])
}

fn settings() -> Settings {
    Settings {
        login_url: "http://127.0.0.1/register/".to_owned(),
        ephemeral_timeout: Duration::from_secs(120),
        offline_grace: Duration::from_secs(5),
        node_expiry: None,
    }
}

fn random() -> Random {
    let mut counter = 0u8;
    Box::new(move |bytes| {
        counter = counter.wrapping_add(1);
        bytes.fill(counter);
    })
}

impl Bench {
    fn new() -> Self {
        let now = Now {
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000),
            instant: Instant::now(),
        };
        Self {
            membership: Membership::new(settings(), Saved::default(), random(), now),
            now,
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now.wall += time;
        self.now.instant += time;
        self.membership.handle_timeout(self.now);
    }

    fn key(&mut self, change: impl FnOnce(&mut KeyOptions)) -> String {
        let mut options = KeyOptions::default();
        change(&mut options);
        self.membership.create_key(options, self.now).unwrap().to_string()
    }

    fn ask(&mut self, on: u8, request: &RegisterRequest) -> Registration {
        self.membership.register(&machine(on), request, self.now)
    }

    fn register(&mut self, on: u8, request: &RegisterRequest) -> RegisterResponse {
        match self.ask(on, request) {
            Registration::Answer(response) => *response,
            Registration::Wait => panic!("it waits"),
        }
    }

    /// Registers with a key; the text of the refusal, empty when it is accepted.
    fn join(&mut self, on: u8, node: u8, key: &str) -> String {
        self.register(on, &with_key(node, key)).error
    }

    fn node(&self, node: u8) -> Option<&Entry> {
        self.membership.owned(&machine(node), &node_key(node))
    }

    fn ids(&self) -> Vec<i64> {
        self.membership.nodes().map(|entry| entry.record.id.0).collect()
    }
}

fn bare(node: u8) -> RegisterRequest {
    RegisterRequest {
        version: 131,
        node_key: Some(node_key(node)),
        hostinfo: Some(Hostinfo {
            hostname: "worker".to_owned(),
            ..Hostinfo::default()
        }),
        ..RegisterRequest::default()
    }
}

fn with_key(node: u8, key: &str) -> RegisterRequest {
    RegisterRequest {
        auth: Some(RegisterAuth {
            auth_key: key.to_owned(),
        }),
        ..bare(node)
    }
}

#[test]
fn keys_have_headscales_form_and_only_their_hash_is_kept() {
    let mut bench = Bench::new();
    let key = bench.key(|_| {});
    assert!(key.starts_with("hskey-auth-") && key.len() == 88, "{key}");
    let kept = format!("{:?}", bench.membership.take_unsaved());
    assert!(!kept.contains(&key[key.len() - 64..]));
    let shown = &bench.membership.key_statuses()[0];
    assert!(key.starts_with(shown.key.trim_end_matches("***")));
}

#[test]
fn a_single_use_key_lets_one_machine_in() {
    let mut bench = Bench::new();
    let key = bench.key(|_| {});
    assert_eq!(bench.join(1, 1, &key), "");
    assert_eq!(bench.join(2, 2, &key), "authkey already used");
    assert_eq!(bench.join(1, 1, &key), "", "a restart with the same key and node key");
    assert_eq!(
        bench.join(1, 3, &key),
        "authkey already used",
        "a new node key needs a key that is good"
    );
    assert_eq!(bench.ids(), [1]);
}

#[test]
fn a_reusable_key_lets_many_in_and_an_expired_or_revoked_one_none() {
    let mut bench = Bench::new();
    let key = bench.key(|options| options.reusable = true);
    for number in 1..=3 {
        assert_eq!(bench.join(number, number, &key), "");
    }
    let names: Vec<&str> = bench
        .membership
        .nodes()
        .map(|entry| entry.record.name.as_str())
        .collect();
    assert_eq!(names, ["worker", "worker-1", "worker-2"]);
    bench.pass(Duration::from_secs(3601));
    assert_eq!(bench.join(4, 4, &key), "authkey expired");
    assert_eq!(bench.join(1, 1, &key), "", "a restart");
    let other = bench.key(|options| options.reusable = true);
    bench.membership.revoke_key(KeyId(2)).unwrap();
    assert_eq!(bench.join(4, 4, &other), "authkey revoked");
    assert!(bench.membership.revoke_key(KeyId(9)).is_err());
}

#[test]
fn keys_that_are_none_are_refused_with_headscales_texts() {
    let mut bench = Bench::new();
    let key = bench.key(|options| options.reusable = true);
    let wrong = format!(
        "{}{}",
        &key[..key.len() - 1],
        if key.ends_with('A') { 'B' } else { 'A' }
    );
    let foreign = format!("hskey-auth-{}", "x".repeat(77));
    for (text, expected) in [
        ("tskey-auth-abc", "invalid pre auth key"),
        (foreign.as_str(), "invalid pre auth key"),
        (
            "hskey-auth-abcd",
            "key too short, expected at least 77 chars after prefix, got 4",
        ),
        (wrong.as_str(), "hashedPassword is not the hash"),
        (
            "hskey-auth-ééééééééééééééééééééééééééééééééééééééééé",
            "invalid pre auth key",
        ),
    ] {
        let error = bench.join(1, 1, text);
        assert!(error.contains(expected), "{text}: {error}");
    }
    let missing = RegisterRequest {
        node_key: None,
        ..with_key(1, &key)
    };
    assert_ne!(bench.register(1, &missing).error, "");
    assert_eq!(bench.ids(), [0i64; 0]);
}

#[test]
fn another_machine_cannot_take_a_node_key() {
    let mut bench = Bench::new();
    let key = bench.key(|options| options.reusable = true);
    bench.join(1, 1, &key);
    assert!(
        bench
            .join(2, 1, &key)
            .contains("node key already in use by another machine")
    );
    assert_eq!(
        bench.register(2, &bare(1)).error,
        "node exists with a different machine key"
    );
    let logout = RegisterRequest {
        expiry: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(123)),
        ..bare(1)
    };
    assert_eq!(
        bench.register(2, &logout).error,
        "node exists with a different machine key"
    );
    assert!(!bench.node(1).unwrap().expired);
}

#[test]
fn rotation_keeps_the_node_and_frees_the_old_key() {
    let mut bench = Bench::new();
    let key = bench.key(|options| options.reusable = true);
    bench.join(1, 1, &key);
    let address = bench.node(1).unwrap().record.slot;
    assert_eq!(bench.join(1, 9, &key), "");
    assert_eq!(bench.ids(), [1]);
    let entry = bench.membership.owned(&machine(1), &node_key(9)).unwrap();
    assert_eq!(entry.record.slot, address);
    assert!(!bench.membership.admits_to_relay(&node_key(1)));
    assert!(bench.membership.admits_to_relay(&node_key(9)));
}

#[test]
fn refresh_expiry_and_coming_back() {
    let mut bench = Bench::new();
    let key = bench.key(|options| options.reusable = true);
    let mut request = with_key(1, &key);
    request.expiry = Some(bench.now.wall + Duration::from_secs(60));
    assert!(bench.register(1, &request).machine_authorized);
    let refreshed = bench.register(1, &bare(1));
    assert!(refreshed.machine_authorized && refreshed.user.display_name == "sandd");
    let extend = RegisterRequest {
        expiry: Some(bench.now.wall + Duration::from_secs(9999)),
        ..bare(1)
    };
    assert_eq!(bench.register(1, &extend).error, "extending key is not allowed");
    assert_eq!(bench.membership.next_timeout(bench.now), Some(Duration::from_secs(60)));
    bench.pass(Duration::from_secs(60));
    assert!(bench.node(1).unwrap().expired);
    assert!(!bench.membership.admits_to_relay(&node_key(1)));
    let expired = bench.register(1, &bare(1));
    assert!(expired.node_key_expired && !expired.machine_authorized);
    assert_eq!(
        bench.join(1, 1, &key),
        "",
        "a good key revives it, with the same node key as well"
    );
    assert!(!bench.node(1).unwrap().expired);
}

#[test]
fn logout_of_a_normal_an_ephemeral_and_an_unknown_node() {
    let mut bench = Bench::new();
    let key = bench.key(|options| options.reusable = true);
    let ephemeral = bench.key(|options| options.ephemeral = true);
    bench.join(1, 1, &key);
    bench.join(2, 2, &ephemeral);
    let logout = |node, key: &str| RegisterRequest {
        expiry: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(123)),
        ..with_key(node, key)
    };
    let answer = bench.register(1, &logout(1, &key));
    assert!(answer.node_key_expired && answer.machine_authorized);
    assert!(bench.node(1).unwrap().expired);
    let answer = bench.register(2, &logout(2, &key));
    assert!(answer.node_key_expired && !answer.machine_authorized);
    assert!(bench.node(2).is_none());
    let answer = bench.register(3, &logout(3, &key));
    assert!(answer.node_key_expired && answer.error.is_empty());
    assert!(bench.node(3).is_none(), "who leaves does not join");
}

#[test]
fn a_person_lets_a_node_in() {
    let mut bench = Bench::new();
    let url = bench.register(1, &bare(1)).auth_url;
    assert!(url.starts_with("http://127.0.0.1/register/hskey-authreq-"), "{url}");
    assert_eq!(
        bench.register(1, &bare(1)).auth_url,
        url,
        "asking again does not make a second login"
    );
    let follow_up = RegisterRequest {
        followup: url.clone(),
        ..bare(1)
    };
    assert_eq!(bench.ask(1, &follow_up), Registration::Wait);
    assert_eq!(bench.membership.login_requests()[0].hostname, "worker");
    let deny = |_: &str, _: &str| false;
    let id = bench.membership.approve_login(&url, "alice@", deny, bench.now).unwrap();
    let answer = bench.register(1, &follow_up);
    assert!(answer.machine_authorized && answer.login.login_name == "alice");
    assert!(bench.membership.approve_login(&url, "alice", deny, bench.now).is_err());
    assert_eq!(bench.ids(), [id.0]);
}

#[test]
fn logins_that_are_rejected_too_old_or_malformed() {
    let mut bench = Bench::new();
    let url = bench.register(1, &bare(1)).auth_url;
    let follow_up = |followup: &str| RegisterRequest {
        followup: followup.to_owned(),
        ..bare(1)
    };
    bench.membership.reject_login(&url).unwrap();
    let second = bench.register(1, &follow_up(&url)).auth_url;
    assert!(!second.is_empty() && second != url);
    bench.pass(Duration::from_secs(15 * 60));
    let third = bench.register(1, &follow_up(&second)).auth_url;
    assert!(!third.is_empty() && third != second);
    assert_eq!(
        bench.register(1, &follow_up("http://x/register/nonsense")).error,
        "invalid registration ID"
    );
    let other = bench.register(2, &follow_up(&third));
    assert!(
        !other.auth_url.is_empty() && other.auth_url != third,
        "another machine's login is not its own"
    );
}

#[test]
fn tags_come_with_keys_or_from_their_owners() {
    let mut bench = Bench::new();
    let tagged = bench.key(|options| {
        options.tags = vec!["tag:web".to_owned()];
        options.reusable = true;
    });
    let mut request = with_key(1, &tagged);
    request.expiry = Some(bench.now.wall + Duration::from_secs(60));
    let answer = bench.register(1, &request);
    assert_eq!(answer.user.id, 2_147_455_555);
    assert_eq!(bench.node(1).unwrap().record.expiry, None, "tagged nodes do not expire");

    let plain = bench.key(|options| options.reusable = true);
    bench.join(2, 2, &plain);
    assert_eq!(bench.join(2, 2, &tagged), "", "a user's node becomes a tagged one");
    assert_eq!(bench.node(2).unwrap().record.tags, ["tag:web"]);

    let mut asking = with_key(3, &plain);
    asking.hostinfo.as_mut().unwrap().request_tags = vec!["tag:web".to_owned()];
    let error = bench.register(3, &asking).error;
    assert!(
        error.contains("requested tags [tag:web] are invalid or not permitted"),
        "{error}"
    );

    asking.auth = None;
    let url = bench.register(3, &asking).auth_url;
    let refused = bench.membership.approve_login(&url, "bob", |_, _| false, bench.now);
    assert!(matches!(refused, Err(LoginError::Tags { .. })));
    bench
        .membership
        .approve_login(&url, "bob", |_, tag| tag == "tag:web", bench.now)
        .unwrap();
    assert_eq!(bench.node(3).unwrap().record.tags, ["tag:web"]);
    for tag in ["web", "tag:", "tag:1x", "tag:a b"] {
        let options = KeyOptions {
            tags: vec![tag.to_owned()],
            ..KeyOptions::default()
        };
        assert!(bench.membership.create_key(options, bench.now).is_err(), "{tag}");
    }
}

#[test]
fn one_machine_may_be_a_node_of_two_users() {
    let mut bench = Bench::new();
    let alice = bench.key(|options| options.user = Some("alice".to_owned()));
    let bob = bench.key(|options| options.user = Some("bob@".to_owned()));
    assert_eq!(bench.join(1, 1, &alice), "");
    assert_eq!(bench.join(1, 2, &bob), "");
    assert_eq!(bench.ids(), [1, 2]);
    let tagged = bench.key(|options| options.tags = vec!["tag:x".to_owned()]);
    assert_eq!(
        bench.join(1, 3, &tagged),
        "machine key maps to ambiguous node ownership"
    );
}

#[test]
fn ephemeral_nodes_go_when_they_stay_away() {
    let mut bench = Bench::new();
    let key = bench.key(|options| options.ephemeral = true);
    bench.join(1, 1, &key);
    let id = bench.node(1).unwrap().record.id;
    assert!(bench.membership.stream_opened(id));
    bench.pass(Duration::from_secs(500));
    assert!(bench.node(1).is_some(), "it is here");
    bench.membership.stream_closed(id, bench.now);
    assert_eq!(bench.membership.next_timeout(bench.now), Some(Duration::from_secs(5)));
    bench.pass(Duration::from_secs(119));
    assert!(!bench.node(1).unwrap().online);
    assert_eq!(bench.membership.next_timeout(bench.now), Some(Duration::from_secs(1)));
    bench.pass(Duration::from_secs(1));
    assert!(bench.node(1).is_none());
    assert_eq!(bench.membership.next_timeout(bench.now), None);
}

#[test]
fn a_map_request_needs_its_own_machine_and_keeps_what_it_does_not_say() {
    let mut bench = Bench::new();
    let key = bench.key(|_| {});
    bench.join(1, 1, &key);
    let request = |node| MapRequest {
        version: 131,
        node_key: Some(node_key(node)),
        disco_key: Some(DiscoPublicKey::from_bytes([5; 32])),
        endpoints: Some((1..100).map(|port| ([192, 0, 2, 1], port).into()).collect()),
        ..MapRequest::default()
    };
    assert_eq!(
        bench.membership.update(&machine(1), &request(2)),
        Err(MapRefusal::Unknown)
    );
    assert_eq!(
        bench.membership.update(&machine(2), &request(1)),
        Err(MapRefusal::OtherMachine)
    );
    bench.membership.update(&machine(1), &request(1)).unwrap();
    let record = &bench.node(1).unwrap().record;
    assert_eq!(record.endpoints.len(), 32);
    assert_eq!(record.hostinfo.hostname, "worker");
    let clear = MapRequest {
        endpoints: Some(Vec::new()),
        disco_key: None,
        ..request(1)
    };
    bench.membership.update(&machine(1), &clear).unwrap();
    let record = &bench.node(1).unwrap().record;
    assert!(record.endpoints.is_empty() && record.disco.is_some());
}

#[test]
fn a_node_is_renamed_when_it_calls_itself_otherwise() {
    let mut bench = Bench::new();
    let key = bench.key(|options| options.reusable = true);
    bench.join(1, 1, &key);
    bench.join(2, 2, &key);
    let rename = |hostname: &str| MapRequest {
        version: 131,
        node_key: Some(node_key(2)),
        hostinfo: Some(Hostinfo {
            hostname: hostname.to_owned(),
            ..Hostinfo::default()
        }),
        ..MapRequest::default()
    };
    for (hostname, name) in [
        ("Worker", "worker-1"),
        ("other", "other"),
        ("", "other"),
        ("worker", "worker-1"),
    ] {
        bench.membership.update(&machine(2), &rename(hostname)).unwrap();
        assert_eq!(bench.node(2).unwrap().record.name, name, "{hostname}");
    }
}

#[test]
fn what_is_saved_brings_the_same_members_back() {
    let mut bench = Bench::new();
    let key = bench.key(|options| options.reusable = true);
    bench.join(1, 1, &key);
    bench.join(2, 2, &key);
    bench.membership.remove_node(NodeId(1));
    let mut saved = Saved::default();
    for change in bench.membership.take_unsaved() {
        match change {
            Unsaved::User(user) => saved.users.push(user),
            Unsaved::Node(node) => {
                let json = serde_json::to_string(&node).unwrap();
                saved.nodes.push(serde_json::from_str(&json).unwrap());
            }
            Unsaved::Key(key) => saved.keys.push(key),
            Unsaved::NodeGone(_) => {}
        }
    }
    assert!(bench.membership.take_unsaved().is_empty());
    let mut again = Membership::new(settings(), saved, random(), bench.now);
    assert!(again.take_unsaved().is_empty());
    assert!(again.admits_to_relay(&node_key(2)) && !again.admits_to_relay(&node_key(1)));
    let Registration::Answer(answer) = again.register(&machine(3), &with_key(3, &key), bench.now) else {
        panic!("an answer");
    };
    assert_eq!(answer.error, "");
    let third = again.owned(&machine(3), &node_key(3)).unwrap();
    assert_eq!((third.record.id, third.record.slot), (NodeId(3), Slot(3)));
}

proptest! {
    #[test]
    fn no_key_text_makes_it_panic_or_lets_anybody_in(text in "\\PC{0,120}", prefixed in any::<bool>()) {
        let mut bench = Bench::new();
        bench.key(|_| {});
        let text = if prefixed { format!("hskey-auth-{text}") } else { text };
        let answer = bench.register(1, &with_key(1, &text));
        prop_assert!(!answer.machine_authorized);
        prop_assert!(bench.ids().is_empty());
    }
}
