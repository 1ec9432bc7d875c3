//! [`ControlError`]: what went wrong with the coordinator, what to do about it, and whether to try again.

use std::time::Duration;

use crate::config::ControlUrl;
use crate::dial::DialError;
use crate::io::StoreError;
use crate::keys::MachinePublicKey;
use crate::map_stream::MapStreamError;
use crate::netmap::SessionError;
use crate::noise::{EarlyError, HandshakeError};

/// Why the coordinator does not take the auth key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyRejection {
    /// Never made there, or deleted.
    #[error(
        "the auth key is unknown to the coordinator: it was deleted or belongs to another one, create a new key there"
    )]
    Unknown,
    /// The visible part is known, the secret part is not.
    #[error("the auth key is wrong: its first part is known to the coordinator, its secret part is not, copy it again")]
    WrongSecret,
    /// Not complete.
    #[error("the auth key is malformed, it was probably cut off: copy it again")]
    Malformed,
    /// A single-use key that was used.
    #[error("the auth key was already used and works only once: create a new key, or a reusable one")]
    AlreadyUsed,
    /// Its time is over.
    #[error("the auth key has expired: create a new key")]
    Expired,
    /// It was taken back.
    #[error("the auth key was revoked: create a new key")]
    Revoked,
    /// Headscale says the same of both.
    #[error("the auth key has expired or was revoked: create a new key")]
    ExpiredOrRevoked,
    /// Tags that this key or user may not give.
    #[error("the coordinator does not permit the requested tags with this auth key: {0}")]
    TagsNotPermitted(String),
}

/// What went wrong with the coordinator.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// No connection.
    #[error("cannot reach the coordinator: {}", in_full(.0))]
    Dial(#[from] DialError),
    /// Plain HTTP to a public address.
    #[error("plain http is allowed only to private addresses, and {address} is public: use https")]
    PlainHttp {
        /// The address that was dialled.
        address: std::net::IpAddr,
    },
    /// `/key` did not give a key.
    #[error("{url}/key gave no coordinator key ({problem}): is this the url of a coordinator?")]
    NoControlKey {
        /// The coordinator.
        url: ControlUrl,
        /// What came instead.
        problem: String,
    },
    /// The coordinator has another key than before.
    #[error(
        "the coordinator's key changed from {pinned} to {offered}: if it was set up anew, start with \
         --accept-new-control-key, otherwise somebody stands in between"
    )]
    ControlKeyChanged {
        /// Known for this URL.
        pinned: MachinePublicKey,
        /// Offered now.
        offered: MachinePublicKey,
    },
    /// The Noise handshake failed.
    #[error("handshake with the coordinator failed: {0}")]
    Handshake(#[from] HandshakeError),
    /// The coordinator closed instead of answering, which is how Headscale refuses.
    #[error("coordinator refused the handshake without a word: its key is another one, or it wants a newer client")]
    HandshakeClosed,
    /// The early payload makes no sense.
    #[error("coordinator's early payload cannot be read: {0}")]
    Early(#[from] EarlyError),
    /// The auth key is not taken.
    #[error("{0}")]
    KeyRejected(#[from] KeyRejection),
    /// The coordinator refuses for a reason of its own.
    #[error("coordinator refused the registration: {0}")]
    Refused(String),
    /// A person must approve the node, and did not.
    #[error("this node waits for approval: open {0}")]
    LoginRequired(String),
    /// The node key has ended, and nothing at hand can renew it.
    #[error("this node's key has expired: start again with a new auth key, or approve it anew at the coordinator")]
    Expired,
    /// The node was deleted at the coordinator.
    #[error("this node was removed at the coordinator: start again with a new auth key to join as a new node")]
    Removed,
    /// The node was deleted, and its auth key does not let it join again.
    #[error("this node was removed at the coordinator, and its auth key cannot bring it back: {0}")]
    RemovedAndRefused(#[source] KeyRejection),
    /// The node key has ended, and the auth key does not renew it.
    #[error("this node's key has expired, and its auth key cannot renew it: {0}")]
    ExpiredAndRefused(#[source] KeyRejection),
    /// Tailnet lock is not implemented.
    #[error("tailnet lock not supported: the coordinator has it on, so no peer can be trusted")]
    LockUnsupported,
    /// An HTTP status that is no success.
    #[error("coordinator answered {status} to {path}: {text}")]
    Status {
        /// Status.
        status: u16,
        /// Requested path.
        path: &'static str,
        /// Beginning of the body.
        text: String,
        /// How long the coordinator wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// HTTP/2 within the Noise connection.
    #[error("connection to the coordinator broke: {0}")]
    Http2(#[from] h2::Error),
    /// Something took too long.
    #[error("coordinator did not answer {0} in time")]
    TimedOut(&'static str),
    /// The stream ended.
    #[error("coordinator ended the map stream")]
    StreamEnded,
    /// The stream's framing is broken.
    #[error("coordinator's map stream is broken: {0}")]
    MapStream(#[from] MapStreamError),
    /// A message makes no sense.
    #[error("coordinator's network map cannot be used: {0}")]
    Map(#[from] SessionError),
    /// An answer is not the JSON it should be.
    #[error("coordinator's answer to {path} cannot be read: {source}")]
    Json {
        /// Requested path.
        path: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// An answer is larger than anything sensible.
    #[error("coordinator's answer to {path} is over 1 MiB")]
    TooLong {
        /// Requested path.
        path: &'static str,
    },
    /// State cannot be kept.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The client has been shut down.
    #[error("the control client has stopped")]
    Stopped,
}

impl ControlError {
    /// True when trying again later may help without anybody doing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Dial(DialError::CaFile { .. } | DialError::NoRoots | DialError::Name { .. }) => false,
            Self::Dial(_)
            | Self::NoControlKey { .. }
            // Whoever stands in between may go away; giving up for good would be theirs to decide then.
            | Self::ControlKeyChanged { .. }
            | Self::Handshake(_)
            | Self::HandshakeClosed
            | Self::Early(_)
            | Self::Refused(_)
            | Self::Status { .. }
            | Self::Http2(_)
            | Self::TimedOut(_)
            | Self::StreamEnded
            | Self::MapStream(_)
            | Self::Map(_)
            | Self::Json { .. }
            | Self::TooLong { .. } => true,
            Self::PlainHttp { .. }
            | Self::KeyRejected(_)
            | Self::LoginRequired(_)
            | Self::Expired
            | Self::Removed
            | Self::RemovedAndRefused(_)
            | Self::ExpiredAndRefused(_)
            | Self::LockUnsupported
            | Self::Store(_)
            | Self::Stopped => false,
        }
    }

    /// True when a person must act: give a new key, approve the node, or correct a setting.
    #[must_use]
    pub fn needs_person(&self) -> bool {
        matches!(self, Self::ControlKeyChanged { .. }) || !(self.is_retryable() || matches!(self, Self::Stopped))
    }

    /// How long the coordinator wants to be left alone, if it said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        if let Self::Status { retry_after, .. } = self {
            *retry_after
        } else {
            None
        }
    }
}

/// The error with its causes, and with the remedy for the certificate trouble that a private authority makes.
fn in_full(error: &DialError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    if text.contains("UnknownIssuer") {
        text.push_str(" (if the coordinator's certificate is from an authority of your own, name it with --ca-file)");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dial_error_is_told_with_its_cause() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let error = DialError::Connect {
            address: ([127, 0, 0, 1], 8080).into(),
            source: refused,
        };
        let text = ControlError::from(error).to_string();
        assert_eq!(
            text,
            "cannot reach the coordinator: cannot connect to 127.0.0.1:8080: connection refused"
        );
        let unknown = std::io::Error::other("invalid peer certificate: UnknownIssuer");
        let text = ControlError::from(DialError::Tls {
            host: "hs".into(),
            source: unknown,
        })
        .to_string();
        assert!(
            text.contains("--ca-file") && text.matches("UnknownIssuer").count() == 1,
            "{text}"
        );
    }

    #[test]
    fn every_error_is_for_somebody() {
        assert!(ControlError::StreamEnded.is_retryable() && !ControlError::StreamEnded.needs_person());
        assert!(!ControlError::Removed.is_retryable() && ControlError::Removed.needs_person());
        assert!(!ControlError::Stopped.is_retryable() && !ControlError::Stopped.needs_person());
        let key = MachinePublicKey::from_bytes([1; 32]);
        let changed = ControlError::ControlKeyChanged {
            pinned: key,
            offered: key,
        };
        assert!(changed.is_retryable() && changed.needs_person());
    }
}
