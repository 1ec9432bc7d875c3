//! [`NoiseStream`]: a byte stream over the records of [`crate::noise`], for HTTP/2 to run on.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::dial::Upgraded;
use crate::noise::{EarlyDecoder, MAX_RECORD, RecordDecoder, Sealer, Transport};

/// Plaintext taken at once; sealed bytes wait until the connection has taken them.
const MAX_WRITE: usize = 64 * 1024;

/// A connection after its handshake. The early payload is read and dropped.
#[derive(Debug)]
pub(super) struct NoiseStream {
    inner: Upgraded,
    sealer: Sealer,
    decoder: RecordDecoder,
    early: Option<EarlyDecoder>,
    plaintext: BytesMut,
    sealed: BytesMut,
}

fn broken(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl NoiseStream {
    /// Goes on after the handshake; `received` is what came behind its response.
    pub(super) fn new(inner: Upgraded, transport: Transport, received: &[u8]) -> Self {
        let Transport { sealer, mut decoder } = transport;
        decoder.push(received);
        let early = Some(EarlyDecoder::default());
        Self {
            inner,
            sealer,
            decoder,
            early,
            plaintext: BytesMut::new(),
            sealed: BytesMut::new(),
        }
    }

    /// Opens what is there already; true when there is plaintext to read.
    fn open_received(&mut self) -> io::Result<bool> {
        while self.plaintext.is_empty() {
            let Some(plaintext) = self.decoder.next_plaintext().map_err(broken)? else {
                return Ok(false);
            };
            match self.early.as_mut() {
                None => self.plaintext = plaintext,
                Some(early) => {
                    if let Some(outcome) = early.push(&plaintext).map_err(broken)? {
                        self.early = None;
                        self.plaintext = outcome.rest;
                    }
                }
            }
        }
        Ok(true)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.sealed.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.sealed))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sealed.advance(written);
        }
        if self.sealed.capacity() > 4 * MAX_RECORD {
            self.sealed = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for NoiseStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut chunk = [0u8; 4 * MAX_RECORD];
        while !this.open_received()? {
            let mut read = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.decoder.push(read.filled());
        }
        let length = this.plaintext.len().min(buf.remaining());
        buf.put_slice(&this.plaintext[..length]);
        this.plaintext.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for NoiseStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        let length = buf.len().min(MAX_WRITE);
        this.sealer.seal(&buf[..length], &mut this.sealed).map_err(broken)?;
        // The bytes are taken, whether or not the connection takes them now.
        match this.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(length)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}
