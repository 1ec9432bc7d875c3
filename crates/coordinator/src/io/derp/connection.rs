//! One client's connection: login, then a reader and a writer side by side.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use sandd_control_client::keys::NodePublicKey;
use sandd_mesh::derp::{
    Frame, FrameDecoder, FrameTooLong, LoginError, MalformedFrame, PeerGoneReason, RawFrame, ServerInfo,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use super::outbox::is_disco;
use super::{Outbox, Relay};
use crate::io::admission::Place;
use crate::io::shared::Shared;
use crate::limits::{Limits, with_jitter};

/// Bytes written at once.
const BATCH: usize = 64 << 10;
/// Room made before each read.
const READ_SIZE: usize = 64 << 10;
/// Destinations remembered without asking the relay's table again.
const MAX_REACHED: usize = 4096;
/// Answers to packets for nobody: a few at once, then one a second.
const NOT_HERE_BURST: u32 = 3;

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DerpError {
    #[error("connection")]
    Io(#[from] std::io::Error),
    #[error("login took too long")]
    LoginTimeout,
    #[error("login")]
    Login(#[from] LoginError),
    #[error("no member")]
    NotAMember,
    #[error("frame")]
    TooLong(#[from] FrameTooLong),
    #[error("frame")]
    Malformed(#[from] MalformedFrame),
    #[error("a frame that only relays send one another")]
    Mesh,
    #[error("the client does not read")]
    Stuck,
    #[error("thrown off")]
    ThrownOff,
}

/// Serves one client. `received` came behind the request already; `head` is to be written first (nothing with fast start).
pub(crate) async fn serve<S>(
    shared: &Shared,
    mut stream: S,
    received: &[u8],
    head: &[u8],
    place: &Place,
) -> Result<(), DerpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let relay = &shared.relay;
    let mut decoder = FrameDecoder::server();
    decoder.buffer().extend_from_slice(received);
    let mut out = BytesMut::from(head);
    relay.login().greet(&mut out);
    let login = async {
        write(&mut stream, &mut out, shared.limits.relay_write).await?;
        loop {
            if let Some(frame) = decoder.next_frame()? {
                return Ok(frame);
            }
            if stream.read_buf(decoder.buffer()).await? == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
        }
    };
    let frame: Result<RawFrame, DerpError> = tokio::time::timeout(shared.limits.opening, login)
        .await
        .map_err(|_| DerpError::LoginTimeout)?;
    let frame = frame?;
    let parsed = frame.parse()?.ok_or(DerpError::Mesh)?;
    let (key, _) = relay.login().client_info(&parsed)?;
    if !shared.admits_to_relay(&key) {
        return Err(DerpError::NotAMember);
    }
    place.is_member();
    let mut out = BytesMut::new();
    relay.login().admit(&key, &ServerInfo::current(), &mut out);
    write(&mut stream, &mut out, shared.limits.relay_write).await?;

    let outbox = Arc::new(Outbox::default());
    let number = relay.enter(key, Arc::clone(&outbox));
    let _seat = Seat { relay, key, number };
    // It may have ceased to be a member between the check and the seat.
    if !shared.admits_to_relay(&key) {
        return Err(DerpError::NotAMember);
    }
    let (reader, writer) = tokio::io::split(stream);
    let mut session = Session {
        relay,
        key,
        number,
        outbox: Arc::clone(&outbox),
        reached: BTreeSet::new(),
        not_here: NOT_HERE_BURST,
        not_here_since: Instant::now(),
    };
    let ended = tokio::select! {
        ended = session.read(reader, decoder) => ended,
        ended = pump(writer, &outbox, shared.limits) => ended,
    };
    if outbox.dropped() > 0 {
        tracing::debug!(client = %key.short(), dropped = outbox.dropped(), "a relay client read too slowly");
    }
    ended
}

/// A place in the relay's table, given back whatever ends the connection.
struct Seat<'a> {
    relay: &'a Relay,
    key: NodePublicKey,
    number: u64,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.relay.leave(&self.key, self.number);
    }
}

/// Writes everything; each step must move within `patience`.
async fn write<S: AsyncWrite + Unpin>(stream: &mut S, out: &mut BytesMut, patience: Duration) -> Result<(), DerpError> {
    while !out.is_empty() {
        let step = stream.write_buf(out);
        if tokio::time::timeout(patience, step)
            .await
            .map_err(|_| DerpError::Stuck)??
            == 0
        {
            return Err(std::io::Error::from(std::io::ErrorKind::WriteZero).into());
        }
    }
    tokio::time::timeout(patience, stream.flush())
        .await
        .map_err(|_| DerpError::Stuck)??;
    Ok(())
}

async fn pump<S: AsyncWrite + Unpin>(mut writer: S, outbox: &Outbox, limits: Limits) -> Result<(), DerpError> {
    let mut keep_alive = tokio::time::interval(with_jitter(limits.relay_keep_alive, 12));
    keep_alive.reset();
    let mut out = BytesMut::with_capacity(BATCH);
    loop {
        if !outbox.take(&mut out, BATCH) {
            return Err(DerpError::ThrownOff);
        }
        if !out.is_empty() {
            write(&mut writer, &mut out, limits.relay_write).await?;
            continue;
        }
        tokio::select! {
            () = outbox.filled() => {}
            _ = keep_alive.tick() => outbox.put_frame(&Frame::KeepAlive),
        }
    }
}

struct Session<'a> {
    relay: &'a Relay,
    key: NodePublicKey,
    number: u64,
    outbox: Arc<Outbox>,
    reached: BTreeSet<NodePublicKey>,
    not_here: u32,
    not_here_since: Instant,
}

impl Session<'_> {
    async fn read<S: AsyncRead + Unpin>(&mut self, mut reader: S, mut decoder: FrameDecoder) -> Result<(), DerpError> {
        loop {
            let mut any = false;
            while let Some(frame) = decoder.next_frame()? {
                any = true;
                self.handle(&frame)?;
            }
            if any {
                self.relay.touch(&self.key, self.number);
            }
            decoder.buffer().reserve(READ_SIZE);
            if reader.read_buf(decoder.buffer()).await? == 0 {
                return Ok(());
            }
        }
    }

    fn handle(&mut self, raw: &RawFrame) -> Result<(), DerpError> {
        let Some(frame) = raw.parse()? else {
            return Ok(());
        };
        match frame {
            Frame::SendPacket { dst, packet } => self.forward(dst, packet),
            Frame::Ping(data) => self.outbox.put_frame(&Frame::Pong(data)),
            Frame::ForwardPacket { .. } | Frame::WatchConns | Frame::ClosePeer { .. } => return Err(DerpError::Mesh),
            // A region has one relay, so a home is nothing to remember; what servers say is nothing to a server.
            Frame::NotePreferred { .. }
            | Frame::Pong(_)
            | Frame::KeepAlive
            | Frame::ServerKey { .. }
            | Frame::ClientInfo { .. }
            | Frame::ServerInfo { .. }
            | Frame::RecvPacket { .. }
            | Frame::PeerGone { .. }
            | Frame::PeerPresent { .. }
            | Frame::Health { .. }
            | Frame::Restarting { .. } => {}
            _ => {}
        }
        Ok(())
    }

    fn forward(&mut self, to: NodePublicKey, packet: &[u8]) {
        match self.relay.find(&to) {
            Some(outbox) => {
                if !self.reached.contains(&to) {
                    self.relay.remember(&self.key, to);
                    if self.reached.len() < MAX_REACHED {
                        self.reached.insert(to);
                    }
                }
                outbox.put_packet(self.key, packet);
            }
            None if is_disco(packet) && self.may_say_not_here() => self.outbox.put_frame(&Frame::PeerGone {
                key: to,
                reason: PeerGoneReason::NotHere,
            }),
            None => {}
        }
    }

    fn may_say_not_here(&mut self) -> bool {
        let seconds = self.not_here_since.elapsed().as_secs();
        if seconds > 0 {
            let more = u32::try_from(seconds).unwrap_or(u32::MAX);
            self.not_here = self.not_here.saturating_add(more).min(NOT_HERE_BURST);
            self.not_here_since = Instant::now();
        }
        let may = self.not_here > 0;
        self.not_here = self.not_here.saturating_sub(1);
        may
    }
}
