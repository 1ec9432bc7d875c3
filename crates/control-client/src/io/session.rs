//! [`Connection`]: HTTP/2 within Noise. It carries registration, the endless map and updates side by side.
//!
//! The HTTP/2 driver is a task of its own, so that nothing a reader does can stop it, and received bytes are released at
//! once: Headscale drops a node that does not take an update within 50 ms.

use std::future::Future;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{Ping, PingPong, RecvStream};
use http::{Method, Request, Response, StatusCode};
use tokio::task::JoinHandle;

use super::noise_stream::NoiseStream;
use crate::dial::printable;
use crate::error::ControlError;
use crate::map_stream::MapDecoder;
use crate::wire::{MapRequest, RegisterRequest, RegisterResponse};

const REGISTER: &str = "/machine/register";
const MAP: &str = "/machine/map";
/// Headscale may think for a second; a loaded one for longer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_ANSWER: usize = 1 << 20;
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// A dead connection is noticed by the first of these that is not answered.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// One connection; closed when the last clone is dropped.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    requests: SendRequest<Bytes>,
    authority: String,
    _driver: std::sync::Arc<AbortOnDrop>,
}

#[derive(Debug)]
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connection {
    pub(super) async fn start(stream: NoiseStream, authority: String) -> Result<Self, ControlError> {
        let (requests, mut connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(64 * 1024)
            .enable_push(false)
            .handshake::<_, Bytes>(stream)
            .await?;
        let ping = connection.ping_pong();
        let driver = tokio::spawn(async move {
            tokio::select! {
                ended = connection => tracing::debug!(?ended, "connection to the coordinator ended"),
                () = keep_alive(ping) => tracing::debug!("coordinator does not answer pings, closing the connection"),
            }
        });
        Ok(Self {
            requests,
            authority,
            _driver: std::sync::Arc::new(AbortOnDrop(driver)),
        })
    }

    /// Sends a request; its body is small enough to be sent without waiting for the other side's window.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Response<RecvStream>, ControlError> {
        let mut requests = self.requests.clone().ready().await?;
        let request = Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.authority))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(())
            .map_err(|_| ControlError::Refused("its request path is no path".to_owned()))?;
        let (response, mut stream) = requests.send_request(request, body.is_empty())?;
        if !body.is_empty() {
            stream.send_data(body.into(), true)?;
        }
        Ok(response.await?)
    }

    async fn post<T: serde::Serialize>(
        &self,
        path: &'static str,
        body: &T,
    ) -> Result<Response<RecvStream>, ControlError> {
        let body = serde_json::to_vec(body).map_err(|source| ControlError::Json { path, source })?;
        let response = self.send(Method::POST, path, body).await?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get(http::header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok());
        let retry_after = retry_after
            .and_then(|seconds| seconds.trim().parse().ok())
            .map(|seconds| Duration::from_secs(seconds).min(MAX_RETRY_AFTER));
        let text = printable(&read_all(response.into_body(), path).await.unwrap_or_default());
        Err(ControlError::Status {
            status,
            path,
            text,
            retry_after,
        })
    }

    /// Registers. The answer to a follow-up comes when a person has acted, so it may take any time.
    pub(super) async fn register(
        &self,
        request: &RegisterRequest,
        wait_for_person: bool,
    ) -> Result<RegisterResponse, ControlError> {
        let answer = async {
            let response = self.post(REGISTER, request).await?;
            let body = read_all(response.into_body(), REGISTER).await?;
            // A node that vanished meanwhile is answered with `null`.
            let answer: Option<RegisterResponse> =
                serde_json::from_slice(&body).map_err(|source| ControlError::Json { path: REGISTER, source })?;
            answer.ok_or(ControlError::Removed)
        };
        if wait_for_person {
            answer.await
        } else {
            limited("the registration", answer).await
        }
    }

    /// Opens the endless answer.
    pub(super) async fn open_map(&self, request: &MapRequest) -> Result<MapStream, ControlError> {
        let response = limited("the map request", self.post(MAP, request)).await?;
        Ok(MapStream {
            body: response.into_body(),
            decoder: MapDecoder::new(),
        })
    }

    /// Tells the coordinator about us without asking for a map.
    pub(super) async fn update(&self, request: &MapRequest) -> Result<(), ControlError> {
        limited("an update", async {
            let response = self.post(MAP, request).await?;
            read_all(response.into_body(), MAP).await.map(drop)
        })
        .await
    }
}

/// True for the answer that the coordinator gives to a node that it does not know.
pub(super) fn is_unknown_node(error: &ControlError) -> bool {
    matches!(
        error,
        ControlError::Status {
            status: 404,
            path: MAP,
            ..
        } | ControlError::Removed
    )
}

async fn limited<T>(
    what: &'static str,
    work: impl Future<Output = Result<T, ControlError>>,
) -> Result<T, ControlError> {
    tokio::time::timeout(ANSWER_TIMEOUT, work)
        .await
        .unwrap_or(Err(ControlError::TimedOut(what)))
}

async fn keep_alive(ping: Option<PingPong>) {
    let Some(mut ping) = ping else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(PING_INTERVAL).await;
        if !matches!(
            tokio::time::timeout(PING_TIMEOUT, ping.ping(Ping::opaque())).await,
            Ok(Ok(_))
        ) {
            return;
        }
    }
}

async fn read_all(mut body: RecvStream, path: &'static str) -> Result<BytesMut, ControlError> {
    let mut all = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        if all.len() + chunk.len() > MAX_ANSWER {
            return Err(ControlError::TooLong { path });
        }
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

/// The endless answer, as messages.
#[derive(Debug)]
pub(super) struct MapStream {
    body: RecvStream,
    decoder: MapDecoder,
}

impl MapStream {
    /// The next message's JSON. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Result<Vec<u8>, ControlError> {
        loop {
            if let Some(message) = self.decoder.next_message()? {
                return Ok(message);
            }
            let Some(chunk) = self.body.data().await else {
                return Err(ControlError::StreamEnded);
            };
            let chunk = chunk?;
            self.body.flow_control().release_capacity(chunk.len())?;
            self.decoder.push(&chunk);
        }
    }
}
