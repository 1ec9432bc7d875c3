//! [`Frame`]: the checked view of one frame, and its writer.
//!
//! | type | name | direction | body |
//! | --- | --- | --- | --- |
//! | 01 | ServerKey | to client | magic 8 · server key 32 |
//! | 02 | ClientInfo | to server | node key 32 · box |
//! | 03 | ServerInfo | to client | box |
//! | 04 | SendPacket | to server | destination 32 · packet |
//! | 05 | RecvPacket | to client | source 32 · packet |
//! | 06 | KeepAlive | to client | |
//! | 07 | NotePreferred | to server | 1 when this is my home |
//! | 08 | PeerGone | to client | key 32 · reason 1 |
//! | 09 | PeerPresent | to mesh | key 32 · IP 16 · port 2 · flags 1 |
//! | 0a | ForwardPacket | mesh | source 32 · destination 32 · packet |
//! | 10 | WatchConns | mesh | |
//! | 11 | ClosePeer | mesh | key 32 |
//! | 12, 13 | Ping, Pong | both | 8 bytes |
//! | 14 | Health | to client | problem, or nothing |
//! | 15 | Restarting | to client | reconnect in ms 4 · try for ms 4 |
//!
//! Longer bodies than needed are fine, as later versions may add to them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use sandd_control_client::keys::NodePublicKey;

use super::{FRAME_HEADER, MAX_PACKET};

const MAGIC: [u8; 8] = [0x44, 0x45, 0x52, 0x50, 0xf0, 0x9f, 0x94, 0x91];

/// Type of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the table in the module's text says it better")]
pub enum FrameKind {
    ServerKey = 0x01,
    ClientInfo = 0x02,
    ServerInfo = 0x03,
    SendPacket = 0x04,
    RecvPacket = 0x05,
    KeepAlive = 0x06,
    NotePreferred = 0x07,
    PeerGone = 0x08,
    PeerPresent = 0x09,
    ForwardPacket = 0x0a,
    WatchConns = 0x10,
    ClosePeer = 0x11,
    Ping = 0x12,
    Pong = 0x13,
    Health = 0x14,
    Restarting = 0x15,
}

impl FrameKind {
    const ALL: [Self; 16] = [
        Self::ServerKey,
        Self::ClientInfo,
        Self::ServerInfo,
        Self::SendPacket,
        Self::RecvPacket,
        Self::KeepAlive,
        Self::NotePreferred,
        Self::PeerGone,
        Self::PeerPresent,
        Self::ForwardPacket,
        Self::WatchConns,
        Self::ClosePeer,
        Self::Ping,
        Self::Pong,
        Self::Health,
        Self::Restarting,
    ];

    fn from_wire(kind: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|known| *known as u8 == kind)
    }
}

/// Why a server says that a peer cannot be reached there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerGoneReason {
    /// It was there and has left.
    Disconnected,
    /// It is not there.
    NotHere,
    /// A reason of a later version.
    Other(u8),
}

/// A frame with what it carries. Packets and boxes are borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Frame<'a> {
    /// The server's key; first frame of a connection.
    ServerKey {
        /// The key.
        key: NodePublicKey,
    },
    /// The client's key and its sealed info.
    ClientInfo {
        /// The client's key.
        key: NodePublicKey,
        /// Nonce and box.
        sealed: &'a [u8],
    },
    /// The server's sealed info: the client is admitted.
    ServerInfo {
        /// Nonce and box.
        sealed: &'a [u8],
    },
    /// A packet for another client.
    SendPacket {
        /// Who is to have it.
        dst: NodePublicKey,
        /// The packet.
        packet: &'a [u8],
    },
    /// A packet of another client.
    RecvPacket {
        /// Who sent it.
        src: NodePublicKey,
        /// The packet.
        packet: &'a [u8],
    },
    /// The server is still there.
    KeepAlive,
    /// Whether this region is the client's home.
    NotePreferred {
        /// It is.
        home: bool,
    },
    /// A peer cannot be reached here.
    PeerGone {
        /// The peer.
        key: NodePublicKey,
        /// Why.
        reason: PeerGoneReason,
    },
    /// Mesh servers tell one another of a client.
    PeerPresent {
        /// The client.
        key: NodePublicKey,
        /// Its address; absent in old servers.
        addr: Option<SocketAddr>,
        /// 1 regular, 2 mesh, 4 prober, 8 not ideal.
        flags: u8,
    },
    /// Mesh servers hand on a packet.
    ForwardPacket {
        /// Who sent it.
        src: NodePublicKey,
        /// Who is to have it.
        dst: NodePublicKey,
        /// The packet.
        packet: &'a [u8],
    },
    /// A mesh server asks to be told of clients.
    WatchConns,
    /// A mesh server asks to disconnect a client.
    ClosePeer {
        /// The client.
        key: NodePublicKey,
    },
    /// Answer with the same bytes.
    Ping([u8; 8]),
    /// The answer.
    Pong([u8; 8]),
    /// A problem to show; empty when there is none.
    Health {
        /// In words, as bytes that should be UTF-8.
        problem: &'a [u8],
    },
    /// The server is about to restart.
    Restarting {
        /// When to connect again.
        reconnect_in: Duration,
        /// How long to try.
        try_for: Duration,
    },
}

/// A body that does not fit its type. The connection cannot be trusted any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed derp frame of type {kind:#04x} with {length} bytes")]
pub struct MalformedFrame {
    /// Type on the wire.
    pub kind: u8,
    /// Length of its body.
    pub length: usize,
}

impl<'a> Frame<'a> {
    /// Reads a body. Nothing for unknown types, which are skipped.
    ///
    /// # Errors
    /// [`MalformedFrame`] when the body does not fit the type.
    pub fn parse(kind: u8, body: &'a [u8]) -> Result<Option<Self>, MalformedFrame> {
        let Some(known) = FrameKind::from_wire(kind) else {
            return Ok(None);
        };
        Self::parse_known(known, body).map(Some).ok_or(MalformedFrame {
            kind,
            length: body.len(),
        })
    }

    fn parse_known(kind: FrameKind, body: &'a [u8]) -> Option<Self> {
        let keyed = || {
            let (key, rest) = body.split_first_chunk::<32>()?;
            Some((NodePublicKey::from_bytes(*key), rest))
        };
        let carried = |packet: &'a [u8]| (packet.len() <= MAX_PACKET).then_some(packet);
        Some(match kind {
            FrameKind::ServerKey => {
                let key = body.strip_prefix(&MAGIC)?.first_chunk::<32>()?;
                Self::ServerKey {
                    key: NodePublicKey::from_bytes(*key),
                }
            }
            FrameKind::ClientInfo => keyed().map(|(key, sealed)| Self::ClientInfo { key, sealed })?,
            FrameKind::ServerInfo => Self::ServerInfo { sealed: body },
            FrameKind::SendPacket => {
                let (dst, packet) = keyed()?;
                Self::SendPacket {
                    dst,
                    packet: carried(packet)?,
                }
            }
            FrameKind::RecvPacket => {
                let (src, packet) = keyed()?;
                Self::RecvPacket {
                    src,
                    packet: carried(packet)?,
                }
            }
            FrameKind::ForwardPacket => {
                let (src, rest) = keyed()?;
                let (dst, packet) = rest.split_first_chunk::<32>()?;
                Self::ForwardPacket {
                    src,
                    dst: NodePublicKey::from_bytes(*dst),
                    packet: carried(packet)?,
                }
            }
            FrameKind::KeepAlive => Self::KeepAlive,
            FrameKind::NotePreferred => match body {
                [home] => Self::NotePreferred { home: *home != 0 },
                _ => return None,
            },
            FrameKind::PeerGone => {
                let (key, rest) = keyed()?;
                Self::PeerGone {
                    key,
                    reason: PeerGoneReason::from_wire(rest.first().copied().unwrap_or(0)),
                }
            }
            FrameKind::PeerPresent => {
                let (key, rest) = keyed()?;
                let addr = rest.first_chunk::<18>().map(read_addr);
                Self::PeerPresent {
                    key,
                    addr,
                    flags: rest.get(18).copied().unwrap_or(0),
                }
            }
            FrameKind::WatchConns => body.is_empty().then_some(Self::WatchConns)?,
            FrameKind::ClosePeer => match keyed()? {
                (key, []) => Self::ClosePeer { key },
                _ => return None,
            },
            FrameKind::Ping => Self::Ping(*body.first_chunk()?),
            FrameKind::Pong => Self::Pong(*body.first_chunk()?),
            FrameKind::Health => Self::Health { problem: body },
            FrameKind::Restarting => {
                let ([a0, a1, a2, a3], rest) = body.split_first_chunk::<4>()?;
                let [b0, b1, b2, b3] = rest.first_chunk::<4>()?;
                let millis = |bytes| Duration::from_millis(u64::from(u32::from_be_bytes(bytes)));
                let (reconnect_in, try_for) = (millis([*a0, *a1, *a2, *a3]), millis([*b0, *b1, *b2, *b3]));
                Self::Restarting { reconnect_in, try_for }
            }
        })
    }

    /// Type of this frame.
    #[must_use]
    pub fn kind(&self) -> FrameKind {
        match self {
            Self::ServerKey { .. } => FrameKind::ServerKey,
            Self::ClientInfo { .. } => FrameKind::ClientInfo,
            Self::ServerInfo { .. } => FrameKind::ServerInfo,
            Self::SendPacket { .. } => FrameKind::SendPacket,
            Self::RecvPacket { .. } => FrameKind::RecvPacket,
            Self::KeepAlive => FrameKind::KeepAlive,
            Self::NotePreferred { .. } => FrameKind::NotePreferred,
            Self::PeerGone { .. } => FrameKind::PeerGone,
            Self::PeerPresent { .. } => FrameKind::PeerPresent,
            Self::ForwardPacket { .. } => FrameKind::ForwardPacket,
            Self::WatchConns => FrameKind::WatchConns,
            Self::ClosePeer { .. } => FrameKind::ClosePeer,
            Self::Ping(_) => FrameKind::Ping,
            Self::Pong(_) => FrameKind::Pong,
            Self::Health { .. } => FrameKind::Health,
            Self::Restarting { .. } => FrameKind::Restarting,
        }
    }

    /// Appends the frame, header and all. Packets must not be longer than [`MAX_PACKET`]; servers hang up on them.
    pub fn append_to(&self, out: &mut BytesMut) {
        let header = out.len();
        out.put_slice(&[self.kind() as u8, 0, 0, 0, 0]);
        self.append_body(out);
        let length = u32::try_from(out.len() - header - FRAME_HEADER).unwrap_or(u32::MAX);
        out[header + 1..header + FRAME_HEADER].copy_from_slice(&length.to_be_bytes());
    }

    /// The frame alone.
    #[must_use]
    pub fn encode(&self) -> BytesMut {
        let mut out = BytesMut::new();
        self.append_to(&mut out);
        out
    }

    fn append_body(&self, out: &mut BytesMut) {
        match self {
            Self::ServerKey { key } => {
                out.put_slice(&MAGIC);
                out.put_slice(key.as_bytes());
            }
            Self::ClientInfo { key, sealed: rest }
            | Self::SendPacket { dst: key, packet: rest }
            | Self::RecvPacket { src: key, packet: rest } => {
                out.put_slice(key.as_bytes());
                out.put_slice(rest);
            }
            Self::ServerInfo { sealed: bytes } | Self::Health { problem: bytes } => out.put_slice(bytes),
            Self::KeepAlive | Self::WatchConns => {}
            Self::NotePreferred { home } => out.put_u8(u8::from(*home)),
            Self::PeerGone { key, reason } => {
                out.put_slice(key.as_bytes());
                out.put_u8(reason.to_wire());
            }
            Self::PeerPresent { key, addr, flags } => {
                out.put_slice(key.as_bytes());
                if let Some(addr) = addr {
                    put_addr(out, *addr);
                    out.put_u8(*flags);
                }
            }
            Self::ForwardPacket { src, dst, packet } => {
                out.put_slice(src.as_bytes());
                out.put_slice(dst.as_bytes());
                out.put_slice(packet);
            }
            Self::ClosePeer { key } => out.put_slice(key.as_bytes()),
            Self::Ping(data) | Self::Pong(data) => out.put_slice(data),
            Self::Restarting { reconnect_in, try_for } => {
                for time in [reconnect_in, try_for] {
                    out.put_u32(u32::try_from(time.as_millis()).unwrap_or(u32::MAX));
                }
            }
        }
    }
}

/// Appends a packet for `dst` with one reservation; false, and nothing written, when it is too long to be carried.
pub fn append_send_packet(dst: &NodePublicKey, packet: &[u8], out: &mut BytesMut) -> bool {
    let fits = packet.len() <= MAX_PACKET;
    if fits {
        out.reserve(FRAME_HEADER + 32 + packet.len());
        Frame::SendPacket { dst: *dst, packet }.append_to(out);
    }
    fits
}

/// Appends a packet of `src`, as [`append_send_packet`] does.
pub fn append_recv_packet(src: &NodePublicKey, packet: &[u8], out: &mut BytesMut) -> bool {
    let fits = packet.len() <= MAX_PACKET;
    if fits {
        out.reserve(FRAME_HEADER + 32 + packet.len());
        Frame::RecvPacket { src: *src, packet }.append_to(out);
    }
    fits
}

impl PeerGoneReason {
    fn from_wire(reason: u8) -> Self {
        match reason {
            0 => Self::Disconnected,
            1 => Self::NotHere,
            other => Self::Other(other),
        }
    }

    fn to_wire(self) -> u8 {
        match self {
            Self::Disconnected => 0,
            Self::NotHere => 1,
            Self::Other(reason) => reason,
        }
    }
}

fn read_addr(bytes: &[u8; 18]) -> SocketAddr {
    let mut ip = [0; 16];
    ip.copy_from_slice(&bytes[..16]);
    SocketAddr::new(
        IpAddr::V6(Ipv6Addr::from(ip)).to_canonical(),
        u16::from_be_bytes([bytes[16], bytes[17]]),
    )
}

fn put_addr(out: &mut BytesMut, addr: SocketAddr) {
    let ip = match addr.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    out.put_slice(&ip.octets());
    out.put_u16(addr.port());
}
