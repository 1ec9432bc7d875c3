//! Names on the wire: daemons, requests, sessions (S-29).
//!
//! The controller makes request and session ids (UUID version 4, lower case); everybody else treats them as opaque.
//! A daemon id that one of our own flags sets is strict, one that a v1 peer sends may be any printable text.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Why a text is no daemon id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DaemonIdError {
    /// Nothing there.
    #[error("a daemon id must not be empty")]
    Empty,
    /// Longer than allowed.
    #[error("a daemon id has at most {limit} bytes, this one has {got}")]
    TooLong {
        /// Bytes found.
        got: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A character that the strict form does not allow.
    #[error("a daemon id is made of letters, digits and `._:-`")]
    Character,
    /// A control character or another that does not print.
    #[error("a daemon id must be printable text")]
    NotPrintable,
}

/// Names one daemon in the registry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct DaemonId(String);

impl DaemonId {
    /// Checks an id that a person gave to one of our own flags: 1 to 128 bytes of letters, digits and `._:-`.
    ///
    /// # Errors
    /// [`DaemonIdError`], which never repeats the text.
    pub fn from_flag(text: &str) -> Result<Self, DaemonIdError> {
        Self::check_length(text, 128)?;
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
        if !text.chars().all(allowed) {
            return Err(DaemonIdError::Character);
        }
        Ok(Self(text.to_owned()))
    }

    /// Checks an id that a v1 peer registers with: 1 to 256 bytes of printable text.
    ///
    /// # Errors
    /// [`DaemonIdError`], which never repeats the text.
    pub fn from_peer(text: &str) -> Result<Self, DaemonIdError> {
        Self::check_length(text, 256)?;
        if text
            .chars()
            .any(|c| c.is_control() || crate::escape::is_format_control(c))
        {
            return Err(DaemonIdError::NotPrintable);
        }
        Ok(Self(text.to_owned()))
    }

    /// A random id, for a daemon that was given none.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4().to_string())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn check_length(text: &str, limit: usize) -> Result<(), DaemonIdError> {
        match text.len() {
            0 => Err(DaemonIdError::Empty),
            got if got > limit => Err(DaemonIdError::TooLong { got, limit }),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for DaemonId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for DaemonId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

macro_rules! opaque_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// A fresh one: UUID version 4 in lower-case text.
            #[must_use]
            pub fn random() -> Self {
                Self(Uuid::new_v4().to_string())
            }

            /// The id as it is on the wire.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

opaque_id!(
    /// Ties an answer to its request.
    RequestId
);
opaque_id!(
    /// Names one interactive session.
    SessionId
);

/// What one daemon process tells its controller so that its next connection may replace a half-open one (S-27); never
/// printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceSecret(String);

impl InstanceSecret {
    /// A fresh one.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4().simple().to_string())
    }

    /// Compares in a time that depends on the lengths alone (S-07).
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        let (a, b) = (self.0.as_bytes(), other.0.as_bytes());
        a.len() == b.len() && a.iter().zip(b).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
    }
}

impl fmt::Debug for InstanceSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl From<String> for InstanceSecret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_strict() {
        assert!(DaemonId::from_flag("worker-1.eu:2_b").is_ok());
        assert_eq!(DaemonId::from_flag(""), Err(DaemonIdError::Empty));
        assert_eq!(DaemonId::from_flag("a b"), Err(DaemonIdError::Character));
        assert_eq!(DaemonId::from_flag("wörker"), Err(DaemonIdError::Character));
        assert!(DaemonId::from_flag(&"x".repeat(128)).is_ok());
        assert!(matches!(
            DaemonId::from_flag(&"x".repeat(129)),
            Err(DaemonIdError::TooLong { .. })
        ));
    }

    #[test]
    fn peers_may_use_printable_text() {
        assert!(DaemonId::from_peer("Büro / rack 7").is_ok());
        assert_eq!(DaemonId::from_peer("a\nb"), Err(DaemonIdError::NotPrintable));
        assert_eq!(DaemonId::from_peer("a\u{202e}b"), Err(DaemonIdError::NotPrintable));
        assert!(matches!(
            DaemonId::from_peer(&"x".repeat(257)),
            Err(DaemonIdError::TooLong { .. })
        ));
    }

    #[test]
    fn random_ids_are_version_four() {
        let id = RequestId::random();
        assert_eq!(id.as_str().len(), 36);
        assert_eq!(id.as_str().to_lowercase(), id.as_str());
        assert_eq!(Uuid::parse_str(id.as_str()).unwrap().get_version_num(), 4);
    }
}
