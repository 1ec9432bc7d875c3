//! A node as bare as can be.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use h2::client::SendRequest;
use sandd_control_client::keys::{DiscoPrivateKey, MachinePrivateKey, MachinePublicKey, NodePrivateKey};
use sandd_control_client::map_stream::MapDecoder;
use sandd_control_client::noise::{EarlyDecoder, Initiator, take_response};
use sandd_control_client::wire::{Hostinfo, MapRequest, MapResponse, RegisterAuth, RegisterRequest, RegisterResponse};
use sandd_mesh::derp::{ClientInfo, ClientLogin, Frame, FrameDecoder, RawFrame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::io::noise::NoiseStream;
use crate::{Coordinator, CoordinatorBuilder, KeyOptions};

pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Fails instead of hanging.
pub(super) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("in vain: {what}"))
}

pub(super) async fn start(configure: impl FnOnce(CoordinatorBuilder) -> CoordinatorBuilder) -> (Coordinator, String) {
    let coordinator = configure(Coordinator::builder()).start().await.unwrap();
    let options = KeyOptions {
        reusable: true,
        ..KeyOptions::default()
    };
    let key = coordinator.create_key(options).await.unwrap();
    (coordinator, key)
}

/// A connection inside ts2021.
pub(super) struct Control {
    requests: SendRequest<Bytes>,
    stop: tokio::sync::watch::Sender<bool>,
}

impl Control {
    pub(super) async fn connect(address: SocketAddr, machine: &MachinePrivateKey, control: MachinePublicKey) -> Self {
        soon("a control connection", Self::dial(address, machine, control)).await
    }

    async fn dial(address: SocketAddr, machine: &MachinePrivateKey, control: MachinePublicKey) -> Self {
        let (initiator, initiation) = Initiator::start(machine, &control, 131).unwrap();
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.write_all(upgrade_head(&initiation).as_bytes()).await.unwrap();
        let mut received = read_head(&mut tcp).await.1;
        let response = loop {
            if let Some(response) = take_response(&received).unwrap() {
                break response;
            }
            assert_ne!(tcp.read_buf(&mut received).await.unwrap(), 0);
        };
        let rest = received.split_off(response.len());
        let transport = initiator.finish(&response).unwrap();
        let mut noise = NoiseStream::new(tcp, transport, &rest, BytesMut::new());
        let mut early = EarlyDecoder::default();
        loop {
            let byte = noise.read_u8().await.unwrap();
            if let Some(outcome) = early.push(&[byte]).unwrap() {
                assert!(outcome.payload.unwrap().node_key_challenge.is_some() && outcome.rest.is_empty());
                break;
            }
        }
        let (requests, connection) = h2::client::handshake(noise).await.unwrap();
        let (stop, mut stopped) = tokio::sync::watch::channel(false);
        tokio::spawn(async move {
            tokio::pin!(connection);
            tokio::select! {
                _ = &mut connection => {}
                // The connection stays open, and nobody works on it.
                Ok(()) = stopped.changed() => std::future::pending().await,
            }
        });
        Self { requests, stop }
    }

    /// From now on it neither reads nor writes, without being closed.
    pub(super) fn stop_driving(&self) {
        self.stop.send_replace(true);
    }

    pub(super) async fn send(&self, method: &str, path: &str, body: Vec<u8>) -> (u16, RecvStream) {
        let mut requests = self.requests.clone().ready().await.unwrap();
        let request = http::Request::builder()
            .method(method)
            .uri(format!("https://127.0.0.1:1{path}"))
            .body(())
            .unwrap();
        let (response, mut stream) = requests.send_request(request, false).unwrap();
        let mut body = Bytes::from(body);
        let send = async move {
            while !body.is_empty() {
                stream.reserve_capacity(body.len());
                while stream.capacity() == 0 {
                    if !matches!(std::future::poll_fn(|cx| stream.poll_capacity(cx)).await, Some(Ok(_))) {
                        return;
                    }
                }
                let count = stream.capacity().min(body.len());
                if stream.send_data(body.split_to(count), false).is_err() {
                    return;
                }
            }
            let _ = stream.send_data(Bytes::new(), true);
        };
        let (response, ()) = soon("an answer", async { tokio::join!(response, send) }).await;
        let (head, body) = response.unwrap().into_parts();
        (head.status.as_u16(), body)
    }

    pub(super) async fn call(&self, method: &str, path: &str, body: Vec<u8>) -> (u16, Vec<u8>) {
        let (status, mut body) = self.send(method, path, body).await;
        let mut bytes = Vec::new();
        while let Some(chunk) = soon("a body", body.data()).await {
            bytes.extend_from_slice(&chunk.unwrap());
        }
        (status, bytes)
    }
}

pub(super) fn upgrade_head(initiation: &[u8]) -> String {
    format!(
        "POST /ts2021 HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\nX-Tailscale-Handshake: {}\r\nContent-Length: 0\r\n\r\n",
        STANDARD.encode(initiation)
    )
}

/// A response head, and what came behind it.
pub(super) async fn read_head(tcp: &mut TcpStream) -> (String, BytesMut) {
    let mut received = BytesMut::new();
    loop {
        if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = received.split_off(end + 4);
            return (String::from_utf8(received.to_vec()).unwrap(), rest);
        }
        assert_ne!(tcp.read_buf(&mut received).await.unwrap(), 0, "{received:?}");
    }
}

/// A node with its keys and one connection.
pub(super) struct Node {
    pub(super) machine: MachinePrivateKey,
    pub(super) key: NodePrivateKey,
    disco: DiscoPrivateKey,
    pub(super) control: Control,
    name: String,
}

impl Node {
    pub(super) async fn new(coordinator: &Coordinator, name: &str) -> Self {
        let machine = MachinePrivateKey::generate();
        let control = Control::connect(coordinator.listen_addr(), &machine, coordinator.public_key()).await;
        Self {
            machine,
            key: NodePrivateKey::generate(),
            disco: DiscoPrivateKey::generate(),
            control,
            name: name.to_owned(),
        }
    }

    /// Registers and opens a stream.
    pub(super) async fn join(coordinator: &Coordinator, key: &str, name: &str) -> (Self, MapReader) {
        let node = Self::new(coordinator, name).await;
        let answer = node.register(Some(key), |_| {}).await;
        assert_eq!(answer.error, "");
        let stream = node.stream("zstd").await;
        (node, stream)
    }

    pub(super) async fn reconnect(&mut self, coordinator: &Coordinator) {
        self.control = Control::connect(coordinator.listen_addr(), &self.machine, coordinator.public_key()).await;
    }

    pub(super) fn hostinfo(&self) -> Hostinfo {
        Hostinfo {
            hostname: self.name.clone(),
            os: "linux".to_owned(),
            ..Hostinfo::default()
        }
    }

    pub(super) async fn register(
        &self,
        key: Option<&str>,
        change: impl FnOnce(&mut RegisterRequest),
    ) -> RegisterResponse {
        let mut request = RegisterRequest {
            version: 131,
            node_key: Some(self.key.public()),
            auth: key.map(|key| RegisterAuth {
                auth_key: key.to_owned(),
            }),
            hostinfo: Some(self.hostinfo()),
            ..RegisterRequest::default()
        };
        change(&mut request);
        let body = serde_json::to_vec(&request).unwrap();
        let (status, body) = self.control.call("POST", "/machine/register", body).await;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap()
    }

    pub(super) fn map_request(&self) -> MapRequest {
        MapRequest {
            version: 131,
            node_key: Some(self.key.public()),
            disco_key: Some(self.disco.public()),
            hostinfo: Some(self.hostinfo()),
            ..MapRequest::default()
        }
    }

    pub(super) async fn stream(&self, compress: &str) -> MapReader {
        let request = MapRequest {
            stream: true,
            keep_alive: true,
            compress: compress.to_owned(),
            ..self.map_request()
        };
        let body = serde_json::to_vec(&request).unwrap();
        let (status, body) = self.control.send("POST", "/machine/map", body).await;
        assert_eq!(status, 200);
        MapReader {
            body,
            decoder: MapDecoder::new(),
        }
    }

    /// A lite update; its status.
    pub(super) async fn update(&self, change: impl FnOnce(&mut MapRequest)) -> u16 {
        let mut request = MapRequest {
            omit_peers: true,
            ..self.map_request()
        };
        change(&mut request);
        let body = serde_json::to_vec(&request).unwrap();
        let (status, body) = self.control.call("POST", "/machine/map", body).await;
        assert!(status != 200 || body.is_empty());
        status
    }
}

/// A map stream being read.
pub(super) struct MapReader {
    body: RecvStream,
    decoder: MapDecoder,
}

impl MapReader {
    /// The next message's bytes; nothing at the end.
    pub(super) async fn next_json(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(message) = self.decoder.next_message().unwrap() {
                return Some(message);
            }
            let chunk = soon("a map message", self.body.data()).await?.ok()?;
            self.decoder.push(&chunk);
            let _ = self.body.flow_control().release_capacity(chunk.len());
        }
    }

    pub(super) async fn next(&mut self) -> Option<MapResponse> {
        let json = self.next_json().await?;
        Some(serde_json::from_slice(&json).unwrap())
    }
}

/// A client of the relay.
pub(super) struct Relay {
    tcp: TcpStream,
    decoder: FrameDecoder,
}

impl Relay {
    /// Logs in; nothing when it is not admitted.
    pub(super) async fn connect(address: SocketAddr, key: &NodePrivateKey, fast: bool) -> Option<Self> {
        soon("a relay connection", Self::dial(address, key, fast)).await
    }

    async fn dial(address: SocketAddr, key: &NodePrivateKey, fast: bool) -> Option<Self> {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        let fast_start = if fast { "Derp-Fast-Start: 1\r\n" } else { "" };
        let head = format!(
            "GET /derp HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: DERP\r\n{fast_start}\r\n"
        );
        tcp.write_all(head.as_bytes()).await.unwrap();
        let mut relay = Self {
            decoder: FrameDecoder::client(),
            tcp,
        };
        if !fast {
            let (head, rest) = read_head(&mut relay.tcp).await;
            assert!(
                head.starts_with("HTTP/1.1 101 ") && head.contains("Derp-Version: 2"),
                "{head}"
            );
            relay.decoder.buffer().extend_from_slice(&rest);
        }
        let mut login = ClientLogin::new(key.clone());
        let frame = relay.next_frame().await.unwrap();
        let server = ClientLogin::server_key(&frame.parse().unwrap().unwrap()).unwrap();
        let mut out = BytesMut::new();
        login.greet(server, &ClientInfo::current(), &mut out);
        relay.tcp.write_all(&out).await.unwrap();
        let frame = relay.next_frame().await?;
        let Some(Frame::ServerInfo { sealed }) = frame.parse().unwrap() else {
            panic!("{frame:?}");
        };
        assert_eq!(login.server_info(sealed).unwrap().version, 2);
        Some(relay)
    }

    pub(super) async fn send(&mut self, frame: Frame<'_>) {
        self.tcp.write_all(&frame.encode()).await.unwrap();
    }

    /// The next frame; nothing at the end.
    pub(super) async fn next_frame(&mut self) -> Option<RawFrame> {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return Some(frame);
            }
            let read = soon("a frame", self.tcp.read_buf(self.decoder.buffer())).await;
            if read.unwrap_or(0) == 0 {
                return None;
            }
        }
    }
}
