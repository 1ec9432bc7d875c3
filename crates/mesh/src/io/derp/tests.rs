//! The pool against a small relay in this process; the real ones are in the end-to-end tests.

mod real;
mod robust;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use sandd_control_client::ControlUrl;
use sandd_control_client::dial::Dialer;
use sandd_control_client::keys::{NodePrivateKey, NodePublicKey};
use sandd_control_client::netmap::{DerpMap, DerpNode, DerpRegion, RegionId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;
use crate::derp::{Frame, FrameDecoder, RawFrame, ServerInfo, ServerLogin};

const REGION: RegionId = RegionId(900);
/// No test waits longer for anything; it is never the expected way.
const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it happens in time")
}

struct Relay {
    listener: TcpListener,
    key: NodePrivateKey,
}

fn node(host: &str, port: u16) -> DerpNode {
    DerpNode {
        name: "900a".to_owned(),
        host_name: host.to_owned(),
        cert_name: String::new(),
        ipv4: String::new(),
        ipv6: String::new(),
        derp_port: port,
        stun_port: None,
        stun_only: false,
        insecure_for_tests: false,
        stun_test_ip: String::new(),
    }
}

fn map_of(node: DerpNode) -> Arc<DerpMap> {
    let region = DerpRegion {
        id: REGION,
        code: "test".to_owned(),
        name: "test".to_owned(),
        no_measure_no_home: false,
        avoid: false,
        nodes: vec![node],
    };
    Arc::new(DerpMap {
        regions: BTreeMap::from([(REGION, Arc::new(region))]),
        home_scores: BTreeMap::new(),
    })
}

/// One client as the relay sees it.
struct Client {
    stream: TcpStream,
    head: String,
    decoder: FrameDecoder,
    key: NodePublicKey,
}

impl Relay {
    async fn start() -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            key: NodePrivateKey::generate(),
        }
    }

    fn addr(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    fn map(&self) -> Arc<DerpMap> {
        map_of(node("127.0.0.1", self.addr().port()))
    }

    fn pool(&self, events: usize) -> (DerpPool, mpsc::Receiver<DerpEvent>) {
        let (sender, receiver) = mpsc::channel(events);
        let control = ControlUrl::parse(&format!("http://{}", self.addr())).unwrap();
        let mut pool = DerpPool::new(NodePrivateKey::generate(), Dialer::new(None).unwrap(), control, sender);
        pool.set_map(self.map());
        (pool, receiver)
    }

    /// Takes a connection up to the client's info, without admitting it.
    async fn accept(&self) -> Client {
        soon(async {
            let (mut stream, _) = self.listener.accept().await.unwrap();
            let mut bytes = BytesMut::new();
            let end = loop {
                if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                    break at + 4;
                }
                assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0);
            };
            let head = String::from_utf8(bytes.split_to(end).to_vec()).unwrap();
            let mut answer = BytesMut::new();
            if !head.contains("Derp-Fast-Start: 1") {
                answer.extend_from_slice(
                    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n",
                );
            }
            let login = ServerLogin::new(self.key.clone());
            login.greet(&mut answer);
            stream.write_all(&answer).await.unwrap();
            let mut decoder = FrameDecoder::server();
            decoder.buffer().extend_from_slice(&bytes);
            let mut client = Client {
                stream,
                head,
                decoder,
                key: NodePublicKey::from_bytes([0; 32]),
            };
            let raw = client.next().await.expect("the client greets");
            client.key = login.client_info(&raw.parse().unwrap().unwrap()).unwrap().0;
            client
        })
        .await
    }

    async fn admit(&self, client: &mut Client) {
        let mut out = BytesMut::new();
        ServerLogin::new(self.key.clone()).admit(&client.key, &ServerInfo::current(), &mut out);
        client.stream.write_all(&out).await.unwrap();
    }

    async fn accept_and_admit(&self) -> Client {
        let mut client = self.accept().await;
        self.admit(&mut client).await;
        client
    }
}

impl Client {
    /// The next frame; nothing when the client has gone.
    async fn next(&mut self) -> Option<RawFrame> {
        soon(async {
            loop {
                if let Some(raw) = self.decoder.next_frame().unwrap() {
                    return Some(raw);
                }
                if self.stream.read_buf(self.decoder.buffer()).await.unwrap_or(0) == 0 {
                    return None;
                }
            }
        })
        .await
    }

    async fn expect(&mut self, frame: Frame<'_>) {
        let raw = self.next().await.expect("the client is there");
        assert_eq!(raw.parse().unwrap(), Some(frame));
    }

    async fn send(&mut self, frame: Frame<'_>) {
        self.stream.write_all(&frame.encode()).await.unwrap();
    }
}

async fn event(events: &mut mpsc::Receiver<DerpEvent>) -> DerpEvent {
    soon(events.recv()).await.expect("the pool is there")
}

async fn disconnected(events: &mut mpsc::Receiver<DerpEvent>) -> String {
    let news = event(events).await;
    let DerpEvent::Disconnected { error, .. } = news else {
        panic!("{news:?}")
    };
    error
}

fn peer() -> NodePublicKey {
    NodePublicKey::from_bytes([7; 32])
}

#[tokio::test]
async fn what_was_sent_before_the_connection_arrives_behind_the_login() {
    let relay = Relay::start().await;
    let (mut pool, mut events) = relay.pool(64);
    pool.set_home(Some(REGION));
    for number in 0..3u8 {
        assert!(pool.send(REGION, &peer(), &[number]));
    }
    assert!(!pool.send(RegionId(1), &peer(), b"no such region"));
    let mut client = relay.accept().await;
    assert!(!pool.is_connected(REGION));
    client.expect(Frame::NotePreferred { home: true }).await;
    for number in 0..3u8 {
        client
            .expect(Frame::SendPacket {
                dst: peer(),
                packet: &[number],
            })
            .await;
    }
    relay.admit(&mut client).await;
    assert!(matches!(
        event(&mut events).await,
        DerpEvent::Connected { region: REGION }
    ));
    assert!(pool.is_connected(REGION));
    assert!(pool.connect_time(REGION).is_some());
    client
        .send(Frame::RecvPacket {
            src: peer(),
            packet: b"hello",
        })
        .await;
    client
        .send(Frame::PeerGone {
            key: peer(),
            reason: PeerGoneReason::NotHere,
        })
        .await;
    let packet = event(&mut events).await;
    let DerpEvent::Packets {
        region: REGION,
        src,
        packets,
    } = packet
    else {
        panic!("{packet:?}")
    };
    assert_eq!((src, packets.bytes(), packets.count()), (peer(), &b"hello"[..], 1));
    assert!(matches!(
        event(&mut events).await,
        DerpEvent::PeerGone {
            reason: PeerGoneReason::NotHere,
            ..
        }
    ));
    pool.set_home(None);
    client.expect(Frame::NotePreferred { home: false }).await;
}

#[tokio::test]
async fn a_region_that_nobody_needs_is_not_connected() {
    let relay = Relay::start().await;
    let (mut pool, mut events) = relay.pool(64);
    pool.send(REGION, &peer(), b"first");
    let mut client = relay.accept_and_admit().await;
    client.expect(Frame::NotePreferred { home: false }).await;
    client
        .expect(Frame::SendPacket {
            dst: peer(),
            packet: b"first",
        })
        .await;
    assert!(matches!(event(&mut events).await, DerpEvent::Connected { .. }));
    pool.shutdown().await;
    assert!(client.next().await.is_none());
}

#[tokio::test]
async fn a_lost_connection_comes_back_at_once_with_a_fast_start() {
    let relay = Relay::start().await;
    let (mut pool, mut events) = relay.pool(64);
    pool.set_home(Some(REGION));
    let client = relay.accept_and_admit().await;
    assert!(!client.head.contains("Fast-Start"));
    assert!(matches!(event(&mut events).await, DerpEvent::Connected { .. }));
    drop(client);
    assert!(matches!(event(&mut events).await, DerpEvent::Disconnected { .. }));
    let mut client = relay.accept_and_admit().await;
    assert!(client.head.contains("Derp-Fast-Start: 1"));
    client.expect(Frame::NotePreferred { home: true }).await;
    assert!(matches!(event(&mut events).await, DerpEvent::Connected { .. }));
}

#[tokio::test]
async fn a_relay_with_a_new_key_is_greeted_the_long_way_again() {
    let mut relay = Relay::start().await;
    let (mut pool, mut events) = relay.pool(64);
    pool.set_home(Some(REGION));
    drop(relay.accept_and_admit().await);
    assert!(matches!(event(&mut events).await, DerpEvent::Connected { .. }));
    assert!(matches!(event(&mut events).await, DerpEvent::Disconnected { .. }));
    relay.key = NodePrivateKey::generate();
    // The box of the fast start cannot be opened with the new key: a real server hangs up here.
    let (stream, _) = soon(relay.listener.accept()).await.unwrap();
    drop(stream);
    let client = relay.accept_and_admit().await;
    assert!(!client.head.contains("Fast-Start"));
    assert!(matches!(event(&mut events).await, DerpEvent::Connected { .. }));
}

#[tokio::test]
async fn a_node_that_is_not_admitted_is_told_so_once_and_waits() {
    let relay = Relay::start().await;
    let (mut pool, mut events) = relay.pool(64);
    pool.set_home(Some(REGION));
    drop(relay.accept().await);
    let error = disconnected(&mut events).await;
    assert!(error.contains("does not admit this node"), "{error}");
    // A second refusal is no news; being admitted is.
    drop(relay.accept().await);
    relay.accept_and_admit().await;
    assert!(matches!(event(&mut events).await, DerpEvent::Connected { .. }));
}

#[tokio::test]
async fn a_driver_that_does_not_listen_does_not_stop_the_reading() {
    let relay = Relay::start().await;
    let (mut pool, mut events) = relay.pool(RESERVED_EVENTS + 4);
    pool.set_home(Some(REGION));
    let mut client = relay.accept_and_admit().await;
    client.expect(Frame::NotePreferred { home: true }).await;
    for _ in 0..2_000 {
        client
            .send(Frame::RecvPacket {
                src: peer(),
                packet: &[0; 1_200],
            })
            .await;
    }
    // The ping behind it all is answered although nobody took a packet.
    client.send(Frame::Ping([1; 8])).await;
    client.expect(Frame::Pong([1; 8])).await;
    // A megabyte may wait, in however many events there is room for.
    assert!(pool.drops().received >= 1_000, "{:?}", pool.drops());
    assert!(matches!(event(&mut events).await, DerpEvent::Connected { .. }));
}

#[tokio::test]
async fn a_silent_connection_is_replaced_before_it_is_given_up() {
    let relay = Relay::start().await;
    let (mut pool, mut events) = relay.pool(64);
    pool.set_home(Some(REGION));
    let mut old = relay.accept_and_admit().await;
    assert!(matches!(event(&mut events).await, DerpEvent::Connected { .. }));
    old.expect(Frame::NotePreferred { home: true }).await;
    pool.probe();
    let raw = old.next().await.unwrap();
    assert!(matches!(raw.parse().unwrap(), Some(Frame::Ping(_))));
    // No pong. A second connection comes while the first one stands, and packets move over.
    let mut new = relay.accept_and_admit().await;
    new.expect(Frame::NotePreferred { home: true }).await;
    assert!(old.next().await.is_none(), "closed once the second one was admitted");
    pool.send(REGION, &peer(), b"moved");
    new.expect(Frame::SendPacket {
        dst: peer(),
        packet: b"moved",
    })
    .await;
    assert!(events.try_recv().is_err(), "the driver need not know");
}

#[tokio::test]
async fn an_answered_probe_changes_nothing() {
    let relay = Relay::start().await;
    let (mut pool, mut events) = relay.pool(64);
    pool.set_home(Some(REGION));
    let mut client = relay.accept_and_admit().await;
    assert!(matches!(event(&mut events).await, DerpEvent::Connected { .. }));
    client.expect(Frame::NotePreferred { home: true }).await;
    for _ in 0..3 {
        pool.probe();
        let raw = client.next().await.unwrap();
        let Some(Frame::Ping(data)) = raw.parse().unwrap() else {
            panic!("{raw:?}")
        };
        client.send(Frame::Pong(data)).await;
        client
            .send(Frame::RecvPacket {
                src: peer(),
                packet: b"x",
            })
            .await;
        assert!(matches!(event(&mut events).await, DerpEvent::Packets { .. }));
    }
}

#[tokio::test]
async fn nonsense_ends_the_connection_and_no_more() {
    let relay = Relay::start().await;
    let (mut pool, mut events) = relay.pool(64);
    pool.set_home(Some(REGION));
    for nonsense in [
        &b"\x05\xff\xff\xff\xff"[..],
        b"\x05\0\0\0\x01x",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ] {
        let mut client = relay.accept_and_admit().await;
        assert!(matches!(event(&mut events).await, DerpEvent::Connected { .. }));
        client.stream.write_all(nonsense).await.unwrap();
        let error = disconnected(&mut events).await;
        assert!(error.contains("no proper derp"), "{error}");
    }
}

#[tokio::test]
async fn a_relay_that_asks_for_a_rate_gets_no_more() {
    let relay = Relay::start().await;
    let (mut pool, mut events) = relay.pool(64);
    pool.set_home(Some(REGION));
    let mut client = relay.accept().await;
    let limit = ServerInfo {
        version: 2,
        bytes_per_second: 1,
        bytes_burst: 1_100,
    };
    let mut out = BytesMut::new();
    ServerLogin::new(relay.key.clone()).admit(&client.key, &limit, &mut out);
    client.stream.write_all(&out).await.unwrap();
    assert!(matches!(event(&mut events).await, DerpEvent::Connected { .. }));
    for size in [1_000usize, 1_000, 1] {
        pool.send(REGION, &peer(), &vec![0; size]);
    }
    client.expect(Frame::NotePreferred { home: true }).await;
    client
        .expect(Frame::SendPacket {
            dst: peer(),
            packet: &[0; 1_000],
        })
        .await;
    client
        .expect(Frame::SendPacket {
            dst: peer(),
            packet: &[0],
        })
        .await;
    assert_eq!(pool.drops().sent, 1);
}

#[tokio::test]
async fn another_map_moves_the_home() {
    let (old, new) = (Relay::start().await, Relay::start().await);
    let (mut pool, mut events) = old.pool(64);
    pool.set_home(Some(REGION));
    let mut client = old.accept_and_admit().await;
    assert!(matches!(event(&mut events).await, DerpEvent::Connected { .. }));
    pool.set_map(old.map());
    assert!(pool.is_connected(REGION), "the same map changes nothing");
    pool.control = ControlUrl::parse(&format!("http://{}", new.addr())).unwrap();
    pool.set_map(new.map());
    assert!(matches!(event(&mut events).await, DerpEvent::Disconnected { .. }));
    client.expect(Frame::NotePreferred { home: true }).await;
    assert!(client.next().await.is_none());
    new.accept_and_admit().await;
    assert!(matches!(event(&mut events).await, DerpEvent::Connected { .. }));
}

/// Whoever sends direct datagrams on the same thread must not notice a relay that takes nothing.
#[tokio::test]
async fn a_relay_that_takes_nothing_holds_up_nobody() {
    let (stuck, other) = (Relay::start().await, Relay::start().await);
    let (mut pool, mut events) = stuck.pool(64);
    let second = RegionId(901);
    let mut map = DerpMap::clone(&stuck.map());
    map.regions.insert(
        second,
        Arc::new(DerpRegion {
            id: second,
            nodes: vec![node("127.0.0.1", other.addr().port())],
            ..DerpRegion::clone(&map.regions[&REGION])
        }),
    );
    pool.set_map(Arc::new(map));
    pool.set_home(Some(REGION));
    let client = stuck.accept_and_admit().await;
    assert!(matches!(event(&mut events).await, DerpEvent::Connected { .. }));
    // More than all buffers on the way hold. The call is no future: it has nothing to wait with.
    let run = vec![4u8; 45 * 1_400];
    let sent = 45 * 1_000u64;
    for _ in 0..1_000 {
        assert_eq!(pool.send_slots(REGION, &peer(), &run, 1_400), 45);
        tokio::task::yield_now().await;
    }
    let dropped = pool.drops().sent;
    assert!(dropped > sent / 2 && dropped < sent, "{dropped} of {sent}");
    pool.control = ControlUrl::parse(&format!("http://{}", other.addr())).unwrap();
    assert_eq!(pool.send_slots(second, &peer(), b"onetwo3", 3), 3);
    let mut reached = other.accept_and_admit().await;
    reached.expect(Frame::NotePreferred { home: false }).await;
    for packet in [&b"one"[..], b"two", b"3"] {
        reached.expect(Frame::SendPacket { dst: peer(), packet }).await;
    }
    drop(client);
}

#[tokio::test]
async fn what_came_with_one_read_goes_on_in_runs() {
    let relay = Relay::start().await;
    let (mut pool, mut events) = relay.pool(64);
    pool.set_home(Some(REGION));
    let mut client = relay.accept_and_admit().await;
    assert!(matches!(event(&mut events).await, DerpEvent::Connected { .. }));
    let other = NodePublicKey::from_bytes([8; 32]);
    let mut burst = BytesMut::new();
    for (src, size) in [(peer(), 500), (peer(), 500), (peer(), 20), (other, 500), (peer(), 40)] {
        let packet = vec![4; size];
        Frame::RecvPacket { src, packet: &packet }.append_to(&mut burst);
    }
    client.stream.write_all(&burst).await.unwrap();
    let mut runs = Vec::new();
    while runs.iter().map(|(_, count, _)| count).sum::<usize>() < 5 {
        let DerpEvent::Packets { src, packets, .. } = event(&mut events).await else {
            panic!("a run")
        };
        runs.push((src, packets.count(), packets.stride()));
    }
    assert_eq!(runs, [(peer(), 3, 500), (other, 1, 500), (peer(), 1, 40)]);
}
