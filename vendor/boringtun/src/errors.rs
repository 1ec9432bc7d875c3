// Copyright (c) 2019 Cloudflare, Inc. All rights reserved.
// SPDX-License-Identifier: BSD-3-Clause

//! Why a message was refused.

/// Why a message was refused. Nothing of it is told to whoever sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireGuardError {
    /// No initiation of ours waits for this answer.
    #[error("nothing waits for this message")]
    UnexpectedPacket,
    /// The receiver index is none of ours.
    #[error("not for an index of ours")]
    WrongIndex,
    /// The initiator is another one than this tunnel's peer.
    #[error("another peer's key")]
    WrongKey,
    /// A public key of small order, which would make the shared secret known to everybody.
    #[error("a public key of small order")]
    WeakKey,
    /// The timestamp is not newer than the last one: a replay.
    #[error("timestamp not newer than the last")]
    WrongTai64nTimestamp,
    /// Not authentic.
    #[error("wrong authentication tag")]
    InvalidAeadTag,
    /// Not a handshake message.
    #[error("not a handshake message")]
    InvalidPacket,
}
