//! [`Connection`]: one connection to a relay from the login on. It reads, writes and keeps the time; its region task
//! decides what follows from that.
//!
//! Reading never waits for writing nor for the driver: all three are raced, and a packet without room is dropped.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use sandd_control_client::keys::NodePublicKey;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc::error::TrySendError;

use super::error::RelayError;
use super::inbox::{Inbox, RelayPackets};
use super::limit::TokenBucket;
use super::region::{Shared, Sink};
use super::{DerpEvent, RESERVED_EVENTS};
use crate::derp::{ClientInfo, ClientLogin, Frame, FrameDecoder, RawFrame};

/// Quiet for so long, a connection is asked whether it lives.
const PING_AFTER: Duration = Duration::from_secs(10);
/// The same while packets go out: whoever is talked with would have answered something.
const PING_AFTER_PACKET: Duration = Duration::from_millis(500);
/// Without an answer for so long (or as long as the login took), a second connection is prepared.
const SUSPECT_AFTER: Duration = Duration::from_millis(1_200);
const SUSPECT_AT_LAST: Duration = Duration::from_secs(3);
/// And after this the old one is given up.
const DEAD_AFTER: Duration = Duration::from_secs(8);
/// A connection to a region that is not the home ends this long after the last packet to it.
const IDLE_AFTER: Duration = Duration::from_secs(60);
/// From our info to the relay's.
const ADMISSION: Duration = Duration::from_secs(10);
/// A proxy that waits for an answer to HTTP would stall a fast start.
const FAST_ADMISSION: Duration = Duration::from_secs(1);
/// Longest text of a relay on its own health.
const MAX_PROBLEM: usize = 200;
const READ_ROOM: usize = 64 << 10;
/// Bytes on their way into the socket at most.
const WRITE_ROOM: usize = 64 << 10;

/// What a connection runs over.
pub(super) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// What its region task has to know.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The relay has us logged in.
    Admitted,
    /// A ping is not answered.
    Suspect,
    /// It was answered after all.
    Alive,
    /// Nobody needs this connection.
    Idle,
}

pub(super) struct Connection {
    reader: ReadHalf<Box<dyn Transport>>,
    writer: WriteHalf<Box<dyn Transport>>,
    decoder: FrameDecoder,
    inbox: Inbox,
    out: BytesMut,
    unflushed: bool,
    login: ClientLogin,
    started: Instant,
    admission_due: Instant,
    admitted: Option<Instant>,
    told_home: Option<bool>,
    last_received: Instant,
    last_packet_out: Instant,
    /// The first packet that went out since something came.
    unanswered_packet: Option<Instant>,
    pinged: Option<Instant>,
    suspect: bool,
    limit: Option<TokenBucket>,
}

impl Connection {
    /// `started` is when dialling began.
    pub(super) fn new(transport: Box<dyn Transport>, login: ClientLogin, started: Instant) -> Self {
        let (reader, writer) = tokio::io::split(transport);
        let now = Instant::now();
        Self {
            reader,
            writer,
            decoder: FrameDecoder::client(),
            inbox: Inbox::default(),
            out: BytesMut::new(),
            unflushed: false,
            login,
            started,
            admission_due: now + ADMISSION,
            admitted: None,
            told_home: None,
            last_received: now,
            last_packet_out: now,
            unanswered_packet: None,
            pinged: None,
            suspect: false,
            limit: None,
        }
    }

    /// Sends the request and our info in one flight, to a server whose key is known.
    pub(super) fn greet_fast(&mut self, request: &str, server: NodePublicKey) {
        let patience = (self.started.elapsed() * 3).max(FAST_ADMISSION);
        self.admission_due = Instant::now() + patience;
        self.out.extend_from_slice(request.as_bytes());
        self.login.greet(server, &ClientInfo::current(), &mut self.out);
    }

    /// Waits for the server's key and prepares our info.
    pub(super) async fn greet(&mut self) -> Result<(), RelayError> {
        let raw = loop {
            if let Some(raw) = self.decoder.next_frame()? {
                break raw;
            }
            reserve(self.decoder.buffer());
            if self.reader.read_buf(self.decoder.buffer()).await? == 0 {
                return Err(RelayError::Closed);
            }
        };
        let frame = raw.parse()?.unwrap_or(Frame::KeepAlive);
        let server = ClientLogin::server_key(&frame)?;
        self.login.greet(server, &ClientInfo::current(), &mut self.out);
        self.admission_due = Instant::now() + ADMISSION;
        Ok(())
    }

    /// When the relay admitted us.
    pub(super) fn admitted(&self) -> Option<Instant> {
        self.admitted
    }

    /// The relay's key, once greeted.
    pub(super) fn server(&self) -> Option<NodePublicKey> {
        self.login.server()
    }

    /// From the first packet to the relay's word.
    pub(super) fn connect_time(&self) -> Option<Duration> {
        self.admitted
            .map(|admitted| admitted.saturating_duration_since(self.started))
    }

    /// Carries packets until something happens that matters. Only one connection of a region `carries` what is queued.
    ///
    /// # Cancel safety
    /// All state is kept in `self`; the next call goes on.
    pub(super) async fn drive(&mut self, shared: &Shared, sink: &Sink, carries: bool) -> Result<Step, RelayError> {
        loop {
            if let Some(step) = self.take_received(shared, sink)? {
                return Ok(step);
            }
            if let Some(step) = self.handle_timers(shared, Instant::now())? {
                return Ok(step);
            }
            if carries && self.take_queued(shared, Instant::now()) {
                self.last_packet_out = Instant::now();
                self.unanswered_packet.get_or_insert(self.last_packet_out);
            }
            reserve(self.decoder.buffer());
            let deadline = self.deadline(shared);
            let pending = !self.out.is_empty() || self.unflushed;
            let has_room = carries && self.out.len() < WRITE_ROOM;
            tokio::select! {
                read = self.reader.read_buf(self.decoder.buffer()) => {
                    if self.lost(read)? == 0 {
                        return Err(self.closed());
                    }
                    self.last_received = Instant::now();
                    self.pinged = None;
                    self.unanswered_packet = None;
                    if std::mem::take(&mut self.suspect) {
                        return Ok(Step::Alive);
                    }
                }
                sent = write_some(&mut self.writer, &mut self.out), if pending => {
                    self.unflushed = self.lost(sent)?;
                }
                () = shared.queue.filled(), if has_room => {}
                () = tokio::time::sleep_until(deadline.into()) => {}
            }
        }
    }

    /// Goes through the frames that are whole; what is a packet goes on in runs.
    fn take_received(&mut self, shared: &Shared, sink: &Sink) -> Result<Option<Step>, RelayError> {
        let mut outcome = Ok(None);
        while let Some(raw) = self.decoder.next_frame()? {
            outcome = self.handle(&raw, shared, sink);
            if !matches!(outcome, Ok(None)) {
                break;
            }
        }
        if let Some(run) = self.inbox.take() {
            deliver_run(sink, run);
        }
        outcome
    }

    fn take_queued(&mut self, shared: &Shared, now: Instant) -> bool {
        let Self { out, limit, .. } = self;
        let mut admits = |bytes| limit.as_mut().is_none_or(|bucket| bucket.take(bytes, now));
        shared.queue.drain(out, WRITE_ROOM, &mut admits)
    }

    fn handle(&mut self, raw: &RawFrame, shared: &Shared, sink: &Sink) -> Result<Option<Step>, RelayError> {
        let Some(frame) = raw.parse()? else { return Ok(None) };
        match frame {
            Frame::RecvPacket { .. } if self.inbox.is_full() => {
                sink.drops.received.fetch_add(1, Ordering::Relaxed);
            }
            Frame::RecvPacket { src, packet } => {
                if let Some(run) = self.inbox.push(src, packet) {
                    deliver_run(sink, run);
                }
            }
            Frame::ServerInfo { sealed } if self.admitted.is_none() => {
                let now = Instant::now();
                self.limit = TokenBucket::new(&self.login.server_info(sealed)?, now);
                self.admitted = Some(now);
                return Ok(Some(Step::Admitted));
            }
            Frame::ServerKey { key } if self.admitted.is_none() && self.login.server() != Some(key) => {
                // Fast start with the key of an earlier run of the server.
                return Err(RelayError::Closed);
            }
            Frame::Ping(data) if self.out.len() < WRITE_ROOM => Frame::Pong(data).append_to(&mut self.out),
            Frame::PeerGone { key, reason } => {
                // What it sent before comes before.
                if let Some(run) = self.inbox.take() {
                    deliver_run(sink, run);
                }
                let gone = DerpEvent::PeerGone {
                    region: sink.region,
                    key,
                    reason,
                };
                deliver(sink, gone, 1);
            }
            Frame::Health { problem } => {
                let problem = String::from_utf8_lossy(&problem[..problem.len().min(MAX_PROBLEM)]).into_owned();
                if !problem.is_empty() {
                    tracing::warn!(region = sink.region.0, problem = %problem.escape_debug(), "the relay has a problem");
                }
                shared.set_trouble((!problem.is_empty()).then(|| format!("the relay says: {problem}")));
            }
            Frame::Restarting { reconnect_in, .. } => return Err(RelayError::Restarting(reconnect_in)),
            // Keep-alives and pongs have done their work by arriving.
            Frame::KeepAlive | Frame::Pong(_) | Frame::Ping(_) => {}
            Frame::ServerKey { .. } | Frame::ServerInfo { .. } => {}
            // Not for clients.
            Frame::ClientInfo { .. }
            | Frame::SendPacket { .. }
            | Frame::NotePreferred { .. }
            | Frame::PeerPresent { .. }
            | Frame::ForwardPacket { .. }
            | Frame::WatchConns
            | Frame::ClosePeer { .. } => {}
        }
        Ok(None)
    }

    fn handle_timers(&mut self, shared: &Shared, now: Instant) -> Result<Option<Step>, RelayError> {
        if self.admitted.is_none() && now >= self.admission_due {
            return Err(RelayError::TimedOut);
        }
        let home = shared.is_home();
        if self.told_home != Some(home) {
            self.told_home = Some(home);
            Frame::NotePreferred { home }.append_to(&mut self.out);
        }
        if self.admitted.is_some() {
            let probe = shared.take_probe() || now >= self.ping_due();
            // Also when the socket takes nothing: then it is the missing answer that shows it.
            if probe && self.pinged.is_none() {
                self.pinged = Some(now);
                Frame::Ping(*b"sandd\0\0\0").append_to(&mut self.out);
            }
        }
        let unanswered = self
            .pinged
            .map(|pinged| now.saturating_duration_since(pinged))
            .unwrap_or_default();
        if unanswered >= DEAD_AFTER {
            let silent = now.saturating_duration_since(self.last_received);
            return Err(RelayError::Silent(silent.as_secs()));
        }
        if unanswered >= self.suspect_after() && !self.suspect {
            self.suspect = true;
            return Ok(Some(Step::Suspect));
        }
        let quiet = now.saturating_duration_since(self.last_packet_out) >= IDLE_AFTER;
        Ok((!home && quiet && self.out.is_empty()).then_some(Step::Idle))
    }

    fn ping_due(&self) -> Instant {
        let quiet = self.last_received + PING_AFTER;
        self.unanswered_packet
            .map_or(quiet, |packet| quiet.min(packet + PING_AFTER_PACKET))
    }

    /// Two round trips or more, whatever the way to the relay.
    fn suspect_after(&self) -> Duration {
        let login = self.connect_time().unwrap_or_default();
        login.clamp(SUSPECT_AFTER, SUSPECT_AT_LAST)
    }

    fn deadline(&self, shared: &Shared) -> Instant {
        let admission = self.admitted.is_none().then_some(self.admission_due);
        let ping = match (self.pinged, self.suspect) {
            (None, _) => self.ping_due(),
            (Some(pinged), false) => pinged + self.suspect_after(),
            (Some(pinged), true) => pinged + DEAD_AFTER,
        };
        let idle = (!shared.is_home()).then_some(self.last_packet_out + IDLE_AFTER);
        let ping = self.admitted.map(|_| ping);
        // A blocked socket must not turn a deadline that has passed into a busy loop.
        let floor = Instant::now() + Duration::from_millis(20);
        let earliest = [admission, ping, idle].into_iter().flatten().min();
        earliest.map_or(floor + PING_AFTER, |at| at.max(floor))
    }

    fn lost<T>(&self, result: std::io::Result<T>) -> Result<T, RelayError> {
        result.map_err(|error| match self.admitted {
            // A server that closes with our frames unread resets the connection.
            None if error.kind() == std::io::ErrorKind::ConnectionReset => RelayError::Refused,
            _ => RelayError::Io(error),
        })
    }

    fn closed(&self) -> RelayError {
        if self.admitted.is_some() {
            RelayError::Closed
        } else {
            RelayError::Refused
        }
    }
}

/// Writes or, when all is written, flushes. True when there is something left to flush.
async fn write_some(writer: &mut WriteHalf<Box<dyn Transport>>, out: &mut BytesMut) -> std::io::Result<bool> {
    if out.has_remaining() {
        writer.write_buf(out).await?;
        return Ok(true);
    }
    writer.flush().await?;
    Ok(false)
}

/// Room for the next read. Reading on in a buffer that is nearly full would cost a call for every few bytes.
fn reserve(buffer: &mut BytesMut) {
    if buffer.capacity() - buffer.len() < READ_ROOM / 4 {
        buffer.reserve(READ_ROOM);
    }
}

fn deliver_run(sink: &Sink, (src, packets): (NodePublicKey, RelayPackets)) {
    let count = packets.count() as u64;
    let event = DerpEvent::Packets {
        region: sink.region,
        src,
        packets,
    };
    deliver(sink, event, count);
}

/// Hands on an event that stands for so many packets, if there is room.
fn deliver(sink: &Sink, event: DerpEvent, packets: u64) {
    let room = sink.events.capacity() > RESERVED_EVENTS;
    if !room || matches!(sink.events.try_send(event), Err(TrySendError::Full(_))) {
        sink.drops.received.fetch_add(packets, Ordering::Relaxed);
    }
}
