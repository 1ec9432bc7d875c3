//! [`WebSocketBytes`]: the byte stream of DERP inside binary WebSocket messages, for proxies that let nothing else pass.
//!
//! Message borders mean nothing. Servers limit what they read to 32 KiB a message, so ours are no longer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream as _};
use sandd_control_client::dial::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderValue, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::error::RelayError;

const SUBPROTOCOL: HeaderValue = HeaderValue::from_static("derp");
/// Longest message written.
const MAX_WRITTEN: usize = 32 << 10;
/// Longest message read: far more than servers send.
const MAX_READ: usize = 1 << 20;

pub(super) struct WebSocketBytes {
    socket: WebSocketStream<Stream>,
    received: Bytes,
}

impl WebSocketBytes {
    /// Asks for a WebSocket on a fresh connection; `url` is what the request names.
    pub(super) async fn open(stream: Stream, url: &str) -> Result<Self, RelayError> {
        let config = WebSocketConfig::default()
            .write_buffer_size(0)
            .max_message_size(Some(MAX_READ))
            .max_frame_size(Some(MAX_READ));
        let mut request = url.into_client_request().map_err(Box::new)?;
        request
            .headers_mut()
            .insert(header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL);
        let opened = tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await;
        let (socket, _) = opened.map_err(Box::new)?;
        Ok(Self {
            socket,
            received: Bytes::new(),
        })
    }
}

impl AsyncRead for WebSocketBytes {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.received.is_empty() {
            match ready!(Pin::new(&mut this.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => this.received = bytes,
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Ok(Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
        let length = this.received.len().min(buf.remaining());
        buf.put_slice(&this.received[..length]);
        this.received.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WebSocketBytes {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.socket).poll_ready(cx)).map_err(broken)?;
        let length = buf.len().min(MAX_WRITTEN);
        let message = Message::Binary(Bytes::copy_from_slice(&buf[..length]));
        Pin::new(&mut this.socket).start_send(message).map_err(broken)?;
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx).map_err(broken)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_close(cx).map_err(broken)
    }
}

fn broken(error: Error) -> io::Error {
    if let Error::Io(error) = error {
        return error;
    }
    io::Error::other(error)
}
