//! The client against a coordinator that misbehaves on purpose: nothing it does may end the client, make it spin, or
//! leave the embedder without a word.

#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test's own code, outside its test functions"
)]

#[path = "fake_control/server.rs"]
mod server;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::StatusCode;
use sandd_control_client::dial::Dialer;
use sandd_control_client::keys::DiscoPrivateKey;
use sandd_control_client::{
    ControlClient, ControlConfig, ControlError, ControlEvent, ControlState, EndpointKind, MemoryStore, NetInfo,
    StateStore,
};
use server::{FakeControl, MapAnswer, first_map, message};
use tokio::sync::mpsc;

fn start(fake: &FakeControl, store: Arc<dyn StateStore>) -> (ControlClient, mpsc::Receiver<ControlEvent>) {
    let dialer = Dialer::new(None).unwrap();
    let mut config = ControlConfig::new(fake.url(), "node", DiscoPrivateKey::generate().public(), dialer);
    config.auth_key = Some("key".into());
    ControlClient::start(config, store).unwrap()
}

async fn next(events: &mut mpsc::Receiver<ControlEvent>) -> ControlEvent {
    let event = tokio::time::timeout(Duration::from_secs(10), events.recv()).await;
    event.expect("an event within 10 s").expect("the client runs")
}

async fn state(events: &mut mpsc::Receiver<ControlEvent>, wanted: impl Fn(&ControlState) -> bool) -> ControlState {
    loop {
        if let ControlEvent::State(state) = next(events).await
            && wanted(&state)
        {
            return state;
        }
    }
}

async fn connected(events: &mut mpsc::Receiver<ControlEvent>) {
    state(events, |state| matches!(state, ControlState::Connected)).await;
}

async fn disconnected(events: &mut mpsc::Receiver<ControlEvent>) -> (Arc<ControlError>, Duration) {
    match state(events, |state| matches!(state, ControlState::Disconnected { .. })).await {
        ControlState::Disconnected { error, retry_in } => (error, retry_in),
        other => panic!("{other:?}"),
    }
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_first_join_takes_one_connection_and_a_restart_needs_neither_key_nor_registration() {
    let fake = FakeControl::start().await;
    let store: Arc<dyn StateStore> = Arc::new(MemoryStore::new());
    let (client, mut events) = start(&fake, store.clone());
    client.set_endpoints(vec![("192.0.2.1:5".parse().unwrap(), EndpointKind::Local)]);
    connected(&mut events).await;
    assert_eq!(fake.connections.load(Ordering::SeqCst), 1);
    assert_eq!(fake.key_requests.load(Ordering::SeqCst), 1);
    let (registrations, streams) = fake.get(|script| (script.registrations.clone(), script.streams.clone()));
    assert_eq!((registrations.len(), streams.len()), (1, 1));
    assert!(
        registrations[0].contains(r#""Auth":{"AuthKey":"key"}"#) && registrations[0].contains(r#""Hostname":"node""#)
    );
    for part in [
        r#""Endpoints":["192.0.2.1:5"]"#,
        r#""EndpointTypes":[1]"#,
        r#""DiscoKey":"#,
        r#""Hostname":"node""#,
        r#""Compress":"zstd""#,
    ] {
        assert!(streams[0].contains(part), "{part} in {}", streams[0]);
    }
    client.set_net_info(NetInfo {
        preferred_derp: 7,
        ..NetInfo::default()
    });
    eventually("the home region is told", || {
        fake.get(|script| script.updates.len()) == 1
    })
    .await;
    client.shutdown().await;

    let (client, mut events) = start(&fake, store);
    assert!(
        matches!(next(&mut events).await, ControlEvent::Netmap(update) if update.cached && update.map.peers.len() == 2)
    );
    assert_eq!(client.saved_home().map(|home| home.0), Some(7));
    connected(&mut events).await;
    assert_eq!(fake.key_requests.load(Ordering::SeqCst), 1);
    assert_eq!(fake.connections.load(Ordering::SeqCst), 2);
    fake.get(|script| {
        assert_eq!(script.registrations.len(), 1);
        assert!(
            script.streams[1].contains(r#""PreferredDERP":7"#),
            "{}",
            script.streams[1]
        );
    });
}

#[tokio::test]
async fn an_early_payload_is_optional() {
    let fake = FakeControl::start().await;
    fake.set(|script| script.early_payload = false);
    let (_client, mut events) = start(&fake, Arc::new(MemoryStore::new()));
    connected(&mut events).await;
}

#[tokio::test]
async fn a_handshake_that_is_not_answered_is_explained() {
    let fake = FakeControl::start().await;
    fake.set(|script| script.refuse_handshake = true);
    let (_client, mut events) = start(&fake, Arc::new(MemoryStore::new()));
    let (error, _) = disconnected(&mut events).await;
    assert!(matches!(*error, ControlError::HandshakeClosed), "{error:?}");
    fake.set(|script| script.refuse_handshake = false);
    connected(&mut events).await;
}

#[tokio::test]
async fn bad_answers_end_the_connection_and_never_the_client() {
    let fake = FakeControl::start().await;
    let bomb = map_bomb();
    let half = message(&first_map(3));
    for (answer, word) in [
        (MapAnswer::BytesThenEnd(Vec::new()), "ended"),
        (MapAnswer::BytesThenEnd(half[..half.len() - 3].to_vec()), "ended"),
        (MapAnswer::Bytes(message("not json")), "cannot be read"),
        (MapAnswer::Bytes(message(r#"{"Peers":[]}"#)), "no usable self node"),
        (MapAnswer::Bytes(vec![0xff; 64]), "over the limit"),
        (MapAnswer::Bytes(bomb), "unpacks to more"),
        (
            MapAnswer::Status(StatusCode::INTERNAL_SERVER_ERROR, None, "internal\x1b[31m"),
            "answered 500",
        ),
        (
            MapAnswer::Status(StatusCode::BAD_REQUEST, None, "unsupported client version"),
            "unsupported client",
        ),
    ] {
        fake.set(|script| script.map = answer);
        let (_client, mut events) = start(&fake, Arc::new(MemoryStore::new()));
        let (error, _) = disconnected(&mut events).await;
        assert!(error.to_string().contains(word), "{word}: {error}");
        assert!(!error.to_string().contains('\x1b') && error.is_retryable());
        fake.set(|script| script.map = MapAnswer::Bytes(message(&first_map(1))));
        connected(&mut events).await;
    }
}

fn map_bomb() -> Vec<u8> {
    let packed = zstd::bulk::compress(&vec![b' '; map_limit() + 1], 1).unwrap();
    [&u32::try_from(packed.len()).unwrap().to_le_bytes()[..], &packed].concat()
}

fn map_limit() -> usize {
    sandd_control_client::map_stream::MAX_MESSAGE
}

#[tokio::test]
async fn retry_after_is_obeyed_and_failures_do_not_spin() {
    let fake = FakeControl::start().await;
    fake.set(|script| script.map = MapAnswer::Status(StatusCode::TOO_MANY_REQUESTS, Some("7"), "slow down"));
    let (client, mut events) = start(&fake, Arc::new(MemoryStore::new()));
    let (_, retry_in) = disconnected(&mut events).await;
    assert_eq!(retry_in, Duration::from_secs(7));
    client.reconnect_now();
    let (_, retry_in) = disconnected(&mut events).await;
    assert_eq!(retry_in, Duration::from_secs(7));

    fake.set(|script| script.map = MapAnswer::Status(StatusCode::INTERNAL_SERVER_ERROR, None, "no"));
    client.reconnect_now();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        disconnected(&mut events).await;
    }
    let streams = fake.get(|script| script.streams.len());
    assert!(streams <= 40, "{streams} requests in two seconds");
}

#[tokio::test]
async fn a_slow_embedder_gets_one_map_with_everything_in_it() {
    let fake = FakeControl::start().await;
    let (more, queue) = mpsc::channel(1);
    fake.set(|script| script.more = Some(queue));
    let (_client, mut events) = start(&fake, Arc::new(MemoryStore::new()));
    connected(&mut events).await;
    // More messages than the event queue holds; nobody reads meanwhile.
    for id in 10..200 {
        let key = format!("{id:064x}");
        let json =
            format!(r#"{{"PeersChanged":[{{"ID":{id},"Key":"nodekey:{key}","Addresses":["100.64.1.{id}/32"]}}]}}"#);
        more.send(message(&json)).await.unwrap();
    }
    let mut known = 2;
    let mut updates = 0;
    while known < 192 {
        if let ControlEvent::Netmap(update) = next(&mut events).await {
            known += update.delta.upserted.len();
            updates += 1;
            assert!(update.delta.removed.is_empty());
        }
    }
    assert!(updates <= 190);
}

#[tokio::test]
async fn a_flood_of_changes_becomes_few_updates() {
    let fake = FakeControl::start().await;
    let (client, mut events) = start(&fake, Arc::new(MemoryStore::new()));
    connected(&mut events).await;
    for port in 1..=500u16 {
        client.set_endpoints(vec![(([192, 0, 2, 1], port).into(), EndpointKind::Local)]);
        tokio::task::yield_now().await;
    }
    eventually("the last one is told", || {
        fake.get(|script| {
            script
                .updates
                .last()
                .is_some_and(|update| update.contains(r#""192.0.2.1:500""#))
        })
    })
    .await;
    assert!(fake.get(|script| script.updates.len()) <= 6);
    let told = fake.get(|script| script.updates.len());
    client.set_endpoints(vec![(([192, 0, 2, 1], 500).into(), EndpointKind::Local)]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(
        fake.get(|script| script.updates.len()),
        told,
        "the same again is not told"
    );
}

#[tokio::test]
async fn an_unknown_node_is_not_registered_for_ever() {
    let fake = FakeControl::start().await;
    fake.set(|script| script.map = MapAnswer::Status(StatusCode::NOT_FOUND, None, "node not found"));
    let (_client, mut events) = start(&fake, Arc::new(MemoryStore::new()));
    let stopped = state(&mut events, |state| matches!(state, ControlState::Stopped { .. })).await;
    assert!(matches!(stopped, ControlState::Stopped { error } if matches!(*error, ControlError::Removed)));
    assert!(fake.get(|script| script.registrations.len()) <= 4);
}

#[tokio::test]
async fn dropping_the_last_handle_ends_the_client() {
    let fake = FakeControl::start().await;
    let (client, mut events) = start(&fake, Arc::new(MemoryStore::new()));
    connected(&mut events).await;
    drop(client);
    while tokio::time::timeout(Duration::from_secs(5), events.recv())
        .await
        .expect("an end within 5 s")
        .is_some()
    {}
}
