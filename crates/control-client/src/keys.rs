//! Keys by role: one newtype each, so that a machine key can never stand where a node key belongs.
//!
//! Text forms are Tailscale's (`types/key`): a prefix and 64 hex digits. Private keys wipe themselves when dropped,
//! print as `[redacted]`, cannot be compared with `==` and leave this module only by an explicit `to_bytes` or
//! `to_secret_text` (S-01). A machine key and a node key share the prefix `privkey:`, so a file must say the role.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize, Zeroizing};

/// Why a text is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyParseError {
    /// The text does not start with the prefix of its role.
    #[error("key does not start with `{expected}`")]
    Prefix {
        /// The prefix that belongs there.
        expected: &'static str,
    },
    /// Not exactly 64 hex digits after the prefix.
    #[error("key must have 64 hex digits after its prefix, this one has {got} characters")]
    Length {
        /// Number of characters found.
        got: usize,
    },
    /// A character that is no hex digit.
    #[error("key has a character that is not a hex digit")]
    Hex,
}

fn parse_hex_key(text: &str, prefix: &'static str) -> Result<[u8; 32], KeyParseError> {
    let digits = text
        .strip_prefix(prefix)
        .ok_or(KeyParseError::Prefix { expected: prefix })?;
    if digits.len() != 64 {
        return Err(KeyParseError::Length { got: digits.len() });
    }
    let mut bytes = [0u8; 32];
    hex::decode_to_slice(digits, &mut bytes).map_err(|_| KeyParseError::Hex)?;
    Ok(bytes)
}

macro_rules! public_key {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The prefix of the text form.
            pub const PREFIX: &'static str = $prefix;

            /// Takes 32 raw bytes as they are on the wire.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 raw bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// True for the all-zero key, which stands for "absent" on the wire.
            #[must_use]
            pub fn is_zero(&self) -> bool {
                self.0 == [0u8; 32]
            }

            /// This key, or nothing when it is the all-zero one.
            #[must_use]
            pub fn non_zero(self) -> Option<Self> {
                (!self.is_zero()).then_some(self)
            }

            /// A short form for logs: the first eight hex digits.
            #[must_use]
            pub fn short(&self) -> String {
                hex::encode(&self.0[..4])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = KeyParseError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                parse_hex_key(text, $prefix).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

macro_rules! private_key {
    ($(#[$doc:meta])* $name:ident, $public:ident) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(StaticSecret);

        impl $name {
            /// Makes a fresh key from the operating system's random source (S-08).
            ///
            /// # Panics
            /// When the operating system has no randomness to give.
            #[must_use]
            pub fn generate() -> Self {
                let mut bytes = [0u8; 32];
                getrandom::fill(&mut bytes).expect("the operating system provides randomness");
                bytes[0] &= 248;
                bytes[31] = (bytes[31] & 127) | 64;
                let key = Self(StaticSecret::from(bytes));
                bytes.zeroize();
                key
            }

            /// Takes 32 raw bytes; X25519 clamps them when they are used.
            #[must_use]
            pub fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(StaticSecret::from(bytes))
            }

            /// The raw bytes, in a buffer that wipes itself.
            #[must_use]
            pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
                Zeroizing::new(self.0.to_bytes())
            }

            /// The public half.
            #[must_use]
            pub fn public(&self) -> $public {
                $public(PublicKey::from(&self.0).to_bytes())
            }

            /// The Diffie-Hellman value with another side's public bytes, unhashed.
            #[must_use]
            pub fn diffie_hellman(&self, their_public: &[u8; 32]) -> Zeroizing<[u8; 32]> {
                Zeroizing::new(self.0.diffie_hellman(&PublicKey::from(*their_public)).to_bytes())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "([redacted])"))
            }
        }
    };
}

macro_rules! private_key_text {
    ($name:ident) => {
        impl $name {
            /// `privkey:` and 64 hex digits, in a buffer that wipes itself: for the state file alone.
            #[must_use]
            pub fn to_secret_text(&self) -> Zeroizing<String> {
                let bytes = self.to_bytes();
                let digits = Zeroizing::new(hex::encode(&bytes[..]));
                Zeroizing::new(format!("privkey:{}", digits.as_str()))
            }

            /// Reads what [`Self::to_secret_text`] wrote.
            ///
            /// # Errors
            /// [`KeyParseError`] when the text is not of that form; the text itself is never repeated.
            pub fn from_secret_text(text: &str) -> Result<Self, KeyParseError> {
                parse_hex_key(text, "privkey:").map(|mut bytes| {
                    let key = Self::from_bytes(bytes);
                    bytes.zeroize();
                    key
                })
            }
        }
    };
}

public_key!(
    /// Identity of a device, and of the coordinator itself, in the ts2021 handshake.
    MachinePublicKey,
    "mkey:"
);
public_key!(
    /// WireGuard key of a node; the same key logs in to DERP.
    NodePublicKey,
    "nodekey:"
);
public_key!(
    /// Key of one process run, for disco packets.
    DiscoPublicKey,
    "discokey:"
);
public_key!(
    /// Challenge that a coordinator may put into the early payload.
    ChallengePublicKey,
    "chalpub:"
);
private_key!(
    /// Private half of [`MachinePublicKey`]; kept for ever.
    MachinePrivateKey,
    MachinePublicKey
);
private_key!(
    /// Private half of [`NodePublicKey`]; replaced by rotation.
    NodePrivateKey,
    NodePublicKey
);
private_key!(
    /// Private half of [`DiscoPublicKey`]; never stored.
    DiscoPrivateKey,
    DiscoPublicKey
);
private_key_text!(MachinePrivateKey);
private_key_text!(NodePrivateKey);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        let private = NodePrivateKey::generate();
        let text = private.to_secret_text();
        let again = NodePrivateKey::from_secret_text(&text).unwrap();
        assert_eq!(private.public(), again.public());
        let public: NodePublicKey = private.public().to_string().parse().unwrap();
        assert_eq!(public, private.public());
    }

    #[test]
    fn private_keys_do_not_print() {
        let private = MachinePrivateKey::generate();
        let digits = hex::encode(&private.to_bytes()[..]);
        assert!(!format!("{private:?}").contains(&digits));
    }

    #[test]
    fn malformed_texts_are_errors() {
        for text in ["", "nodekey:", "nodekey:ab", "mkey:00", "nodekey: "] {
            assert!(text.parse::<NodePublicKey>().is_err(), "{text}");
        }
        let not_hex = format!("nodekey:{}", "zz".repeat(32));
        assert_eq!(not_hex.parse::<NodePublicKey>(), Err(KeyParseError::Hex));
    }
}
