//! HTTP/1.1 as far as it is needed: a bounded head, a handful of pages, and two ways to become something else.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, BytesMut};
use sandd_control_client::noise::Responder;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::admission::Place;
use super::pages::{self, Page};
use super::shared::Shared;
use super::{derp, node};

/// Longest head (S-31).
const MAX_HEAD: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
/// How long an answer may take to be read.
const WRITE_TIME: Duration = Duration::from_secs(10);
/// Requests on one connection before it is closed.
const MAX_REQUESTS: usize = 100;

/// Why a connection ends early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("connection")]
    Io(#[from] io::Error),
    #[error("head is longer than 16 KiB")]
    HeadTooLong,
    #[error("head did not arrive in time")]
    HeadTimeout,
    #[error("answer was not read in time")]
    WriteTimeout,
    #[error("not http")]
    Syntax(#[from] httparse::Error),
    #[error("noise: {0}")]
    Handshake(#[from] sandd_control_client::noise::HandshakeError),
    #[error(transparent)]
    Node(#[from] node::NodeError),
    #[error(transparent)]
    Derp(#[from] derp::DerpError),
}

/// A request's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) host: Option<String>,
    pub(super) origin: Option<String>,
    upgrade: Option<String>,
    handshake: Option<String>,
    fast_start: bool,
    /// The client will close, or sends a body that nobody reads.
    last: bool,
}

impl Head {
    /// Reads a head; its length, or nothing while it is incomplete.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, httparse::Error> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let length = match request.parse(bytes)? {
            httparse::Status::Complete(length) => length,
            httparse::Status::Partial => return Ok(None),
        };
        let header = |name: &str| {
            let found = request
                .headers
                .iter()
                .find(|header| header.name.eq_ignore_ascii_case(name));
            found.map(|header| String::from_utf8_lossy(header.value).trim().to_owned())
        };
        let target = request.path.unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let has_body = header("transfer-encoding").is_some() || header("content-length").is_some_and(|n| n != "0");
        let closes = header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let head = Self {
            method: request.method.unwrap_or_default().to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            host: header("host"),
            origin: header("origin"),
            upgrade: header("upgrade"),
            handshake: header("x-tailscale-handshake"),
            fast_start: header("derp-fast-start").is_some_and(|value| value == "1"),
            last: has_body || closes || request.version == Some(0),
        };
        Ok(Some((head, length)))
    }
}

enum Next {
    Answer(Page),
    Noise(Vec<u8>),
    Derp,
}

/// Serves a connection until it ends, whatever becomes of it.
pub(crate) async fn serve<S>(shared: Arc<Shared>, mut stream: S, place: Place, is_tls: bool) -> Result<(), HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut received = BytesMut::new();
    for _ in 0..MAX_REQUESTS {
        let head = tokio::time::timeout(shared.limits.opening, read_head(&mut stream, &mut received))
            .await
            .map_err(|_| HttpError::HeadTimeout)?;
        let head = match head {
            Ok(Some(head)) => head,
            Ok(None) => return Ok(()),
            Err(error) => {
                let page = if matches!(error, HttpError::HeadTooLong) {
                    Page::text(431, "request head is longer than 16 KiB")
                } else {
                    Page::text(400, "this is no HTTP request")
                };
                // It has broken the protocol; whether it reads the answer is its affair.
                let _ = write(&mut stream, &page.encode(true, false)).await;
                return Err(error);
            }
        };
        match route(&shared, &head, is_tls) {
            Next::Answer(page) => {
                write(&mut stream, &page.encode(head.last, head.method == "HEAD")).await?;
                if head.last {
                    let _ = stream.shutdown().await;
                    return Ok(());
                }
            }
            Next::Noise(initiation) => {
                let accepted = match Responder::accept(&shared.identity.noise, &initiation) {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Said behind the 101, where a client expects it: it asks for our key anew then.
                        write(&mut stream, &node::refusal(&error.to_string())).await?;
                        return Err(error.into());
                    }
                };
                node::serve(shared, stream, &received, accepted, place).await?;
                return Ok(());
            }
            Next::Derp => {
                let answer = if head.fast_start {
                    String::new()
                } else {
                    derp_head(&shared)
                };
                derp::serve(&shared, stream, &received, answer.as_bytes(), &place).await?;
                return Ok(());
            }
        }
    }
    Ok(())
}

fn derp_head(shared: &Shared) -> String {
    let key = hex::encode(shared.relay.key().as_bytes());
    let version = sandd_mesh::derp::PROTOCOL_VERSION;
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\nDerp-Version: {version}\r\nDerp-Public-Key: {key}\r\n\r\n"
    )
}

async fn write<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> Result<(), HttpError> {
    let write = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    Ok(tokio::time::timeout(WRITE_TIME, write)
        .await
        .map_err(|_| HttpError::WriteTimeout)??)
}

/// The next head; nothing when the client has closed.
async fn read_head<S: AsyncRead + Unpin>(stream: &mut S, received: &mut BytesMut) -> Result<Option<Head>, HttpError> {
    loop {
        if let Some((head, length)) = Head::parse(received)? {
            received.advance(length);
            return Ok(Some(head));
        }
        if received.len() >= MAX_HEAD {
            return Err(HttpError::HeadTooLong);
        }
        received.reserve(2048);
        if stream.read_buf(received).await? == 0 {
            return if received.is_empty() {
                Ok(None)
            } else {
                Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
            };
        }
    }
}

fn route(shared: &Shared, head: &Head, is_tls: bool) -> Next {
    if let Some(canned) = shared.hooks.answer(&head.path) {
        return Next::Answer(Page::text(canned.status, canned.body));
    }
    if shared.published.tls && !is_tls {
        return Next::Answer(Page::text(400, "this coordinator speaks https only"));
    }
    if let Some(refusal) = pages::check_origin(&shared.published, head) {
        return Next::Answer(refusal);
    }
    match (head.path.as_str(), head.method.as_str()) {
        ("/ts2021", "POST") => initiation(head).map_or_else(Next::Answer, Next::Noise),
        ("/ts2021", _) => Next::Answer(Page::text(405, "method not allowed").with_header("Allow", "POST")),
        ("/derp", "GET") => match head.upgrade.as_deref() {
            Some(upgrade) if upgrade.eq_ignore_ascii_case("derp") => Next::Derp,
            Some(_) | None => Next::Answer(Page::text(426, "DERP requires connection upgrade")),
        },
        _ => Next::Answer(pages::answer(shared, head)),
    }
}

/// The handshake's first message, out of its header.
fn initiation(head: &Head) -> Result<Vec<u8>, Page> {
    match head.upgrade.as_deref() {
        Some("tailscale-control-protocol") => {}
        Some(_) => return Err(Page::text(400, "unknown next protocol")),
        None => return Err(Page::text(500, "Internal error")),
    }
    let text = head.handshake.as_deref();
    let text = text.ok_or_else(|| Page::text(400, "missing Tailscale handshake header"))?;
    STANDARD
        .decode(text)
        .map_err(|_| Page::text(400, "invalid tailscale handshake header"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn heads_are_read_however_they_are_cut() {
        let text = b"POST /ts2021?x=1 HTTP/1.1\r\nHost: a:1\r\nUPGRADE: tailscale-control-protocol\r\nX-Tailscale-Handshake: QUJD\r\nContent-Length: 0\r\n\r\nrest";
        for end in 0..text.len() - 4 {
            assert_eq!(Head::parse(&text[..end]).unwrap(), None, "{end}");
        }
        let (head, length) = Head::parse(text).unwrap().unwrap();
        assert_eq!(
            (head.method.as_str(), head.path.as_str(), head.query.as_str()),
            ("POST", "/ts2021", "x=1")
        );
        assert_eq!(&text[length..], b"rest");
        assert_eq!(initiation(&head).unwrap(), b"ABC");
        assert!(!head.last);
    }

    #[test]
    fn bodies_and_old_versions_end_a_connection() {
        for text in [
            "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.1\r\nConnection: Close\r\n\r\n",
        ] {
            assert!(Head::parse(text.as_bytes()).unwrap().unwrap().0.last, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Head::parse(&bytes);
        }
    }
}
