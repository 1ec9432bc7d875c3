//! Time limits, made short: who is too slow, or silent, or does not read, is let go; who is served hears of it.

use std::time::Duration;

use sandd_mesh::derp::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{Node, Relay, soon, start};
use crate::{Coordinator, Limits};

async fn with(change: impl FnOnce(&mut Limits)) -> (Coordinator, String) {
    let mut limits = Limits::default();
    change(&mut limits);
    start(|builder| builder.limits(limits).offline_grace(Duration::ZERO)).await
}

/// Reads until the other side ends it.
async fn ends(mut tcp: TcpStream) -> usize {
    let mut rest = Vec::new();
    let _ = soon("the end", tcp.read_to_end(&mut rest)).await;
    rest.len()
}

#[tokio::test]
async fn a_client_that_never_gets_to_the_point_is_let_go() {
    let (coordinator, _) = with(|limits| limits.opening = Duration::from_millis(50)).await;
    let derp = "GET /derp HTTP/1.1\r\nHost: a\r\nUpgrade: DERP\r\nDerp-Fast-Start: 1\r\n\r\n";
    for (opening, most) in [("", 0), ("\x16\x03", 0), ("GET / HT", 0), (derp, 45)] {
        let mut tcp = TcpStream::connect(coordinator.listen_addr()).await.unwrap();
        tcp.write_all(opening.as_bytes()).await.unwrap();
        assert!(ends(tcp).await <= most, "{opening}");
    }
    let mut tcp = TcpStream::connect(coordinator.listen_addr()).await.unwrap();
    let dripping = async {
        while tcp.write_all(b"G").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("the end of a drip", dripping).await;
}

#[tokio::test]
async fn too_many_strangers_are_turned_away_and_members_do_not_count() {
    let (coordinator, key) = with(|limits| limits.strangers_per_address = 2).await;
    let (node, _maps) = Node::join(&coordinator, &key, "member").await;
    let connect = || TcpStream::connect(coordinator.listen_addr());
    let places = [connect().await.unwrap(), connect().await.unwrap()];
    assert_eq!(ends(connect().await.unwrap()).await, 0);
    assert_eq!(node.update(|_| {}).await, 200);
    drop(places);
    soon("a free place", async {
        loop {
            let mut tcp = connect().await.unwrap();
            let _ = tcp
                .write_all(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                .await;
            if ends(tcp).await > 0 {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_silent_stream_and_a_silent_relay_are_kept_alive() {
    let (coordinator, key) = with(|limits| {
        limits.map_keep_alive = Duration::from_millis(20);
        limits.relay_keep_alive = Duration::from_millis(20);
    })
    .await;
    let (node, mut maps) = Node::join(&coordinator, &key, "member").await;
    maps.next().await.unwrap();
    for _ in 0..3 {
        assert_eq!(maps.next_json().await.unwrap(), br#"{"KeepAlive":true}"#);
    }
    let mut relay = Relay::connect(coordinator.listen_addr(), &node.key, false)
        .await
        .unwrap();
    for _ in 0..3 {
        assert_eq!(
            relay.next_frame().await.unwrap().parse().unwrap(),
            Some(Frame::KeepAlive)
        );
    }
}

#[tokio::test]
async fn a_relay_client_that_does_not_read_is_cut_off_and_its_sender_is_not() {
    let (coordinator, key) = with(|limits| limits.relay_write = Duration::from_millis(50)).await;
    let (first, _maps) = Node::join(&coordinator, &key, "first").await;
    let (second, _others) = Node::join(&coordinator, &key, "second").await;
    let mut sender = Relay::connect(coordinator.listen_addr(), &first.key, false)
        .await
        .unwrap();
    let _deaf = Relay::connect(coordinator.listen_addr(), &second.key, false)
        .await
        .unwrap();
    let packet = vec![4u8; 60_000];
    let dst = second.key.public();
    soon("the cut", async {
        while coordinator.relay_clients() == 2 {
            sender.send(Frame::SendPacket { dst, packet: &packet }).await;
        }
    })
    .await;
    sender.send(Frame::Ping(*b"12345678")).await;
    assert_eq!(
        sender.next_frame().await.unwrap().parse().unwrap(),
        Some(Frame::Pong(*b"12345678"))
    );
}

#[tokio::test]
async fn a_node_that_answers_no_ping_is_offline() {
    let (coordinator, key) = with(|limits| {
        limits.ping = Duration::from_millis(20);
        limits.pong = Duration::from_millis(50);
    })
    .await;
    let (node, mut maps) = Node::join(&coordinator, &key, "member").await;
    maps.next().await.unwrap();
    assert!(coordinator.nodes()[0].online);
    node.control.stop_driving();
    soon("going offline", async {
        while coordinator.nodes()[0].online {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
