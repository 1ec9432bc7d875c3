//! A coordinator that does as it is told: it speaks ts2021 with [`Responder`] and HTTP/2, and answers from a script.

#![expect(clippy::unwrap_used, reason = "a test's own code, outside its test functions")]

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode};
use sandd_control_client::ControlUrl;
use sandd_control_client::keys::{ChallengePublicKey, MachinePrivateKey};
use sandd_control_client::map_stream;
use sandd_control_client::noise::{EarlyPayload, RecordDecoder, Responder, Sealer};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};

/// What the coordinator does with a request to `/machine/map` that wants a stream.
#[derive(Debug, Clone)]
pub(super) enum MapAnswer {
    /// These bytes, and then the stream stays open.
    Bytes(Vec<u8>),
    /// These bytes, and then the end.
    BytesThenEnd(Vec<u8>),
    /// A status, a `Retry-After` and a text.
    Status(StatusCode, Option<&'static str>, &'static str),
}

#[derive(Debug)]
pub(super) struct Script {
    pub(super) early_payload: bool,
    /// Close instead of answering the handshake.
    pub(super) refuse_handshake: bool,
    pub(super) register: String,
    pub(super) map: MapAnswer,
    /// Bodies of the registrations and map requests so far.
    pub(super) registrations: Vec<String>,
    pub(super) streams: Vec<String>,
    pub(super) updates: Vec<String>,
    /// Further bytes for the open stream.
    pub(super) more: Option<tokio::sync::mpsc::Receiver<Vec<u8>>>,
}

#[derive(Debug)]
pub(super) struct FakeControl {
    pub(super) port: u16,
    pub(super) connections: AtomicUsize,
    pub(super) key_requests: AtomicUsize,
    pub(super) script: Mutex<Script>,
    key: MachinePrivateKey,
}

/// One message in the stream.
pub(super) fn message(json: &str) -> Vec<u8> {
    map_stream::encode(json.as_bytes(), true).unwrap()
}

/// A first message with this node and so many peers.
pub(super) fn first_map(peers: usize) -> String {
    let node = |id: usize| {
        let key = format!("{id:064x}");
        format!(r#"{{"ID":{id},"Name":"n{id}.mesh.test.","Key":"nodekey:{key}","Addresses":["100.64.0.{id}/32"]}}"#)
    };
    let peers: Vec<String> = (2..peers + 2).map(node).collect();
    format!(r#"{{"Node":{},"Peers":[{}]}}"#, node(1), peers.join(","))
}

impl FakeControl {
    pub(super) async fn start() -> Arc<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let fake = Arc::new(Self {
            port: listener.local_addr().unwrap().port(),
            connections: AtomicUsize::new(0),
            key_requests: AtomicUsize::new(0),
            script: Mutex::new(Script {
                early_payload: true,
                refuse_handshake: false,
                register: "{}".to_owned(),
                map: MapAnswer::Bytes(message(&first_map(2))),
                registrations: Vec::new(),
                streams: Vec::new(),
                updates: Vec::new(),
                more: None,
            }),
            key: MachinePrivateKey::generate(),
        });
        let accepting = fake.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                accepting.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(accepting.clone().connection(tcp));
            }
        });
        fake
    }

    pub(super) fn url(&self) -> ControlUrl {
        ControlUrl::parse(&format!("http://127.0.0.1:{}", self.port)).unwrap()
    }

    pub(super) fn set(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().unwrap());
    }

    pub(super) fn get<T>(&self, read: impl FnOnce(&Script) -> T) -> T {
        read(&self.script.lock().unwrap())
    }

    async fn connection(self: Arc<Self>, mut tcp: TcpStream) {
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match tcp.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => return,
                }
            }
            let head = String::from_utf8(head).unwrap();
            if head.starts_with("GET /key?v=") {
                self.key_requests.fetch_add(1, Ordering::SeqCst);
                let body = format!(r#"{{"publicKey":"{}"}}"#, self.key.public());
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                tcp.write_all(answer.as_bytes()).await.unwrap();
                continue;
            }
            assert!(head.starts_with("POST /ts2021 "), "{head}");
            let handshake = head
                .lines()
                .find_map(|line| line.strip_prefix("X-Tailscale-Handshake: "))
                .unwrap();
            let initiation = BASE64_STANDARD.decode(handshake).unwrap();
            let mut answer = BytesMut::from(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\n\r\n",
            );
            if self.get(|script| script.refuse_handshake) {
                tcp.write_all(&answer).await.unwrap();
                return;
            }
            let accepted = Responder::accept(&self.key, &initiation).unwrap();
            answer.extend_from_slice(&accepted.response);
            let mut transport = accepted.transport;
            if self.get(|script| script.early_payload) {
                let challenge = ChallengePublicKey::from_bytes([7; 32]);
                let payload = EarlyPayload {
                    node_key_challenge: Some(challenge),
                }
                .encode();
                // As Headscale does: in pieces, and in one segment with the head.
                for part in [&payload[..5], &payload[5..9], &payload[9..]] {
                    transport.sealer.seal(part, &mut answer).unwrap();
                }
            }
            tcp.write_all(&answer).await.unwrap();
            let (plain, inner) = tokio::io::duplex(1 << 20);
            tokio::spawn(pump(tcp, inner, transport.sealer, transport.decoder));
            self.serve(plain).await;
            return;
        }
    }

    async fn serve(self: Arc<Self>, stream: DuplexStream) {
        let Ok(mut connection) = h2::server::handshake(stream).await else {
            return;
        };
        while let Some(Ok((request, respond))) = connection.accept().await {
            tokio::spawn(self.clone().answer(request, respond));
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: http::Request<h2::RecvStream>,
        mut respond: h2::server::SendResponse<Bytes>,
    ) {
        let path = request.uri().path().to_owned();
        let mut body = request.into_body();
        let mut text = Vec::new();
        while let Some(Ok(chunk)) = body.data().await {
            text.extend_from_slice(&chunk);
        }
        let text = String::from_utf8(text).unwrap();
        if path == "/machine/register" {
            let answer = self.get(|script| script.register.clone());
            self.set(|script| script.registrations.push(text));
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(answer.into(), true).unwrap();
            return;
        }
        let answer = self.get(|script| script.map.clone());
        if !text.contains(r#""Stream":true"#) {
            self.set(|script| script.updates.push(text));
            respond.send_response(Response::new(()), true).unwrap();
            return;
        }
        self.set(|script| script.streams.push(text));
        let (bytes, end) = match answer {
            MapAnswer::Bytes(bytes) => (bytes, false),
            MapAnswer::BytesThenEnd(bytes) => (bytes, true),
            MapAnswer::Status(status, retry_after, text) => {
                let mut response = Response::builder().status(status);
                if let Some(retry_after) = retry_after {
                    response = response.header("retry-after", retry_after);
                }
                let mut stream = respond.send_response(response.body(()).unwrap(), false).unwrap();
                let _ = stream.send_data(text.into(), true);
                return;
            }
        };
        let Ok(mut stream) = respond.send_response(Response::new(()), false) else {
            return;
        };
        let _ = stream.send_data(bytes.into(), end);
        let mut more = self.script.lock().unwrap().more.take();
        while let Some(more) = more.as_mut() {
            match more.recv().await {
                Some(bytes) => drop(stream.send_data(bytes.into(), false)),
                None => break,
            }
        }
        if !end {
            // Open until the connection goes.
            std::future::poll_fn(|context| stream.poll_reset(context)).await.ok();
        }
    }
}

/// Plaintext on one side, records on the other.
async fn pump(mut tcp: TcpStream, inner: DuplexStream, mut sealer: Sealer, mut decoder: RecordDecoder) {
    let (mut plain_read, mut plain_write) = tokio::io::split(inner);
    let (mut raw_read, mut raw_write) = tcp.split();
    let outward = async {
        let mut buffer = vec![0u8; 32 * 1024];
        while let Ok(length @ 1..) = plain_read.read(&mut buffer).await {
            let mut sealed = BytesMut::new();
            sealer.seal(&buffer[..length], &mut sealed).unwrap();
            if raw_write.write_all(&sealed).await.is_err() {
                return;
            }
        }
    };
    let inward = async {
        while let Ok(1..) = raw_read.read_buf(decoder.buffer()).await {
            while let Ok(Some(plaintext)) = decoder.next_plaintext() {
                if plain_write.write_all(&plaintext).await.is_err() {
                    return;
                }
            }
        }
    };
    tokio::select! {
        () = outward => {}
        () = inward => {}
    }
}
