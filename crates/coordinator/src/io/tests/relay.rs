//! The relay, from the socket on.

use sandd_control_client::keys::NodePrivateKey;
use sandd_mesh::derp::{Frame, PeerGoneReason};
use tokio::net::UdpSocket;

use super::client::{Node, Relay, soon, start};

const DISCO: &[u8] = "TS💬 and so on".as_bytes();

#[tokio::test]
async fn packets_go_from_member_to_member() {
    let (coordinator, key) = start(|builder| builder).await;
    let (first, _maps) = Node::join(&coordinator, &key, "first").await;
    let (second, _others) = Node::join(&coordinator, &key, "second").await;
    let address = coordinator.listen_addr();
    let mut one = Relay::connect(address, &first.key, false).await.unwrap();
    let mut other = Relay::connect(address, &second.key, true).await.unwrap();
    assert_eq!(coordinator.relay_clients(), 2);
    let packet = vec![4u8; 65_536];
    let frame = Frame::SendPacket {
        dst: second.key.public(),
        packet: &packet,
    };
    one.send(frame).await;
    let got = other.next_frame().await.unwrap();
    let expected = Frame::RecvPacket {
        src: first.key.public(),
        packet: &packet,
    };
    assert_eq!(got.parse().unwrap(), Some(expected));

    other.send(Frame::Ping(*b"12345678")).await;
    assert_eq!(
        other.next_frame().await.unwrap().parse().unwrap(),
        Some(Frame::Pong(*b"12345678"))
    );

    drop(one);
    let gone = Frame::PeerGone {
        key: first.key.public(),
        reason: PeerGoneReason::Disconnected,
    };
    assert_eq!(other.next_frame().await.unwrap().parse().unwrap(), Some(gone));
    let nobody = NodePrivateKey::generate().public();
    for packet in [b"\x04 no disco".as_slice(), DISCO] {
        other.send(Frame::SendPacket { dst: nobody, packet }).await;
    }
    let not_here = Frame::PeerGone {
        key: nobody,
        reason: PeerGoneReason::NotHere,
    };
    assert_eq!(other.next_frame().await.unwrap().parse().unwrap(), Some(not_here));
}

#[tokio::test]
async fn only_members_are_admitted_and_former_ones_thrown_off() {
    let (coordinator, key) = start(|builder| builder).await;
    let address = coordinator.listen_addr();
    for fast in [false, true] {
        assert!(
            Relay::connect(address, &NodePrivateKey::generate(), fast)
                .await
                .is_none()
        );
    }
    let (node, _maps) = Node::join(&coordinator, &key, "first").await;
    let mut relay = Relay::connect(address, &node.key, false).await.unwrap();
    coordinator.remove_node(coordinator.nodes()[0].id).await.unwrap();
    assert!(relay.next_frame().await.is_none());
    assert!(Relay::connect(address, &node.key, false).await.is_none());
}

#[tokio::test]
async fn what_only_relays_say_ends_the_connection_and_nothing_else() {
    let (coordinator, key) = start(|builder| builder).await;
    let address = coordinator.listen_addr();
    let (node, _maps) = Node::join(&coordinator, &key, "first").await;
    let mut relay = Relay::connect(address, &node.key, false).await.unwrap();
    relay.send(Frame::WatchConns).await;
    assert!(relay.next_frame().await.is_none());
    assert!(Relay::connect(address, &node.key, false).await.is_some());
}

#[tokio::test]
async fn stun_says_where_a_request_came_from() {
    let (coordinator, _) = start(|builder| builder.stun("127.0.0.1:0".parse().unwrap())).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(coordinator.stun_addr().unwrap()).await.unwrap();
    socket.send(b"garbage").await.unwrap();
    socket.send(&sandd_mesh::stun::binding_request(&[7; 12])).await.unwrap();
    let mut answer = [0u8; 200];
    let length = soon("an answer", socket.recv(&mut answer)).await.unwrap();
    let expected = ([7; 12], socket.local_addr().unwrap());
    assert_eq!(sandd_mesh::stun::parse_response(&answer[..length]), Some(expected));
}
