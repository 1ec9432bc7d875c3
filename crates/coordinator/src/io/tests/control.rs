//! Joining, maps, updates, leaving, and the switches for tests.

use std::time::{Duration, Instant, SystemTime};

use sandd_control_client::keys::NodePrivateKey;
use sandd_control_client::wire::{Hostinfo, MapResponse, NetInfo};

use super::client::{MapReader, Node, soon, start};
use crate::{CannedAnswer, Coordinator, CoordinatorBuilder, MapLie};

/// Reads until a message is what is waited for.
async fn until(reader: &mut MapReader, what: &str, wanted: impl Fn(&MapResponse) -> bool) -> MapResponse {
    loop {
        let message = reader
            .next()
            .await
            .unwrap_or_else(|| panic!("the stream ended before {what}"));
        if wanted(&message) {
            return message;
        }
    }
}

#[tokio::test]
async fn peers_learn_of_one_another_at_once() {
    let (coordinator, key) = start(|builder| builder).await;
    let (_first, mut maps) = Node::join(&coordinator, &key, "first").await;
    let full = maps.next().await.unwrap();
    assert!(full.peers.is_empty() && full.node.is_some() && full.derp_map.is_some());
    assert_eq!(full.dns_config.unwrap().domains, ["sandd.local"]);

    let began = Instant::now();
    let (second, mut others) = Node::join(&coordinator, &key, "second").await;
    let told = maps.next().await.unwrap();
    eprintln!("a join, from dialling to the peer being told: {:?}", began.elapsed());
    assert_eq!(told.peers_changed.len(), 1);
    assert_eq!(told.peers_changed[0].name, "second.sandd.local.");
    assert_eq!(told.peers_changed[0].online, Some(true));
    assert!(told.peers_changed[0].disco_key.is_some());
    assert_eq!(others.next().await.unwrap().peers[0].name, "first.sandd.local.");

    let status = second
        .update(|request| {
            request.endpoints = Some(vec!["192.0.2.1:5".parse().unwrap()]);
            request.hostinfo = Some(Hostinfo {
                net_info: Some(NetInfo {
                    preferred_derp: 999,
                    ..NetInfo::default()
                }),
                ..second.hostinfo()
            });
        })
        .await;
    assert_eq!(status, 200);
    let patched = maps.next().await.unwrap();
    assert!(patched.peers_changed.is_empty(), "{patched:?}");
    assert_eq!(patched.peers_changed_patch[0].derp_region, 999);

    let id = coordinator.nodes()[1].id;
    assert!(coordinator.remove_node(id).await.unwrap());
    assert_eq!(maps.next().await.unwrap().peers_removed, [id.0]);
    while others.next().await.is_some() {}
    assert_eq!(second.update(|_| {}).await, 404);
}

#[tokio::test]
async fn a_map_request_beside_the_registration_waits_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let (coordinator, key) = start(|builder| builder.state_file(directory.path().join("state.db"))).await;
    let node = Node::new(&coordinator, "x").await;
    let (answer, mut maps) = tokio::join!(node.register(Some(&key), |_| {}), node.stream("zstd"));
    assert!(answer.machine_authorized);
    assert!(maps.next().await.unwrap().node.is_some());
}

#[tokio::test]
async fn refusals_come_with_status_200_and_a_text() {
    let (coordinator, _) = start(|builder| builder).await;
    let node = Node::new(&coordinator, "x").await;
    assert_eq!(
        node.register(Some("nonsense"), |_| {}).await.error,
        "invalid pre auth key"
    );
    assert_eq!(node.update(|_| {}).await, 404);
    assert!(coordinator.nodes().is_empty());
}

#[tokio::test]
async fn a_waiting_login_is_answered_when_it_is_approved() {
    let (coordinator, _) = start(|builder| builder).await;
    let node = Node::new(&coordinator, "x").await;
    let url = node.register(None, |_| {}).await.auth_url;
    assert!(url.starts_with(&coordinator.url()), "{url}");
    let follow_up = node.register(None, |request| request.followup.clone_from(&url));
    let approve = async {
        tokio::task::yield_now().await;
        assert_eq!(coordinator.login_requests()[0].hostname, "x");
        coordinator.approve_login(&url, "alice").await.unwrap()
    };
    let (answer, id) = tokio::join!(follow_up, approve);
    assert!(answer.machine_authorized, "{answer:?}");
    assert_eq!(
        (coordinator.nodes()[0].id, coordinator.nodes()[0].user.as_str()),
        (id, "alice")
    );
}

#[tokio::test]
async fn expiry_rotation_and_a_new_policy_reach_the_stream() {
    let (coordinator, key) = start(|builder| builder).await;
    let (_first, mut maps) = Node::join(&coordinator, &key, "first").await;
    let (mut second, _others) = Node::join(&coordinator, &key, "second").await;
    until(&mut maps, "the peer", |message| !message.peers_changed.is_empty()).await;
    let id = coordinator.nodes()[1].id;
    assert!(coordinator.expire_node(id).await.unwrap());
    let expired = until(&mut maps, "the end of a key", |message| {
        !message.peers_changed.is_empty()
    })
    .await;
    assert!(expired.peers_changed[0].expired);
    assert!(second.register(None, |_| {}).await.node_key_expired);

    let old = std::mem::replace(&mut second.key, NodePrivateKey::generate());
    let answer = second
        .register(Some(&key), |request| request.old_node_key = Some(old.public()))
        .await;
    assert!(answer.machine_authorized);
    let rotated = until(&mut maps, "the new key", |message| !message.peers_changed.is_empty()).await;
    assert_eq!(rotated.peers_changed[0].key, Some(second.key.public()));
    assert!(!rotated.peers_changed[0].expired);

    coordinator.set_policy(r#"{"acls":[]}"#).await.unwrap();
    let closed = until(&mut maps, "the policy", |message| !message.packet_filters.is_empty()).await;
    assert_eq!(
        (closed.peers_removed, closed.packet_filters["base"].clone()),
        (vec![id.0], Some(vec![]))
    );
    assert!(coordinator.set_policy("nonsense").await.is_err());
}

#[tokio::test]
async fn a_state_file_survives_and_the_control_key_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let (coordinator, key) = start(|builder| builder.state_file(&path)).await;
    let (mut node, _maps) = Node::join(&coordinator, &key, "first").await;
    coordinator.set_policy(r#"{"acls":[]}"#).await.unwrap();
    let public = coordinator.public_key();
    let certificate = coordinator.certificate_pem().unwrap().to_owned();
    coordinator.shutdown().await;
    drop(coordinator);

    let again = Coordinator::builder().state_file(&path).start().await.unwrap();
    assert_eq!(again.public_key(), public);
    assert_eq!(again.certificate_pem().unwrap(), certificate);
    node.reconnect(&again).await;
    assert!(node.register(None, |_| {}).await.machine_authorized);
    let full = node.stream("").await.next().await.unwrap();
    assert_eq!(full.node.unwrap().addresses[0].to_string(), "100.64.0.1/32");
    assert_eq!(full.packet_filters["base"], Some(Vec::new()));
    assert_eq!(again.keys().len(), 1);
}

#[tokio::test]
async fn a_restart_keeps_address_key_and_members() {
    let (coordinator, key) = start(|builder| builder).await;
    let (mut node, mut maps) = Node::join(&coordinator, &key, "first").await;
    maps.next().await.unwrap();
    coordinator.restart(Duration::from_millis(1)).await.unwrap();
    while maps.next().await.is_some() {}
    node.reconnect(&coordinator).await;
    assert!(node.stream("zstd").await.next().await.unwrap().node.is_some());
}

#[tokio::test]
async fn hooks_lie_delay_answer_and_cut() {
    let (coordinator, key) = start(|builder| builder).await;
    let hooks = coordinator.hooks();
    let (node, mut maps) = Node::join(&coordinator, &key, "first").await;
    maps.next().await.unwrap();
    let id = coordinator.nodes()[0].id;

    hooks.push(
        id,
        &MapResponse {
            domain: "pushed".to_owned(),
            ..MapResponse::default()
        },
    );
    assert_eq!(maps.next().await.unwrap().domain, "pushed");

    hooks.set_map_liar(Some(|_, message: &mut MapResponse| {
        message.domain = "lie".to_owned();
        MapLie::Send
    }));
    assert_eq!(node.stream("").await.next().await.unwrap().domain, "lie");
    hooks.set_map_liar(Some(|_, _: &mut MapResponse| {
        MapLie::Replace(b"{\"KeepAlive\":true}".to_vec())
    }));
    assert!(node.stream("zstd").await.next().await.unwrap().keep_alive);
    hooks.set_map_liar(Some(|_, _: &mut MapResponse| MapLie::End));
    assert!(node.stream("").await.next().await.is_none());
    hooks.set_map_liar(None::<fn(_, &mut MapResponse) -> MapLie>);

    let canned = CannedAnswer {
        status: 503,
        body: "later".to_owned(),
    };
    hooks.set_answer("/machine/map", Some(canned));
    assert_eq!(node.update(|_| {}).await, 503);
    hooks.set_answer("/machine/map", None);

    hooks.set_delay(Some(Duration::from_millis(80)));
    let began = Instant::now();
    node.update(|_| {}).await;
    assert!(began.elapsed() >= Duration::from_millis(80));
    hooks.set_delay(None);

    hooks.cut();
    soon("the cut", async { while maps.next_json().await.is_some() {} }).await;
}

#[tokio::test]
async fn who_stays_away_is_offline_and_an_ephemeral_node_forgotten() {
    let configure = |builder: CoordinatorBuilder| {
        let builder = builder.offline_grace(Duration::from_millis(20));
        builder.ephemeral_timeout(Duration::from_millis(60))
    };
    let (coordinator, key) = start(configure).await;
    let (_first, mut maps) = Node::join(&coordinator, &key, "first").await;
    maps.next().await.unwrap();
    let node = Node::new(&coordinator, "second").await;
    node.register(Some(&key), |request| request.ephemeral = true).await;
    let others = node.stream("").await;
    until(&mut maps, "the peer", |message| !message.peers_changed.is_empty()).await;
    drop((node, others));
    let offline = until(&mut maps, "going offline", |message| {
        !message.peers_changed_patch.is_empty()
    })
    .await;
    assert_eq!(offline.peers_changed_patch[0].online, Some(false));
    until(&mut maps, "the removal", |message| !message.peers_removed.is_empty()).await;
}

#[tokio::test]
async fn logout_ends_an_ephemeral_node() {
    let (coordinator, key) = start(|builder| builder).await;
    let (_first, mut maps) = Node::join(&coordinator, &key, "first").await;
    maps.next().await.unwrap();
    let node = Node::new(&coordinator, "second").await;
    assert!(
        node.register(Some(&key), |request| request.ephemeral = true)
            .await
            .machine_authorized
    );
    let _others = node.stream("").await;
    until(&mut maps, "the peer", |message| !message.peers_changed.is_empty()).await;
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(123);
    let answer = node.register(None, |request| request.expiry = Some(long_ago)).await;
    assert!(answer.node_key_expired && !answer.machine_authorized);
    until(&mut maps, "the removal", |message| !message.peers_removed.is_empty()).await;
    assert_eq!(coordinator.nodes().len(), 1);
}
