//! DERP: the relay protocol, for both ends. Frames over one upgraded HTTP connection.
//!
//! ```text
//! client                                 server
//!   GET /derp, Upgrade: DERP        ──▶
//!                                   ◀──  101, ServerKey
//!   ClientInfo (sealed), NotePreferred, packets  ──▶      nothing waits for an answer
//!                                   ◀──  ServerInfo (sealed): admitted
//!   SendPacket(to, packet)          ──▶  RecvPacket(from, packet) at the other client
//! ```
//!
//! [`FrameDecoder`] cuts a byte stream into [`RawFrame`]s without trusting a length, [`Frame`] is the checked view of
//! one and writes it, [`ClientLogin`] and [`ServerLogin`] are the sealed part. All of it is pure; the connections are
//! in `io/derp.rs`. After Tailscale's `derp/derp.go`, protocol version 2.

mod decoder;
mod frame;
mod login;
mod sealed;

pub use decoder::{FrameDecoder, FrameTooLong, RawFrame};
pub use frame::{Frame, FrameKind, MalformedFrame, PeerGoneReason, append_recv_packet, append_send_packet};
pub use login::{ClientInfo, ClientLogin, LoginError, ServerInfo, ServerLogin};

/// Version that both infos name.
pub const PROTOCOL_VERSION: u32 = 2;
/// Longest packet that a server carries.
pub const MAX_PACKET: usize = 64 << 10;
/// Type and length in front of every frame.
pub const FRAME_HEADER: usize = 5;

#[cfg(test)]
mod tests;
