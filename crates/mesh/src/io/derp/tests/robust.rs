//! What goes wrong at relays, and how the pool gets over it.

use super::*;

async fn admitted(relay: &Relay, events: &mut mpsc::Receiver<DerpEvent>) -> Client {
    let mut client = relay.accept_and_admit().await;
    assert!(matches!(event(events).await, DerpEvent::Connected { .. }));
    client.expect(Frame::NotePreferred { home: true }).await;
    client
}

#[tokio::test]
async fn the_first_login_of_the_next_run_is_a_fast_one() {
    let relay = Relay::start().await;
    let (mut pool, mut events) = relay.pool(64);
    pool.set_home(Some(REGION));
    let client = admitted(&relay, &mut events).await;
    assert!(!client.head.contains("Fast-Start"));
    let kept = pool.server_keys();
    assert_eq!(kept.get(&relay.addr().to_string()), Some(&relay.key.public()));
    drop((pool, client));

    let (mut pool, mut events) = relay.pool(64);
    pool.set_server_keys(kept);
    pool.set_home(Some(REGION));
    let client = admitted(&relay, &mut events).await;
    assert!(client.head.contains("Derp-Fast-Start: 1"));
}

#[tokio::test]
async fn what_is_remembered_outlives_a_change_of_the_map() {
    let relay = Relay::start().await;
    let (mut pool, mut events) = relay.pool(64);
    pool.set_home(Some(REGION));
    let _old = admitted(&relay, &mut events).await;
    let mut map = DerpMap::clone(&relay.map());
    if let Some(region) = map.regions.get_mut(&REGION) {
        Arc::make_mut(region).name = "renamed".to_owned();
    }
    pool.set_map(Arc::new(map));
    assert!(disconnected(&mut events).await.contains("changed"));
    let client = admitted(&relay, &mut events).await;
    assert!(client.head.contains("Derp-Fast-Start: 1"));
}

#[tokio::test]
async fn the_next_server_of_the_region_is_tried_when_one_accepts_and_says_nonsense() {
    let (bad, good) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Relay::start().await);
    let (mut pool, mut events) = good.pool(64);
    let mut map = DerpMap::clone(&good.map());
    if let Some(region) = map.regions.get_mut(&REGION) {
        // Not the coordinator's port: it is greeted with TLS, and answers something else.
        let first = DerpNode {
            name: "900z".to_owned(),
            ..node("127.0.0.1", bad.local_addr().unwrap().port())
        };
        Arc::make_mut(region).nodes.insert(0, first);
    }
    pool.set_map(Arc::new(map));
    pool.set_home(Some(REGION));
    let (mut stream, _) = soon(bad.accept()).await.unwrap();
    stream.write_all(b"SSH-2.0-nonsense\r\n").await.unwrap();
    let client = admitted(&good, &mut events).await;
    assert!(client.head.contains("\r\nIdeal-Node: 900z\r\n"));
}

#[tokio::test]
async fn traffic_shows_within_seconds_that_a_relay_is_silent() {
    let relay = Relay::start().await;
    let (mut pool, mut events) = relay.pool(64);
    pool.set_home(Some(REGION));
    let mut old = admitted(&relay, &mut events).await;
    let silent_since = Instant::now();
    assert!(pool.send(REGION, &peer(), b"anybody there?"));
    // Nothing comes back; the ping of its own that follows is not answered either.
    let mut new = relay.accept_and_admit().await;
    new.expect(Frame::NotePreferred { home: true }).await;
    while old.next().await.is_some() {}
    assert!(pool.send(REGION, &peer(), b"hello"));
    let hello = Frame::SendPacket {
        dst: peer(),
        packet: b"hello",
    };
    new.expect(hello).await;
    let took = silent_since.elapsed();
    assert!(took < Duration::from_millis(2_500), "{took:?}");
}

#[tokio::test]
async fn a_second_connection_that_fails_is_tried_again_while_the_first_may_still_live() {
    let relay = Relay::start().await;
    let (mut pool, mut events) = relay.pool(64);
    pool.set_home(Some(REGION));
    let mut old = admitted(&relay, &mut events).await;
    pool.probe();
    for _ in 0..3 {
        let (stream, _) = soon(relay.listener.accept()).await.unwrap();
        drop(stream);
    }
    // What the first one still brings is taken.
    let packet = Frame::RecvPacket {
        src: peer(),
        packet: b"late",
    };
    old.send(packet).await;
    assert!(matches!(event(&mut events).await, DerpEvent::Packets { .. }));
    while let Some(raw) = old.next().await {
        if let Some(Frame::Ping(data)) = raw.parse().unwrap() {
            old.send(Frame::Pong(data)).await;
            break;
        }
    }
    assert!(pool.send(REGION, &peer(), b"back"));
    loop {
        let raw = old.next().await.expect("it was never given up");
        if let Some(Frame::SendPacket { packet, .. }) = raw.parse().unwrap() {
            assert_eq!(packet, b"back");
            break;
        }
    }
}

#[tokio::test]
async fn an_attempt_that_hangs_is_made_anew_when_the_network_changes() {
    let relay = Relay::start().await;
    let (mut pool, mut events) = relay.pool(64);
    pool.set_home(Some(REGION));
    let (_hangs, _) = soon(relay.listener.accept()).await.unwrap();
    let next = async {
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        loop {
            tokio::select! {
                client = relay.accept_and_admit() => return client,
                _ = tick.tick() => pool.probe(),
            }
        }
    };
    let began = Instant::now();
    let _client = next.await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(matches!(event(&mut events).await, DerpEvent::Connected { .. }));
}

#[tokio::test]
async fn a_relay_tells_of_its_own_health() {
    let relay = Relay::start().await;
    let (mut pool, mut events) = relay.pool(64);
    pool.set_home(Some(REGION));
    let mut client = admitted(&relay, &mut events).await;
    assert_eq!(pool.trouble(REGION), None);
    for (problem, expected) in [
        (&b"overloaded"[..], Some("the relay says: overloaded".to_owned())),
        (b"", None),
    ] {
        client.send(Frame::Health { problem }).await;
        client.send(Frame::Ping([3; 8])).await;
        client.expect(Frame::Pong([3; 8])).await;
        assert_eq!(pool.trouble(REGION), expected);
    }
    drop(client);
    assert!(matches!(event(&mut events).await, DerpEvent::Disconnected { .. }));
    drop(relay);
    while pool.trouble(REGION).is_none() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_relay_that_restarts_is_left_alone_until_it_is_back() {
    let relay = Relay::start().await;
    let (mut pool, mut events) = relay.pool(64);
    pool.set_home(Some(REGION));
    let mut client = admitted(&relay, &mut events).await;
    let told = Instant::now();
    let restarting = Frame::Restarting {
        reconnect_in: Duration::from_millis(600),
        try_for: Duration::from_secs(60),
    };
    client.send(restarting).await;
    assert!(disconnected(&mut events).await.contains("restarting"));
    let _client = admitted(&relay, &mut events).await;
    assert!(told.elapsed() >= Duration::from_millis(600), "{:?}", told.elapsed());
}
