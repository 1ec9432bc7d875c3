//! Whatever comes in, it ends that connection at most: after each attempt a member is served as before.

use sandd_control_client::keys::{MachinePrivateKey, MachinePublicKey};
use sandd_control_client::noise::{Initiator, take_response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{Node, read_head, soon, start, upgrade_head};
use crate::Coordinator;

/// Sends bytes and reads all that comes back.
async fn throw(coordinator: &Coordinator, bytes: &[u8]) -> String {
    let mut tcp = TcpStream::connect(coordinator.listen_addr()).await.unwrap();
    let _ = tcp.write_all(bytes).await;
    let _ = tcp.shutdown().await;
    let mut answer = Vec::new();
    // A reset is an end, too.
    let _ = soon("an end", tcp.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn nonsense_before_and_instead_of_http() {
    let (coordinator, key) = start(|builder| builder).await;
    let (node, mut maps) = Node::join(&coordinator, &key, "member").await;
    maps.next().await.unwrap();
    let long = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'a'; 20_000]].concat();
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(100));
    let with = |head: &str| format!("POST /ts2021 HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}Connection: close\r\n\r\n");
    let protocol = "Upgrade: tailscale-control-protocol\r\n";
    for (bytes, expected) in [
        (b"".to_vec(), ""),
        (b"\0\0\0\0".to_vec(), "HTTP/1.1 400"),
        (b"\x16\x03\x01\xff\xff garbage".to_vec(), ""),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), "HTTP/1.1 400"),
        (long, "HTTP/1.1 431"),
        (many.into_bytes(), "HTTP/1.1 400"),
        (with("").into_bytes(), "HTTP/1.1 500"),
        (with("Upgrade: websocket\r\n").into_bytes(), "HTTP/1.1 400"),
        (with(protocol).into_bytes(), "HTTP/1.1 400"),
        (
            with(&format!("{protocol}X-Tailscale-Handshake: ***\r\n")).into_bytes(),
            "HTTP/1.1 400",
        ),
        (upgrade_head(&[0; 101]).into_bytes(), "HTTP/1.1 101"),
        (upgrade_head(b"short").into_bytes(), "HTTP/1.1 101"),
        (
            b"GET /derp HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_vec(),
            "HTTP/1.1 426",
        ),
        (
            b"GET /key HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_vec(),
            "HTTP/1.1 400",
        ),
        (
            b"GET /key?v=38 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_vec(),
            "HTTP/1.1 200",
        ),
        (
            b"GET /key?v=131 HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n".to_vec(),
            "HTTP/1.1 421",
        ),
        (
            b"GET /register/<script> HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_vec(),
            "HTTP/1.1 400",
        ),
        (
            b"DELETE /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_vec(),
            "HTTP/1.1 405",
        ),
    ] {
        let answer = throw(&coordinator, &bytes).await;
        assert!(
            answer.starts_with(expected) && (!expected.is_empty() || answer.is_empty() || !answer.starts_with("HTTP")),
            "{}: {answer}",
            String::from_utf8_lossy(&bytes)
        );
        assert!(!answer.contains("<script>"));
        assert_eq!(node.update(|_| {}).await, 200, "a member is served as before");
    }
}

#[tokio::test]
async fn garbage_behind_the_derp_upgrade() {
    let (coordinator, _) = start(|builder| builder).await;
    let head = b"GET /derp HTTP/1.1\r\nHost: a\r\nUpgrade: DERP\r\nDerp-Fast-Start: 1\r\n\r\n";
    for frame in [
        b"\x02\xff\xff\xff\xff".as_slice(),
        b"\x02\x00\x00\x00\x01x",
        b"\x04\x00\x00\x00\x20................................",
        b"\xff\x00\x00\x00\x00",
    ] {
        let answer = throw(&coordinator, &[head, frame].concat()).await;
        assert!(answer.chars().count() <= 45, "the server's key at most: {answer}");
    }
    assert_eq!(coordinator.relay_clients(), 0);
}

#[tokio::test]
async fn an_old_client_and_one_with_another_key_are_told_so() {
    let (coordinator, _) = start(|builder| builder).await;
    let other = MachinePrivateKey::generate().public();
    for (key, version, expected) in [
        (coordinator.public_key(), 100, "unsupported client version: 100"),
        (other, 131, "does not authenticate"),
    ] {
        let error = refusal(&coordinator, key, version).await;
        assert!(error.contains(expected), "{error}");
    }
}

async fn refusal(coordinator: &Coordinator, key: MachinePublicKey, version: u16) -> String {
    let machine = MachinePrivateKey::generate();
    let (_, initiation) = Initiator::start(&machine, &key, version).unwrap();
    let mut tcp = TcpStream::connect(coordinator.listen_addr()).await.unwrap();
    tcp.write_all(upgrade_head(&initiation).as_bytes()).await.unwrap();
    let (head, mut rest) = soon("a head", read_head(&mut tcp)).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    while soon("an end", tcp.read_buf(&mut rest)).await.unwrap() > 0 {}
    take_response(&rest).unwrap_err().to_string()
}

#[tokio::test]
async fn requests_inside_that_nobody_expects() {
    let (coordinator, key) = start(|builder| builder).await;
    let (node, _maps) = Node::join(&coordinator, &key, "member").await;
    let control = &node.control;
    for (method, path, body, expected) in [
        ("GET", "/machine/map", &b""[..], 405),
        ("POST", "/key", b"", 404),
        ("GET", "/machine/whoami", b"", 501),
        ("POST", "/machine/register", b"{", 400),
        ("POST", "/machine/map", b"[]", 400),
        ("POST", "/machine/register", b"{\"Version\":100}", 400),
        (
            "POST",
            "/machine/map",
            b"{\"Version\":131,\"NodeKey\":\"nodekey:ab\"}",
            400,
        ),
        ("POST", "/machine/map", b"{\"Version\":131}", 404),
    ] {
        let (status, text) = control.call(method, path, body.to_vec()).await;
        assert_eq!(status, expected, "{method} {path}: {}", String::from_utf8_lossy(&text));
    }
    let (status, _) = control.call("POST", "/machine/map", vec![b' '; (1 << 20) + 1]).await;
    assert_eq!(status, 413);
    let deep = [b"{\"Hostinfo\":".repeat(100_000), b"1".to_vec()].concat();
    let (status, _) = control.call("POST", "/machine/map", deep[..1 << 20].to_vec()).await;
    assert_eq!(status, 400);
    assert_eq!(node.update(|_| {}).await, 200);
}
