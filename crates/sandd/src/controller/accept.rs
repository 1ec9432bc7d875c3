//! The controller's port: `/ws`, `/health`, `/stats`, and clear refusals for everything else (S-31).
//!
//! The request head is read and judged here, not by the WebSocket library, since the answers are a contract: 400 without
//! `sandd.v1`, 404 for other paths, 405 for other methods.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tracing::{debug, warn};

use super::connection;
use super::state::Shared;
use crate::transport::{Accepted, ByteStream, Listener, websocket};
use crate::wire::SUBPROTOCOL;

/// The longest request head.
const MAX_HEAD: usize = 16 * 1024;

/// Headers that a request may have.
const MAX_HEADERS: usize = 64;

/// Time for TLS and the request head together.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after `accept` itself failed, for instance for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves a listener until the controller stops.
pub(super) async fn serve(shared: Arc<Shared>, listener: Listener) {
    let mut stop = shared.stop.subscribe();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((stream, from)) => admit(&shared, stream, from),
            Err(error) => {
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn admit(shared: &Arc<Shared>, stream: Accepted, from: SocketAddr) {
    let (admitted, to_log) = shared.with(|state| {
        let admitted = state.limits.enter(from.ip());
        (admitted, state.limits.count_to_log(Instant::now()))
    });
    if let Some(count) = to_log {
        warn!(count, "connections turned away: too many have not registered");
    }
    if admitted {
        let unregistered = Unregistered {
            shared: Arc::clone(shared),
            from,
        };
        tokio::spawn(answer(Arc::clone(shared), stream, from, unregistered));
    }
}

/// A place among the connections that have not registered; given back when dropped.
#[derive(Debug)]
pub(super) struct Unregistered {
    shared: Arc<Shared>,
    from: SocketAddr,
}

impl Drop for Unregistered {
    fn drop(&mut self) {
        self.shared.with(|state| state.limits.leave(self.from.ip()));
    }
}

async fn answer(shared: Arc<Shared>, stream: Accepted, from: SocketAddr, unregistered: Unregistered) {
    let begun = async {
        let mut stream = stream.secure().await.ok()?;
        let mut buffer = BytesMut::new();
        let head = read_head(&mut stream, &mut buffer).await?;
        Some((stream, buffer, head))
    };
    let Ok(Some((mut stream, buffer, head))) = tokio::time::timeout(HEAD_TIMEOUT, begun).await else {
        debug!(%from, "no request within 10 s, or none that can be read");
        return;
    };
    match route(head, || {
        serde_json::to_string(&shared.with(|state| state.stats(Instant::now())))
    }) {
        Route::Upgrade { key } => {
            let head = format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Accept: {key}\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
            );
            if stream.write_all(head.as_bytes()).await.is_err() || stream.flush().await.is_err() {
                return;
            }
            let (reader, writer, outbox) = websocket::accepted(stream, buffer).await;
            connection::serve(shared, reader, writer, outbox, from, unregistered).await;
        }
        Route::Answer(text) => {
            let goodbye = async {
                let _ = stream.write_all(text.as_bytes()).await;
                let _ = stream.shutdown().await;
            };
            let _ = tokio::time::timeout(HEAD_TIMEOUT, goodbye).await;
        }
    }
}

/// What a request asks for.
#[derive(Debug, Default)]
struct Head {
    method: String,
    path: String,
    is_upgrade: bool,
    version_13: bool,
    key: Option<String>,
    offers_protocol: bool,
    has_origin: bool,
    /// The request cannot be parsed.
    malformed: bool,
}

/// Reads up to the blank line; what comes behind it stays in `buffer`. Nothing for an end of stream.
async fn read_head(stream: &mut ByteStream, buffer: &mut BytesMut) -> Option<Head> {
    loop {
        if let Some((head, length)) = parse_head(buffer) {
            let _ = buffer.split_to(length);
            return Some(head);
        }
        if buffer.len() >= MAX_HEAD {
            return Some(Head {
                malformed: true,
                ..Head::default()
            });
        }
        buffer.reserve(1024);
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

/// The head and its length, once it is complete or known to be none.
fn parse_head(bytes: &[u8]) -> Option<(Head, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return None,
        Err(_) => {
            return Some((
                Head {
                    malformed: true,
                    ..Head::default()
                },
                bytes.len(),
            ));
        }
    };
    let mut head = Head {
        method: request.method.unwrap_or_default().to_owned(),
        path: request.path.unwrap_or_default().to_owned(),
        ..Head::default()
    };
    let (mut connection_upgrade, mut upgrade_websocket) = (false, false);
    for header in request.headers.iter() {
        let value = String::from_utf8_lossy(header.value);
        let has = |word: &str| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(word));
        if header.name.eq_ignore_ascii_case("connection") {
            connection_upgrade |= has("upgrade");
        } else if header.name.eq_ignore_ascii_case("upgrade") {
            upgrade_websocket |= has("websocket");
        } else if header.name.eq_ignore_ascii_case("sec-websocket-version") {
            head.version_13 = value.trim() == "13";
        } else if header.name.eq_ignore_ascii_case("sec-websocket-key") {
            head.key = Some(value.trim().to_owned());
        } else if header.name.eq_ignore_ascii_case("sec-websocket-protocol") {
            head.offers_protocol |= value.split(',').any(|part| part.trim() == SUBPROTOCOL);
        } else if header.name.eq_ignore_ascii_case("origin") {
            head.has_origin = true;
        }
    }
    head.is_upgrade = connection_upgrade && upgrade_websocket;
    Some((head, length))
}

#[derive(Debug)]
enum Route {
    /// To a WebSocket, with this `Sec-WebSocket-Accept`.
    Upgrade { key: String },
    /// This answer and the end.
    Answer(String),
}

fn route(head: Head, stats: impl FnOnce() -> serde_json::Result<String>) -> Route {
    if head.malformed {
        return plain("400 Bad Request", "request cannot be read\n");
    }
    let path = head.path.split('?').next().unwrap_or_default();
    if !matches!(path, "/ws" | "/health" | "/stats") {
        return plain("404 Not Found", "not found\n");
    }
    let is_head = head.method == "HEAD";
    if head.method != "GET" && !(is_head && path != "/ws") {
        return plain("405 Method Not Allowed", "method not allowed\n");
    }
    match path {
        "/health" => http("200 OK", "text/plain", "OK", is_head),
        "/stats" => match stats() {
            Ok(json) => http("200 OK", "application/json", &json, is_head),
            Err(_) => plain("500 Internal Server Error", "statistics cannot be written\n"),
        },
        _ => upgrade(&head),
    }
}

fn upgrade(head: &Head) -> Route {
    if head.has_origin {
        // Daemons are no web pages; a page that dials us is somebody's trick (S-20).
        return plain("403 Forbidden", "requests of web pages are refused\n");
    }
    if !head.is_upgrade || !head.version_13 {
        return plain("400 Bad Request", "this is a WebSocket endpoint, version 13\n");
    }
    if !head.offers_protocol {
        return plain("400 Bad Request", "Sec-WebSocket-Protocol must offer sandd.v1\n");
    }
    match &head.key {
        Some(key) if key.len() == 24 => Route::Upgrade {
            key: derive_accept_key(key.as_bytes()),
        },
        Some(_) | None => plain("400 Bad Request", "Sec-WebSocket-Key is missing or malformed\n"),
    }
}

fn plain(status: &str, body: &str) -> Route {
    http(status, "text/plain", body, false)
}

fn http(status: &str, content_type: &str, body: &str, is_head: bool) -> Route {
    let length = body.len();
    let body = if is_head { "" } else { body };
    let allow = if status.starts_with("405") {
        "Allow: GET\r\n"
    } else {
        ""
    };
    Route::Answer(format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n{allow}Connection: close\r\n\r\n{body}"
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UPGRADE: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n\
                           Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

    fn answer_to(request: &str) -> String {
        let (head, length) = parse_head(request.as_bytes()).unwrap();
        if !head.malformed {
            assert_eq!(length, request.len());
        }
        match route(head, || Ok("{}".to_owned())) {
            Route::Upgrade { key } => format!("101 {key}"),
            Route::Answer(text) => text,
        }
    }

    fn get(path: &str, headers: &str) -> String {
        answer_to(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n"))
    }

    #[test]
    fn the_subprotocol_decides() {
        for offer in [
            "sandd.v1",
            "sandd.v2,sandd.v1",
            "sandd.v2 , sandd.v1 ",
            "chat, sandd.v1",
        ] {
            let answer = get("/ws", &format!("{UPGRADE}Sec-WebSocket-Protocol: {offer}\r\n"));
            assert_eq!(answer, "101 s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "{offer}");
        }
        for headers in [
            UPGRADE.to_owned(),
            format!("{UPGRADE}Sec-WebSocket-Protocol: sandd.v2\r\n"),
            format!("{UPGRADE}Sec-WebSocket-Protocol: sandd.v1x\r\n"),
            "Sec-WebSocket-Protocol: sandd.v1\r\n".to_owned(),
            String::new(),
        ] {
            assert!(get("/ws", &headers).starts_with("HTTP/1.1 400 "), "{headers}");
        }
    }

    #[test]
    fn paths_and_methods() {
        assert!(get("/health", "").ends_with("\r\n\r\nOK"));
        assert!(get("/health?x=1", "").starts_with("HTTP/1.1 200 "));
        assert!(answer_to("HEAD /health HTTP/1.1\r\n\r\n").ends_with("Content-Length: 2\r\nConnection: close\r\n\r\n"));
        assert!(get("/stats", "").contains("Content-Type: application/json\r\n"));
        for path in ["/", "/ws/", "/healthz", "/stats/", "/wss"] {
            assert!(get(path, "").starts_with("HTTP/1.1 404 "), "{path}");
        }
        for path in ["/health", "/stats", "/ws"] {
            let answer = answer_to(&format!("POST {path} HTTP/1.1\r\n\r\n"));
            assert!(
                answer.starts_with("HTTP/1.1 405 ") && answer.contains("Allow: GET\r\n"),
                "{path}"
            );
        }
        assert!(answer_to("HEAD /ws HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
        assert!(answer_to("\0\r\n\r\n").starts_with("HTTP/1.1 400 "));
    }

    #[test]
    fn web_pages_are_refused() {
        let headers = format!("{UPGRADE}Sec-WebSocket-Protocol: sandd.v1\r\nOrigin: http://evil.example\r\n");
        assert!(get("/ws", &headers).starts_with("HTTP/1.1 403 "));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Some((head, _)) = parse_head(&bytes) {
                let _ = route(head, || Ok(String::new()));
            }
        }
    }
}
