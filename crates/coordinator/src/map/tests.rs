//! Maps by example, and one law: whoever applies every message knows what a whole map would say.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use proptest::prelude::*;
use sandd_control_client::keys::{DiscoPublicKey, MachinePublicKey, NodePublicKey};
use sandd_control_client::wire::{
    DnsConfig, Hostinfo, MapRequest, MapResponse, NetInfo, Node, RegisterAuth, RegisterRequest,
};

use super::*;
use crate::membership::{KeyOptions, Membership, NodeId, Now, Registration, Saved, Settings, WireGuardPeers};
use crate::policy::Policy;

struct Bench {
    membership: Membership,
    policy: Policy,
    policy_revision: u64,
    world: World,
    key: String,
    now: Now,
}

fn machine(number: u8) -> MachinePublicKey {
    MachinePublicKey::from_bytes([number; 32])
}

fn node_key(number: u8, generation: u8) -> NodePublicKey {
    let mut bytes = [number; 32];
    bytes[0] = generation;
    NodePublicKey::from_bytes(bytes)
}

impl Bench {
    fn new() -> Self {
        let now = Now {
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000),
            instant: Instant::now(),
        };
        let settings = Settings {
            login_url: "http://127.0.0.1/register/".to_owned(),
            ephemeral_timeout: Duration::from_secs(120),
            offline_grace: Duration::from_secs(5),
            node_expiry: None,
        };
        let mut counter = 0u8;
        let random = move |bytes: &mut [u8]| {
            counter = counter.wrapping_add(1);
            bytes.fill(counter);
        };
        let mut membership = Membership::new(settings, Saved::default(), Box::new(random), now);
        let options = KeyOptions {
            reusable: true,
            expiry: None,
            ..KeyOptions::default()
        };
        let key = membership.create_key(options, now).unwrap().to_string();
        Self {
            membership,
            policy: Policy::allow_all(),
            policy_revision: 1,
            world: World::new("sandd.local"),
            key,
            now,
        }
    }

    fn register(&mut self, number: u8, generation: u8) {
        let request = RegisterRequest {
            version: 131,
            node_key: Some(node_key(number, generation)),
            auth: Some(RegisterAuth {
                auth_key: self.key.clone(),
            }),
            hostinfo: Some(Hostinfo {
                hostname: format!("host-{number}"),
                ..Hostinfo::default()
            }),
            ..RegisterRequest::default()
        };
        let Registration::Answer(answer) = self.membership.register(&machine(number), &request, self.now) else {
            panic!("an answer");
        };
        assert_eq!(answer.error, "");
    }

    fn update(&mut self, number: u8, generation: u8, request: MapRequest) -> NodeId {
        let request = MapRequest {
            version: 131,
            node_key: Some(node_key(number, generation)),
            ..request
        };
        self.membership.update(&machine(number), &request).unwrap()
    }

    /// Registers, introduces and opens a stream.
    fn join(&mut self, number: u8) -> NodeId {
        self.register(number, 0);
        let request = MapRequest {
            disco_key: Some(DiscoPublicKey::from_bytes([number; 32])),
            ..MapRequest::default()
        };
        let id = self.update(number, 0, request);
        self.membership.stream_opened(id);
        id
    }

    fn advance(&mut self) {
        self.world = self.world.next(&self.membership, &self.policy, self.policy_revision);
    }

    fn full(&mut self, writer: &mut MapWriter) -> MapResponse {
        self.advance();
        message(writer.full(
            &self.world,
            &derp(),
            &DnsConfig::default(),
            "sandd.local",
            self.now.wall,
        ))
    }

    fn delta(&mut self, writer: &mut MapWriter) -> Told {
        self.advance();
        writer.delta(&self.world)
    }
}

fn derp() -> sandd_control_client::wire::DerpMap {
    derp_map(&RelayAddress {
        host: "127.0.0.1".to_owned(),
        port: 1,
        stun_port: Some(2),
        certificate: None,
    })
}

fn message(told: Told) -> MapResponse {
    match told {
        Told::Message(message) => *message,
        Told::Nothing | Told::Gone => panic!("{told:?}"),
    }
}

#[test]
fn a_first_message_is_whole() {
    let mut bench = Bench::new();
    let first = bench.join(1);
    bench.join(2);
    let full = bench.full(&mut MapWriter::new(first));
    let own = full.node.as_ref().unwrap();
    assert_eq!(own.name, "host-1.sandd.local.");
    assert!(own.cap_map.contains_key("magicdns-aaaa"));
    assert_eq!(full.peers.len(), 1);
    assert_eq!(full.peers[0].name, "host-2.sandd.local.");
    assert_eq!(full.peers[0].addresses[0].to_string(), "100.64.0.2/32");
    assert_eq!(full.peers[0].online, Some(true));
    assert_eq!(full.user_profiles.len(), 1);
    assert!(full.packet_filters["base"].as_ref().unwrap().len() == 1 && full.derp_map.is_some());
}

#[test]
fn a_peer_is_told_only_when_it_can_be_reached() {
    let mut bench = Bench::new();
    let first = bench.join(1);
    let mut writer = MapWriter::new(first);
    bench.full(&mut writer);
    bench.register(2, 0);
    assert_eq!(
        bench.delta(&mut writer),
        Told::Nothing,
        "registered, but it has no disco key and no home yet"
    );
    bench.join(2);
    let joined = message(bench.delta(&mut writer));
    assert_eq!(joined.peers_changed.len(), 1);
    assert!(joined.node.is_none() && joined.packet_filters.is_empty());
}

#[test]
fn what_a_patch_can_say_is_a_patch() {
    let mut bench = Bench::new();
    let first = bench.join(1);
    let second = bench.join(2);
    let mut writer = MapWriter::new(first);
    bench.full(&mut writer);
    let request = MapRequest {
        endpoints: Some(vec!["192.0.2.7:41641".parse().unwrap()]),
        hostinfo: Some(Hostinfo {
            hostname: "host-2".to_owned(),
            net_info: Some(NetInfo {
                preferred_derp: 999,
                ..NetInfo::default()
            }),
            ..Hostinfo::default()
        }),
        ..MapRequest::default()
    };
    bench.update(2, 0, request.clone());
    let patched = message(bench.delta(&mut writer));
    assert!(patched.peers_changed.is_empty());
    let change = &patched.peers_changed_patch[0];
    assert_eq!((change.node_id, change.derp_region), (second.0, 999));
    assert_eq!(change.endpoints.as_ref().unwrap().len(), 1);
    assert!(change.online.is_none() && change.disco_key.is_none());
    bench.update(2, 0, request);
    assert_eq!(bench.delta(&mut writer), Told::Nothing, "the same again wakes nobody");
}

#[test]
fn going_offline_a_new_key_and_leaving() {
    let mut bench = Bench::new();
    let first = bench.join(1);
    let second = bench.join(2);
    let mut writer = MapWriter::new(first);
    bench.full(&mut writer);
    bench.membership.stream_closed(second, bench.now);
    bench.membership.handle_timeout(bench.now);
    assert_eq!(bench.delta(&mut writer), Told::Nothing, "within the grace");
    bench.now.instant += Duration::from_secs(6);
    bench.membership.handle_timeout(bench.now);
    let offline = message(bench.delta(&mut writer));
    assert_eq!(offline.peers_changed_patch[0].online, Some(false));
    assert!(offline.peers_changed_patch[0].last_seen.is_some());

    bench.register(2, 1);
    let rotated = message(bench.delta(&mut writer));
    assert_eq!(rotated.peers_changed[0].key, Some(node_key(2, 1)));

    bench.membership.remove_node(second);
    let gone = message(bench.delta(&mut writer));
    assert_eq!(gone.peers_removed, [second.0]);
    bench.membership.remove_node(first);
    assert_eq!(bench.delta(&mut writer), Told::Gone);
}

#[test]
fn a_new_policy_changes_filter_and_sight() {
    let mut bench = Bench::new();
    let first = bench.join(1);
    let second = bench.join(2);
    let mut writer = MapWriter::new(first);
    bench.full(&mut writer);
    bench.policy = Policy::parse(r#"{"acls":[]}"#).unwrap();
    bench.policy_revision += 1;
    let closed = message(bench.delta(&mut writer));
    assert_eq!(closed.peers_removed, [second.0]);
    assert_eq!(closed.packet_filters["base"], Some(Vec::new()));
    bench.policy = Policy::allow_all();
    bench.policy_revision += 1;
    let opened = message(bench.delta(&mut writer));
    assert_eq!(opened.peers_changed.len(), 1);
    assert_eq!(opened.packet_filters["base"].as_ref().unwrap().len(), 1);
}

#[test]
fn plain_peers_are_told_as_such_and_under_the_policy() {
    let mut bench = Bench::new();
    let first = bench.join(1);
    let mut writer = MapWriter::new(first);
    bench.full(&mut writer);
    let text = |address: &str| {
        format!(
            r#"{{"peers": [{{"name": "router", "publicKey": "{}", "endpoints": ["192.0.2.9:51820"],
                "addresses": ["{address}"], "tags": ["tag:plain"]}}]}}"#,
            node_key(77, 0)
        )
    };
    let set = |bench: &mut Bench, text: &str| {
        let peers = WireGuardPeers::parse(text).unwrap();
        bench.membership.set_plain(&peers, bench.now).unwrap();
    };
    set(&mut bench, &text("100.64.200.1"));
    let told = message(bench.delta(&mut writer));
    let peer = &told.peers_changed[0];
    assert!(peer.is_wireguard_only && peer.machine_authorized && peer.online == Some(true));
    assert!(peer.disco_key.is_none() && peer.home_derp == 0 && peer.cap == 0);
    assert_eq!(peer.name, "router.sandd.local.");
    assert_eq!(peer.allowed_ips.as_ref(), Some(&peer.addresses));
    assert_eq!(peer.endpoints.len(), 1);
    assert!(told.packet_filters.is_empty(), "everybody may, as before");

    bench.policy = Policy::parse(
        r#"{"tagOwners": {"tag:plain": []},
            "acls": [{"action": "accept", "src": ["tag:plain"], "dst": ["sandd@:22"]}]}"#,
    )
    .unwrap();
    bench.policy_revision += 1;
    let narrowed = message(bench.delta(&mut writer));
    let rules = narrowed.packet_filters["base"].as_ref().unwrap();
    assert_eq!(rules[0].src_ips, ["100.64.200.1"]);
    set(&mut bench, &text("100.64.200.2"));
    let moved = message(bench.delta(&mut writer));
    assert_eq!(
        moved.packet_filters["base"].as_ref().unwrap()[0].src_ips,
        ["100.64.200.2"]
    );
    assert_eq!(moved.peers_changed[0].addresses[0].to_string(), "100.64.200.2/32");

    bench.policy = Policy::parse(r#"{"acls":[]}"#).unwrap();
    bench.policy_revision += 1;
    let closed = message(bench.delta(&mut writer));
    assert_eq!(closed.peers_removed, [peer.id]);
    bench.policy = Policy::allow_all();
    bench.policy_revision += 1;
    assert_eq!(message(bench.delta(&mut writer)).peers_changed.len(), 1);
    bench
        .membership
        .set_plain(&WireGuardPeers::default(), bench.now)
        .unwrap();
    assert_eq!(message(bench.delta(&mut writer)).peers_removed, [peer.id]);
}

/// A client that applies messages by the protocol's rules and nothing else.
#[derive(Debug, Default, Clone, PartialEq)]
struct Reader {
    own: Option<Node>,
    peers: BTreeMap<i64, Node>,
    rules: serde_json::Value,
}

impl Reader {
    fn apply(&mut self, message: &MapResponse) {
        if !message.peers.is_empty() {
            self.peers = message.peers.iter().map(|node| (node.id, node.clone())).collect();
        }
        for id in &message.peers_removed {
            self.peers.remove(id);
        }
        for node in &message.peers_changed {
            self.peers.insert(node.id, node.clone());
        }
        for change in &message.peers_changed_patch {
            let peer = self.peers.get_mut(&change.node_id).unwrap();
            if change.derp_region != 0 {
                peer.home_derp = change.derp_region;
            }
            if change.cap != 0 {
                peer.cap = change.cap;
            }
            if let Some(endpoints) = &change.endpoints {
                peer.endpoints.clone_from(endpoints);
            }
            peer.disco_key = change.disco_key.or(peer.disco_key);
            peer.online = change.online.or(peer.online);
            peer.last_seen = change.last_seen.or(peer.last_seen);
        }
        if let Some(node) = &message.node {
            self.own = Some(Node::clone(node));
        }
        if let Some(rules) = message.packet_filters.get("base") {
            self.rules = serde_json::to_value(rules).unwrap();
        }
        for peer in self.peers.values_mut().filter(|peer| peer.online == Some(true)) {
            peer.last_seen = None;
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Join(u8),
    Rekey(u8, u8),
    Endpoints(u8, u16),
    Home(u8, i64),
    Disco(u8, u8),
    Offline(u8),
    Online(u8),
    Remove(u8),
    Close,
    Open,
    Tell,
}

fn step() -> impl Strategy<Value = Step> {
    let number = 1u8..6;
    prop_oneof![
        3 => number.clone().prop_map(Step::Join),
        1 => (number.clone(), 1u8..4).prop_map(|(n, g)| Step::Rekey(n, g)),
        2 => (number.clone(), 1u16..4).prop_map(|(n, p)| Step::Endpoints(n, p)),
        1 => (number.clone(), 900i64..903).prop_map(|(n, r)| Step::Home(n, r)),
        1 => (number.clone(), 1u8..9).prop_map(|(n, k)| Step::Disco(n, k)),
        1 => number.clone().prop_map(Step::Offline),
        1 => number.clone().prop_map(Step::Online),
        1 => number.prop_map(Step::Remove),
        1 => Just(Step::Close),
        1 => Just(Step::Open),
        3 => Just(Step::Tell),
    ]
}

/// One change of what a node says of itself.
fn report(bench: &mut Bench, known: Option<(u8, NodeId)>, number: u8, request: MapRequest) {
    if let Some((generation, _)) = known {
        bench.update(number, generation, request);
    }
}

fn carry_out(bench: &mut Bench, generations: &mut BTreeMap<u8, (u8, NodeId)>, step: &Step) {
    let lookup = |number: &u8| generations.get(number).copied();
    match step {
        Step::Join(number) if lookup(number).is_none() => {
            let id = bench.join(*number);
            generations.insert(*number, (0, id));
        }
        Step::Rekey(number, generation) => {
            if let Some((_, id)) = lookup(number) {
                bench.register(*number, *generation);
                generations.insert(*number, (*generation, id));
            }
        }
        Step::Endpoints(number, port) => {
            let endpoints = Some(vec![format!("192.0.2.1:{port}").parse().unwrap()]);
            let request = MapRequest {
                endpoints,
                ..MapRequest::default()
            };
            report(bench, lookup(number), *number, request);
        }
        Step::Home(number, region) => {
            let net_info = Some(NetInfo {
                preferred_derp: *region,
                ..NetInfo::default()
            });
            let hostinfo = Some(Hostinfo {
                net_info,
                ..Hostinfo::default()
            });
            let request = MapRequest {
                hostinfo,
                ..MapRequest::default()
            };
            report(bench, lookup(number), *number, request);
        }
        Step::Disco(number, key) => {
            let request = MapRequest {
                disco_key: Some(DiscoPublicKey::from_bytes([*key; 32])),
                ..MapRequest::default()
            };
            report(bench, lookup(number), *number, request);
        }
        Step::Offline(number) => {
            if let Some((_, id)) = lookup(number) {
                bench.membership.stream_closed(id, bench.now);
                bench.now.instant += Duration::from_secs(9);
                bench.now.wall += Duration::from_secs(9);
                bench.membership.handle_timeout(bench.now);
            }
        }
        Step::Online(number) => {
            if let Some((_, id)) = lookup(number) {
                bench.membership.stream_opened(id);
            }
        }
        Step::Remove(number) if *number != 1 => {
            if let Some((_, id)) = generations.remove(number) {
                bench.membership.remove_node(id);
            }
        }
        Step::Close | Step::Open => {
            let text = if matches!(step, Step::Close) {
                r#"{"acls":[]}"#
            } else {
                "{}"
            };
            bench.policy = Policy::parse(text).unwrap();
            bench.policy_revision += 1;
        }
        Step::Join(_) | Step::Remove(_) | Step::Tell => {}
    }
}

proptest! {
    #[test]
    fn deltas_add_up_to_the_whole(steps in prop::collection::vec(step(), 1..60)) {
        let mut bench = Bench::new();
        let id = bench.join(1);
        let mut generations = BTreeMap::from([(1, (0, id))]);
        let mut writer = MapWriter::new(id);
        let mut reader = Reader::default();
        reader.apply(&bench.full(&mut writer));
        for step in steps.iter().chain([&Step::Tell]) {
            carry_out(&mut bench, &mut generations, step);
            if matches!(step, Step::Tell) {
                if let Told::Message(message) = bench.delta(&mut writer) {
                    reader.apply(&message);
                }
                let mut fresh = Reader::default();
                fresh.apply(&bench.full(&mut MapWriter::new(id)));
                prop_assert_eq!(&reader, &fresh);
                prop_assert_eq!(bench.delta(&mut writer), Told::Nothing);
            }
        }
    }
}
