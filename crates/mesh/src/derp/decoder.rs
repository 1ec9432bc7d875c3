//! [`FrameDecoder`]: byte stream to frames, `type 1 · length 4 · body`.
//!
//! The shell reads straight into [`FrameDecoder::buffer`]; a body is split off without a copy. Memory grows with the
//! bytes that really came, never with a length that a peer claims.

use bytes::{Buf, BytesMut};

use super::frame::{Frame, FrameKind, MalformedFrame};
use super::{FRAME_HEADER, MAX_PACKET};

/// A client hangs up on longer frames.
const CLIENT_LIMIT: usize = 1 << 20;
/// A server hangs up on longer login frames.
const SERVER_LOGIN_LIMIT: usize = 256 << 10;
/// Two keys and the longest packet.
const SERVER_LIMIT: usize = MAX_PACKET + 64;

/// A frame longer than its receiver accepts. The connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("derp frame of type {kind:#04x} claims {length} bytes, more than the {limit} that are accepted")]
pub struct FrameTooLong {
    /// Type on the wire.
    pub kind: u8,
    /// Claimed length.
    pub length: usize,
    /// The limit.
    pub limit: usize,
}

/// One frame as it came: its type and its own bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawFrame {
    kind: u8,
    body: BytesMut,
}

impl RawFrame {
    /// Type on the wire.
    #[must_use]
    pub fn kind(&self) -> u8 {
        self.kind
    }

    /// The checked view. Nothing for types that are not known, which are to be skipped.
    ///
    /// # Errors
    /// [`MalformedFrame`] when the body does not fit the type.
    pub fn parse(&self) -> Result<Option<Frame<'_>>, MalformedFrame> {
        Frame::parse(self.kind, &self.body)
    }

    /// What stands behind the first `skip` bytes of the body, without a copy: the packet of a parsed frame.
    #[must_use]
    pub fn into_tail(mut self, skip: usize) -> BytesMut {
        self.body.advance(skip.min(self.body.len()));
        self.body
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// See the module's text.
#[derive(Debug)]
pub struct FrameDecoder {
    side: Side,
    buffer: BytesMut,
}

impl FrameDecoder {
    /// Reads what a server sends.
    #[must_use]
    pub fn client() -> Self {
        Self {
            side: Side::Client,
            buffer: BytesMut::new(),
        }
    }

    /// Reads what a client sends.
    #[must_use]
    pub fn server() -> Self {
        Self {
            side: Side::Server,
            buffer: BytesMut::new(),
        }
    }

    /// Where received bytes are appended.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next whole frame; nothing while it is incomplete.
    ///
    /// # Errors
    /// [`FrameTooLong`] as soon as a header claims too much; every later call says so again.
    pub fn next_frame(&mut self) -> Result<Option<RawFrame>, FrameTooLong> {
        let Some(([kind, l0, l1, l2, l3], rest)) = self.buffer.split_first_chunk::<FRAME_HEADER>() else {
            return Ok(None);
        };
        let kind = *kind;
        let claimed = u32::from_be_bytes([*l0, *l1, *l2, *l3]);
        let length = usize::try_from(claimed).unwrap_or(usize::MAX);
        let limit = self.limit(kind);
        if length > limit {
            return Err(FrameTooLong { kind, length, limit });
        }
        if rest.len() < length {
            return Ok(None);
        }
        self.buffer.advance(FRAME_HEADER);
        Ok(Some(RawFrame {
            kind,
            body: self.buffer.split_to(length),
        }))
    }

    fn limit(&self, kind: u8) -> usize {
        match self.side {
            Side::Client => CLIENT_LIMIT,
            Side::Server if kind == FrameKind::ClientInfo as u8 => SERVER_LOGIN_LIMIT,
            Side::Server => SERVER_LIMIT,
        }
    }
}
