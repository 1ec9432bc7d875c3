//! `sandd.v1` messages on a WebSocket over any byte stream.
//!
//! A connection is split in two: the [`Reader`] is polled by the connection's own task, a writer task drains the
//! [`Outbox`]. So a side that is busy writing a large frame still reads, and two of them cannot block each other.
//! Heartbeats and acks overtake answers in the outbox, between frames.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::{Error as WsError, ProtocolError, SubProtocolError};
use tokio_tungstenite::tungstenite::http::{HeaderValue, header};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message as Frame, Utf8Bytes};

use super::{ByteStream, CONNECT_TIMEOUT, ServerUrl, TransportError};
use crate::wire::v1::{Message, WireError};
use crate::wire::{MAX_FRAME, MAX_MESSAGE, SUBPROTOCOL};

/// Answers that may wait for the socket; each may be as large as a frame.
const DATA_QUEUE: usize = 16;

/// Heartbeats, acks and pings that may wait for the socket.
const URGENT_QUEUE: usize = 64;

/// Time to say goodbye.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(400);

fn config() -> WebSocketConfig {
    // The buffers are allocated per connection, and a controller holds a thousand of them.
    WebSocketConfig::default()
        .read_buffer_size(8 * 1024)
        .write_buffer_size(0)
        .max_frame_size(Some(MAX_FRAME))
        .max_message_size(Some(MAX_MESSAGE))
}

/// What came from the other side.
#[derive(Debug)]
pub enum Inbound {
    /// A message of the catalogue.
    Message(Message),
    /// Text that is no message: to be logged and dropped.
    Unparsable(WireError),
    /// Anything else that shows life: pings, pongs, binary frames.
    Alive,
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Disconnect {
    /// With a close frame.
    #[error("the peer closed the connection")]
    Closed,
    /// Without one: end of stream, a reset, or a frame that breaks the rules.
    #[error("connection lost: {0}")]
    Lost(String),
}

/// The reading half of a connection.
#[derive(Debug)]
pub struct Reader(SplitStream<WebSocketStream<ByteStream>>);

impl Reader {
    /// The next thing that comes.
    ///
    /// # Errors
    /// [`Disconnect`], after which there is nothing more.
    pub async fn next(&mut self) -> Result<Inbound, Disconnect> {
        match self.0.next().await {
            Some(Ok(Frame::Text(text))) => Ok(match Message::decode(text.as_str()) {
                Ok(message) => Inbound::Message(message),
                Err(error) => Inbound::Unparsable(error),
            }),
            Some(Ok(Frame::Close(_))) => Err(Disconnect::Closed),
            Some(Ok(Frame::Binary(_) | Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_))) => Ok(Inbound::Alive),
            Some(Err(WsError::ConnectionClosed | WsError::AlreadyClosed)) => Err(Disconnect::Closed),
            Some(Err(error)) => Err(Disconnect::Lost(error.to_string())),
            None => Err(Disconnect::Lost("end of stream".to_owned())),
        }
    }
}

enum Urgent {
    Text(String),
    Ping,
    Close(&'static str),
}

/// Where messages are left for the writer of a connection; cheap to clone.
#[derive(Debug, Clone)]
pub struct Outbox {
    urgent: mpsc::Sender<Urgent>,
    data: mpsc::Sender<String>,
}

impl std::fmt::Debug for Urgent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Urgent")
    }
}

/// Why a message was not taken for sending.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The connection is gone.
    #[error("the connection is gone")]
    Gone,
    /// It cannot be written.
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl Outbox {
    /// Leaves a message, waiting for room.
    ///
    /// # Errors
    /// [`SendError`]; a message that was taken may still be lost with its connection.
    pub async fn send(&self, message: &Message) -> Result<(), SendError> {
        let text = message.encode()?;
        self.data.send(text).await.map_err(|_| SendError::Gone)
    }

    /// Leaves a message of the link itself, ahead of the answers; `false` when the socket took nothing for so long
    /// that the queue is full.
    pub fn send_urgent(&self, message: &Message) -> bool {
        message
            .encode()
            .is_ok_and(|text| self.urgent.try_send(Urgent::Text(text)).is_ok())
    }

    /// Asks for a WebSocket ping.
    pub fn ping(&self) -> bool {
        self.urgent.try_send(Urgent::Ping).is_ok()
    }

    /// Asks for a close frame, after what was left as urgent before; the writer ends with it.
    pub fn close(&self, reason: &'static str) {
        let _ = self.urgent.try_send(Urgent::Close(reason));
    }
}

/// The writing half: run it as a task beside the reader.
#[derive(Debug)]
pub struct Writer {
    sink: SplitSink<WebSocketStream<ByteStream>, Frame>,
    urgent: mpsc::Receiver<Urgent>,
    data: mpsc::Receiver<String>,
}

impl Writer {
    /// Writes until the connection is lost, closed by [`Outbox::close`], or nobody holds the outbox any more.
    pub async fn run(mut self) {
        loop {
            let frame = tokio::select! {
                biased;
                urgent = self.urgent.recv() => match urgent {
                    Some(Urgent::Text(text)) => Frame::text(text),
                    Some(Urgent::Ping) => Frame::Ping(Bytes::from_static(b"sandd")),
                    Some(Urgent::Close(reason)) => return self.close(reason).await,
                    None => return,
                },
                data = self.data.recv() => match data {
                    Some(text) => Frame::text(text),
                    None => return,
                },
            };
            if self.sink.send(frame).await.is_err() {
                return;
            }
        }
    }

    async fn close(&mut self, reason: &'static str) {
        let frame = CloseFrame {
            code: CloseCode::Away,
            reason: Utf8Bytes::from_static(reason),
        };
        let goodbye = async {
            let _ = self.sink.send(Frame::Close(Some(frame))).await;
            let _ = self.sink.close().await;
        };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, goodbye).await;
    }
}

fn split(socket: WebSocketStream<ByteStream>) -> (Reader, Writer, Outbox) {
    let (sink, stream) = socket.split();
    let (urgent_sender, urgent) = mpsc::channel(URGENT_QUEUE);
    let (data_sender, data) = mpsc::channel(DATA_QUEUE);
    let outbox = Outbox {
        urgent: urgent_sender,
        data: data_sender,
    };
    (Reader(stream), Writer { sink, urgent, data }, outbox)
}

/// Upgrades a dialled stream; an answer that names no subprotocol, or another one, is a failure.
///
/// # Errors
/// [`TransportError::Upgrade`] and its time-out.
pub async fn connect(stream: ByteStream, url: &ServerUrl) -> Result<(Reader, Writer, Outbox), TransportError> {
    let to = url.authority();
    let refused = |reason: String| TransportError::Upgrade { to: to.clone(), reason };
    let mut request = url
        .as_str()
        .into_client_request()
        .map_err(|error| refused(error.to_string()))?;
    request
        .headers_mut()
        .insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    let upgrade = tokio_tungstenite::client_async_with_config(request, stream, Some(config()));
    match tokio::time::timeout(CONNECT_TIMEOUT, upgrade).await {
        Ok(Ok((socket, _response))) => Ok(split(socket)),
        Ok(Err(error)) => Err(refused(explain(&error))),
        Err(_) => Err(TransportError::TimedOut {
            step: "WebSocket upgrade",
            to,
        }),
    }
}

fn explain(error: &WsError) -> String {
    if let WsError::Http(response) = error {
        return format!(
            "it answered {} instead of a WebSocket, check host, port and path",
            response.status()
        );
    }
    if let WsError::Protocol(ProtocolError::SecWebSocketSubProtocolError(which)) = error {
        let what = match which {
            SubProtocolError::NoSubProtocol => "the answer names no subprotocol",
            SubProtocolError::InvalidSubProtocol | SubProtocolError::ServerSentSubProtocolNoneRequested => {
                "the answer names another subprotocol"
            }
        };
        return format!("{what}, it is no controller that speaks {SUBPROTOCOL}");
    }
    error.to_string()
}

/// Takes over a stream on which the controller has answered the upgrade; `already_read` came behind the request.
pub async fn accepted(stream: ByteStream, already_read: BytesMut) -> (Reader, Writer, Outbox) {
    let socket =
        WebSocketStream::from_partially_read(stream, already_read.to_vec(), Role::Server, Some(config())).await;
    split(socket)
}
