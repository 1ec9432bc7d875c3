//! [`NoiseStream`]: bytes in, records out, and back; HTTP/2 runs on it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use sandd_control_client::noise::{MAX_PLAINTEXT, Transport};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes read from the connection at once.
const READ_SIZE: usize = 16 * 1024;
/// Sealed bytes that may wait for the connection.
const MAX_SEALED: usize = 64 * 1024;

/// A connection after its handshake.
#[derive(Debug)]
pub(crate) struct NoiseStream<S> {
    stream: S,
    transport: Transport,
    plaintext: BytesMut,
    sealed: BytesMut,
    ended: bool,
}

impl<S> NoiseStream<S> {
    /// `received` came behind the initiation already; `sealed` is to be written first.
    pub(crate) fn new(stream: S, mut transport: Transport, received: &[u8], sealed: BytesMut) -> Self {
        transport.decoder.push(received);
        Self {
            stream,
            transport,
            plaintext: BytesMut::new(),
            sealed,
            ended: false,
        }
    }
}

fn broken(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl<S: AsyncWrite + Unpin> NoiseStream<S> {
    /// Writes sealed bytes until at most `rest` are left.
    fn poll_drain(&mut self, cx: &mut Context<'_>, rest: usize) -> Poll<io::Result<()>> {
        while self.sealed.len() > rest {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.sealed))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sealed.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for NoiseStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.plaintext.is_empty() {
            if let Some(plaintext) = this.transport.decoder.next_plaintext().map_err(broken)? {
                this.plaintext = plaintext;
                break;
            }
            if this.ended {
                return Poll::Ready(Ok(()));
            }
            let received = this.transport.decoder.buffer();
            received.reserve(READ_SIZE);
            let count = ready!(tokio_read(Pin::new(&mut this.stream), cx, received))?;
            this.ended = count == 0;
        }
        let count = this.plaintext.len().min(buf.remaining());
        buf.put_slice(&this.plaintext[..count]);
        this.plaintext.advance(count);
        Poll::Ready(Ok(()))
    }
}

/// Reads once, behind what is in `received`.
fn tokio_read<S: AsyncRead>(
    stream: Pin<&mut S>,
    cx: &mut Context<'_>,
    received: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    let mut chunk = [0u8; READ_SIZE];
    let mut buf = ReadBuf::new(&mut chunk);
    ready!(stream.poll_read(cx, &mut buf))?;
    received.extend_from_slice(buf.filled());
    Poll::Ready(Ok(buf.filled().len()))
}

impl<S: AsyncWrite + Unpin> AsyncWrite for NoiseStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.sealed.len() >= MAX_SEALED {
            ready!(this.poll_drain(cx, MAX_SEALED - 1))?;
        }
        let count = bytes.len().min(MAX_PLAINTEXT * 8);
        let Transport { sealer, .. } = &mut this.transport;
        sealer.seal(&bytes[..count], &mut this.sealed).map_err(broken)?;
        // HTTP/2 flushes when it has nothing more to say; until then records gather for one packet.
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx, 0))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx, 0))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}
