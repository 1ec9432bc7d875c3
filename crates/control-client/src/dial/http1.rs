//! Just enough HTTP/1.1: a request without a body, its answer, and the upgrade.
//!
//! It exists instead of a client library because a first join fetches `/key` and then upgrades **the same** connection,
//! which saves a TCP and a TLS handshake, and because what follows a `101` head must not be lost.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{DialError, Stream, Upgraded};

const MAX_HEAD: usize = 16 * 1024;
const MAX_BODY: usize = 64 * 1024;
const MAX_HEADERS: usize = 64;
const TIMEOUT: Duration = Duration::from_secs(10);

/// The head of a `101` answer.
#[derive(Debug, Clone)]
pub struct UpgradeResponse {
    headers: Vec<(String, String)>,
}

impl UpgradeResponse {
    /// The first value of a header; its name in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// The head of any answer.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    status: u16,
    headers: UpgradeResponse,
}

impl ResponseHead {
    /// HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The first value of a header; its name in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.header(name)
    }
}

/// Sends a request head (with its blank line) and reads the answer's; its body is of no interest.
///
/// # Errors
/// [`DialError`] with what broke; 10 seconds at most.
pub async fn request(stream: Stream, head: &str) -> Result<ResponseHead, DialError> {
    let answered = tokio::time::timeout(TIMEOUT, async { Http1::new(stream).exchange(head).await }).await;
    let (status, headers) = answered.unwrap_or_else(|_| Err(timed_out()))?;
    Ok(ResponseHead { status, headers })
}

/// Sends a request head (with its blank line) and takes the connection over once the server answers `101`.
///
/// # Errors
/// [`DialError::Status`] for any other answer, else what broke; 10 seconds at most.
pub async fn upgrade(stream: Stream, head: &str) -> Result<(UpgradeResponse, Upgraded), DialError> {
    Http1::new(stream).upgrade(head).await
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    /// The connection can carry another request.
    pub(crate) reusable: bool,
}

/// A connection that speaks HTTP/1.1.
#[derive(Debug)]
pub(crate) struct Http1 {
    stream: Stream,
    received: BytesMut,
}

impl Http1 {
    pub(crate) fn new(stream: Stream) -> Self {
        Self {
            stream,
            received: BytesMut::new(),
        }
    }

    /// One request and its whole answer; `has_body` is false for `HEAD`.
    pub(crate) async fn request(&mut self, head: &str, has_body: bool) -> Result<Response, DialError> {
        tokio::time::timeout(TIMEOUT, async {
            let (status, headers) = self.exchange(head).await?;
            let keep = headers
                .header("connection")
                .is_none_or(|value| !value.eq_ignore_ascii_case("close"));
            let body = if has_body {
                self.body(&headers).await?
            } else {
                Some(Vec::new())
            };
            let reusable = keep && body.is_some();
            let body = match body {
                Some(body) => body,
                None => self.body_until_close().await?,
            };
            Ok(Response { status, body, reusable })
        })
        .await
        .unwrap_or_else(|_| Err(timed_out()))
    }

    pub(crate) async fn upgrade(mut self, head: &str) -> Result<(UpgradeResponse, Upgraded), DialError> {
        tokio::time::timeout(TIMEOUT, async {
            let (status, headers) = self.exchange(head).await?;
            if status == 101 {
                return Ok((headers, Upgraded::new(self.stream, self.received)));
            }
            let body = match self.body(&headers).await {
                Ok(Some(body)) => body,
                _ => self.received.to_vec(),
            };
            Err(DialError::Status {
                status,
                text: printable(&body),
            })
        })
        .await
        .unwrap_or_else(|_| Err(timed_out()))
    }

    async fn exchange(&mut self, head: &str) -> Result<(u16, UpgradeResponse), DialError> {
        self.stream.write_all(head.as_bytes()).await.map_err(DialError::Io)?;
        self.stream.flush().await.map_err(DialError::Io)?;
        loop {
            if let Some((status, headers, length)) = parse_head(&self.received)? {
                self.received.advance(length);
                return Ok((status, headers));
            }
            if self.received.len() > MAX_HEAD {
                return Err(DialError::NotHttp("its head is over 16 KiB"));
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), DialError> {
        let read = self.stream.read_buf(&mut self.received).await.map_err(DialError::Io)?;
        if read == 0 {
            return Err(DialError::Io(std::io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }

    /// The body by its length or chunks; nothing when it goes on until the connection closes.
    async fn body(&mut self, headers: &UpgradeResponse) -> Result<Option<Vec<u8>>, DialError> {
        if headers
            .header("transfer-encoding")
            .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
        {
            return self.chunks().await.map(Some);
        }
        let Some(length) = headers.header("content-length") else {
            return Ok(None);
        };
        let length = length.parse().ok().filter(|length| *length <= MAX_BODY);
        let length = length.ok_or(DialError::NotHttp("its body is over 64 KiB"))?;
        self.take(length).await.map(Some)
    }

    async fn take(&mut self, length: usize) -> Result<Vec<u8>, DialError> {
        while self.received.len() < length {
            self.fill().await?;
        }
        Ok(self.received.split_to(length).to_vec())
    }

    async fn chunks(&mut self) -> Result<Vec<u8>, DialError> {
        let mut body = Vec::new();
        loop {
            let (start, size) = loop {
                match httparse::parse_chunk_size(&self.received) {
                    Ok(httparse::Status::Complete(found)) => break found,
                    Ok(httparse::Status::Partial) if self.received.len() <= MAX_HEAD => self.fill().await?,
                    _ => return Err(DialError::NotHttp("a malformed chunk")),
                }
            };
            self.received.advance(start);
            let size = usize::try_from(size).ok().filter(|size| body.len() + size <= MAX_BODY);
            let size = size.ok_or(DialError::NotHttp("its body is over 64 KiB"))?;
            // Trailers are not expected: the last chunk is followed by a blank line.
            let chunk = self.take(size + 2).await?;
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                return Ok(body);
            }
        }
    }

    async fn body_until_close(&mut self) -> Result<Vec<u8>, DialError> {
        while self.received.len() <= MAX_BODY {
            match self.fill().await {
                Ok(()) => {}
                Err(_) => return Ok(self.received.split().to_vec()),
            }
        }
        Err(DialError::NotHttp("its body is over 64 KiB"))
    }
}

fn timed_out() -> DialError {
    DialError::Io(std::io::ErrorKind::TimedOut.into())
}

/// The beginning of a body for an error text.
pub(crate) fn printable(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect::<String>()
        .trim()
        .to_owned()
}

/// Status, headers and length of a complete head; nothing while it is incomplete.
pub(super) fn parse_head(received: &[u8]) -> Result<Option<(u16, UpgradeResponse, usize)>, DialError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(received) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(DialError::NotHttp("a malformed head")),
    };
    let Some(status) = response.code else {
        return Err(DialError::NotHttp("no status"));
    };
    let headers = response.headers.iter();
    let headers = headers.map(|header| {
        (
            header.name.to_owned(),
            String::from_utf8_lossy(header.value).into_owned(),
        )
    });
    Ok(Some((
        status,
        UpgradeResponse {
            headers: headers.collect(),
        },
        length,
    )))
}
