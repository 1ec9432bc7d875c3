//! One node's connection: Noise, HTTP/2 on it, and `/machine/…` inside.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{Method, Request, Response, StatusCode};
use sandd_control_client::keys::{ChallengePublicKey, MachinePrivateKey, MachinePublicKey};
use sandd_control_client::noise::{Accepted, EarlyPayload, encode_error_frame};
use sandd_control_client::wire::{MapRequest, RegisterRequest};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::admission::Place;
use super::map_stream::{MapStream, Presence};
use super::noise::NoiseStream;
use super::register;
use super::shared::Shared;
use crate::limits::Limits;
use crate::map::derp_map;
use crate::membership::{MapRefusal, NodeId};

/// The oldest client that is served: Tailscale 1.80, as with Headscale 0.29.
const OLDEST_VERSION: i64 = 113;
/// Largest request body.
const MAX_BODY: usize = 1 << 20;
/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(30);
/// How long a stranger may take to become a member; a login waits for a person.
const STRANGER_TIME: Duration = Duration::from_secs(17 * 60);
/// How long a connection may be silent after its handshake before its first request.
const FIRST_REQUEST_TIME: Duration = Duration::from_secs(30);
/// How long a map request waits for a registration that is being answered.
const REGISTRATION_TIME: Duration = Duration::from_secs(5);
/// Requests at once on one connection.
const MAX_STREAMS: u32 = 64;

const UPGRADE_HEAD: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\n\r\n";

/// What handlers of one connection share.
struct Caller {
    shared: Arc<Shared>,
    machine: MachinePublicKey,
    place: Place,
    /// Registrations of this connection that are being answered.
    registering: watch::Sender<u32>,
}

/// Counts a registration for as long as it is being answered.
struct Registering<'a>(&'a watch::Sender<u32>);

impl<'a> Registering<'a> {
    fn begin(count: &'a watch::Sender<u32>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Registering<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Why a connection ends early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    #[error("connection")]
    Io(#[from] std::io::Error),
    #[error("http/2")]
    Http2(#[from] h2::Error),
    #[error("client version {0} is too old")]
    TooOld(u16),
    #[error("record")]
    Record(#[from] sandd_control_client::noise::RecordError),
    #[error("no answer to a ping")]
    Silent,
    #[error("no request came")]
    NoRequest,
    #[error("still no member")]
    Stranger,
}

/// What a handshake is refused with.
pub(crate) fn refusal(text: &str) -> Vec<u8> {
    [UPGRADE_HEAD, &encode_error_frame(text)].concat()
}

/// Serves an accepted handshake until the connection ends.
pub(crate) async fn serve<S>(
    shared: Arc<Shared>,
    mut stream: S,
    received: &[u8],
    accepted: Accepted,
    place: Place,
) -> Result<(), NodeError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut first = BytesMut::from(UPGRADE_HEAD);
    if i64::from(accepted.version) < OLDEST_VERSION {
        let text = format!("unsupported client version: {}", accepted.version);
        stream.write_all(&refusal(&text)).await?;
        return Err(NodeError::TooOld(accepted.version));
    }
    let mut transport = accepted.transport;
    first.extend_from_slice(&accepted.response);
    let challenge = ChallengePublicKey::from_bytes(*MachinePrivateKey::generate().public().as_bytes());
    let early = EarlyPayload {
        node_key_challenge: Some(challenge),
    };
    transport.sealer.seal(&early.encode(), &mut first)?;
    let noise = NoiseStream::new(stream, transport, received, first);
    let caller = Arc::new(Caller {
        shared,
        machine: accepted.client,
        place,
        registering: watch::Sender::new(0),
    });
    let handshake = h2::server::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(16 << 10)
        .max_send_buffer_size(1 << 20)
        .handshake(noise);
    let connection = tokio::time::timeout(FIRST_REQUEST_TIME, handshake)
        .await
        .map_err(|_| NodeError::NoRequest)??;
    drive(connection, caller).await
}

async fn drive<T>(mut connection: Connection<T, Bytes>, caller: Arc<Caller>) -> Result<(), NodeError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let pings = connection.ping_pong();
    let liveness = stay_alive(pings, caller.shared.limits);
    let first_request = tokio::time::sleep(FIRST_REQUEST_TIME);
    let stranger = tokio::time::sleep(STRANGER_TIME);
    tokio::pin!(liveness, first_request, stranger);
    let mut began = false;
    let mut requests = JoinSet::new();
    loop {
        tokio::select! {
            next = connection.accept() => match next {
                Some(Ok((request, respond))) => {
                    began = true;
                    requests.spawn(handle(Arc::clone(&caller), request, respond));
                }
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(()),
            },
            Some(finished) = requests.join_next(), if !requests.is_empty() => {
                if finished.is_err_and(|error| error.is_panic()) {
                    tracing::error!("a request ended by a panic");
                }
            }
            () = &mut liveness => return Err(NodeError::Silent),
            () = &mut first_request, if !began => return Err(NodeError::NoRequest),
            () = &mut stranger, if caller.place.is_stranger() => return Err(NodeError::Stranger),
        }
    }
}

/// Returns when a ping was not answered in time.
async fn stay_alive(pings: Option<h2::PingPong>, limits: Limits) {
    let Some(mut pings) = pings else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(limits.ping).await;
        if pings.send_ping(h2::Ping::opaque()).is_err() {
            return std::future::pending().await;
        }
        let pong = std::future::poll_fn(|cx| pings.poll_pong(cx));
        match tokio::time::timeout(limits.pong, pong).await {
            Ok(Ok(_)) => {}
            // The connection's own error says more.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}

/// A refusal: status and plain text.
struct Refusal(StatusCode, String);

impl Refusal {
    fn new(status: StatusCode, text: impl std::fmt::Display) -> Self {
        Self(status, text.to_string())
    }
}

async fn handle(caller: Arc<Caller>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let path = request.uri().path().to_owned();
    if let Some(delay) = caller.shared.hooks.delay() {
        tokio::time::sleep(delay).await;
    }
    let outcome = match caller.shared.hooks.answer(&path) {
        Some(canned) => {
            let status = StatusCode::from_u16(canned.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            Err(Refusal(status, canned.body))
        }
        None => match (request.method(), path.as_str()) {
            (&Method::POST, "/machine/register") => handle_register(&caller, request, &mut respond).await,
            (&Method::POST, "/machine/map") => handle_map(&caller, request, &mut respond).await,
            (_, "/machine/register" | "/machine/map") => {
                Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed"))
            }
            (_, other) if other.starts_with("/machine/") => {
                Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, "not implemented"))
            }
            _ => Err(Refusal::new(StatusCode::NOT_FOUND, "404 page not found")),
        },
    };
    if let Err(Refusal(status, text)) = outcome {
        tracing::debug!(?path, %status, "refused");
        send(&mut respond, status, "text/plain; charset=utf-8", Bytes::from(text));
    }
}

fn send(respond: &mut SendResponse<Bytes>, status: StatusCode, kind: &str, body: Bytes) {
    let response = Response::builder().status(status).header("content-type", kind).body(());
    let Ok(response) = response else {
        return respond.send_reset(Reason::INTERNAL_ERROR);
    };
    // A client that has gone away needs no answer.
    if let Ok(mut stream) = respond.send_response(response, false) {
        let _ = stream.send_data(body, true);
    }
}

async fn read_body(body: &mut RecvStream) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error))?;
        if bytes.len() + chunk.len() > MAX_BODY {
            return Err(Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "request body is larger than 1 MiB",
            ));
        }
        bytes.extend_from_slice(&chunk);
        // Only fails for a stream that is over, which the next read says as well.
        let _ = body.flow_control().release_capacity(chunk.len());
    }
    Ok(bytes)
}

async fn read_json<T: serde::de::DeserializeOwned>(request: Request<RecvStream>) -> Result<T, Refusal> {
    let mut body = request.into_body();
    let bytes = tokio::time::timeout(BODY_TIME, read_body(&mut body))
        .await
        .map_err(|_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "request body did not arrive in time"))??;
    let bytes = zeroize::Zeroizing::new(bytes);
    serde_json::from_slice(&bytes).map_err(|error| {
        Refusal::new(
            StatusCode::BAD_REQUEST,
            format!("request is not the expected json: {error}"),
        )
    })
}

fn check_version(version: i64) -> Result<(), Refusal> {
    if version < OLDEST_VERSION {
        let text = format!("unsupported client version:  ({version})");
        return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
    }
    Ok(())
}

async fn handle_register(
    caller: &Caller,
    request: Request<RecvStream>,
    respond: &mut SendResponse<Bytes>,
) -> Result<(), Refusal> {
    let _registering = Registering::begin(&caller.registering);
    let request: RegisterRequest = read_json(request).await?;
    check_version(request.version)?;
    let gone = async {
        let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
    };
    let answer = register::answer(&caller.shared, &caller.machine, &request, gone).await;
    let answer = answer.map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error))?;
    let Some(answer) = answer else {
        return Ok(());
    };
    if answer.error.is_empty() {
        if answer.machine_authorized {
            caller.place.is_member();
        }
    } else {
        tracing::info!(machine = %caller.machine.short(), error = answer.error, "registration refused");
    }
    let json = serde_json::to_vec(&answer).map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error))?;
    send(
        respond,
        StatusCode::OK,
        "application/json; charset=utf-8",
        Bytes::from(json),
    );
    Ok(())
}

/// Takes over what a map request says; whether its stream may open, if it asks for one. A request that comes side by
/// side with the registration waits for it.
async fn take_over(caller: &Caller, request: &MapRequest) -> Result<(NodeId, Option<bool>), MapRefusal> {
    let mut registering = caller.registering.subscribe();
    let patience = tokio::time::sleep(REGISTRATION_TIME);
    tokio::pin!(patience);
    loop {
        let is_registering = *registering.borrow_and_update() > 0;
        // One change for both, so that peers hear of the node once, and as online.
        let taken = caller.shared.change(|core, _| {
            let id = core.membership.update(&caller.machine, request)?;
            Ok((id, request.stream.then(|| core.membership.stream_opened(id))))
        });
        if taken != Err(MapRefusal::Unknown) || !is_registering {
            return taken;
        }
        tokio::select! {
            _ = registering.changed() => {}
            () = &mut patience => return taken,
        }
    }
}

async fn handle_map(
    caller: &Caller,
    request: Request<RecvStream>,
    respond: &mut SendResponse<Bytes>,
) -> Result<(), Refusal> {
    let shared = &caller.shared;
    let relay = shared.published.relay_for(request.uri().authority());
    let request: MapRequest = read_json(request).await?;
    check_version(request.version)?;
    let (id, opened) = take_over(caller, &request)
        .await
        .map_err(|refusal| Refusal::new(StatusCode::NOT_FOUND, refusal))?;
    let presence = match opened {
        Some(true) => Some(Presence { shared, id }),
        Some(false) => {
            let text = "this node has too many map streams open";
            return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, text));
        }
        None => None,
    };
    caller.place.is_member();
    let response = Response::builder()
        .header("content-type", "application/octet-stream")
        .body(())
        .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error))?;
    let body = respond.send_response(response, !request.stream);
    let Ok(body) = body else {
        return Ok(());
    };
    if let Some(presence) = presence {
        let stream = MapStream {
            presence,
            zstd: request.compress == "zstd",
            derp_map: derp_map(&relay),
            body,
        };
        let end = stream.run().await;
        tracing::debug!(node = %id, %end, "map stream ended");
    }
    Ok(())
}
