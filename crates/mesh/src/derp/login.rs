//! The sealed part of a login: client and server prove their keys to one another by boxes that only they can open.
//!
//! ```text
//! client   [awaits ServerKey] ── ServerKey: sends ClientInfo ──▶ [awaits ServerInfo] ── ServerInfo ──▶ logged in
//! server   sends ServerKey ── ClientInfo: who is it? ── admitted by the caller: sends ServerInfo
//! ```

use bytes::BytesMut;
use sandd_control_client::keys::{NodePrivateKey, NodePublicKey};
use serde::{Deserialize, Deserializer, Serialize};

use super::PROTOCOL_VERSION;
use super::frame::Frame;
use super::sealed::NaclBox;

/// What a client says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientInfo {
    /// Protocol version.
    #[serde(default)]
    pub version: u32,
    /// Ping frames are answered at once.
    #[serde(default, rename = "CanAckPings", skip_serializing_if = "is_false")]
    pub can_ack_pings: bool,
    /// A monitor rather than a node.
    #[serde(default, rename = "IsProber", skip_serializing_if = "is_false")]
    pub is_prober: bool,
    /// A key that mesh servers share was given. Its value is checked for its form and not kept.
    #[serde(default, rename = "meshKey", skip_serializing, deserialize_with = "mesh_key")]
    pub has_mesh_key: bool,
}

/// What a server says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerInfo {
    /// Protocol version.
    #[serde(default)]
    pub version: u32,
    /// The client should send no more than this; 0 is no limit.
    #[serde(default, rename = "TokenBucketBytesPerSecond", skip_serializing_if = "is_zero")]
    pub bytes_per_second: u64,
    /// How much it may send at once.
    #[serde(default, rename = "TokenBucketBytesBurst", skip_serializing_if = "is_zero")]
    pub bytes_burst: u64,
}

/// Why a login failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoginError {
    /// Another frame than the one awaited.
    #[error("derp login expected {expected} and got a frame of type {got:#04x}")]
    Unexpected {
        /// What was awaited.
        expected: &'static str,
        /// Type on the wire.
        got: u8,
    },
    /// A box for another key, or a damaged one.
    #[error("derp login box does not open: the other side used another key")]
    Unopened,
    /// What was sealed is not understood.
    #[error("derp login info is not understood")]
    Info(#[source] serde_json::Error),
}

impl ClientInfo {
    /// What our nodes send.
    #[must_use]
    pub fn current() -> Self {
        Self {
            version: PROTOCOL_VERSION,
            can_ack_pings: true,
            ..Self::default()
        }
    }
}

impl ServerInfo {
    /// What our server sends.
    #[must_use]
    pub fn current() -> Self {
        Self {
            version: PROTOCOL_VERSION,
            ..Self::default()
        }
    }
}

/// The client's side of a login.
#[derive(Debug)]
pub struct ClientLogin {
    key: NodePrivateKey,
    server: Option<(NodePublicKey, NaclBox)>,
}

impl ClientLogin {
    /// Logs in with this node key.
    #[must_use]
    pub fn new(key: NodePrivateKey) -> Self {
        Self { key, server: None }
    }

    /// The server's key is known: by its first frame, or from an earlier login. Appends the client's info.
    pub fn greet(&mut self, server: NodePublicKey, info: &ClientInfo, out: &mut BytesMut) {
        let sealed = NaclBox::new(&self.key.to_bytes(), server.as_bytes());
        let key = self.key.public();
        Frame::ClientInfo {
            key,
            sealed: &seal_json(&sealed, info),
        }
        .append_to(out);
        self.server = Some((server, sealed));
    }

    /// The server's key, once known.
    #[must_use]
    pub fn server(&self) -> Option<NodePublicKey> {
        self.server.as_ref().map(|(key, _)| *key)
    }

    /// Reads the first frame of a server.
    ///
    /// # Errors
    /// [`LoginError::Unexpected`] for any other frame.
    pub fn server_key(frame: &Frame<'_>) -> Result<NodePublicKey, LoginError> {
        let Frame::ServerKey { key } = frame else {
            return Err(unexpected("ServerKey", frame));
        };
        Ok(*key)
    }

    /// Opens the sealed part of the server's info: logged in.
    ///
    /// # Errors
    /// [`LoginError`] when it does not open or makes no sense.
    pub fn server_info(&self, sealed: &[u8]) -> Result<ServerInfo, LoginError> {
        let (_, opener) = self.server.as_ref().ok_or(LoginError::Unopened)?;
        open_json(opener, sealed)
    }
}

/// The server's side of a login; one for all clients.
#[derive(Debug, Clone)]
pub struct ServerLogin {
    key: NodePrivateKey,
}

impl ServerLogin {
    /// Serves with this key.
    #[must_use]
    pub fn new(key: NodePrivateKey) -> Self {
        Self { key }
    }

    /// Appends the first frame of a connection.
    pub fn greet(&self, out: &mut BytesMut) {
        Frame::ServerKey { key: self.key.public() }.append_to(out);
    }

    /// Reads a client's info: it holds the key that it names.
    ///
    /// # Errors
    /// [`LoginError`] for any other frame, a box that does not open, or an info that makes no sense.
    pub fn client_info(&self, frame: &Frame<'_>) -> Result<(NodePublicKey, ClientInfo), LoginError> {
        let Frame::ClientInfo { key, sealed } = frame else {
            return Err(unexpected("ClientInfo", frame));
        };
        Ok((*key, open_json(&self.sealed(key), sealed)?))
    }

    /// The client is admitted: appends the server's info.
    pub fn admit(&self, client: &NodePublicKey, info: &ServerInfo, out: &mut BytesMut) {
        Frame::ServerInfo {
            sealed: &seal_json(&self.sealed(client), info),
        }
        .append_to(out);
    }

    fn sealed(&self, client: &NodePublicKey) -> NaclBox {
        NaclBox::new(&self.key.to_bytes(), client.as_bytes())
    }
}

fn unexpected(expected: &'static str, got: &Frame<'_>) -> LoginError {
    LoginError::Unexpected {
        expected,
        got: got.kind() as u8,
    }
}

fn seal_json(sealed: &NaclBox, info: &impl Serialize) -> BytesMut {
    // Plain structs of numbers always serialise; an empty info would be refused by the other side.
    let text = serde_json::to_vec(info).unwrap_or_default();
    let mut out = BytesMut::new();
    sealed.seal(&text, &mut out);
    out
}

fn open_json<T: for<'de> Deserialize<'de>>(opener: &NaclBox, sealed: &[u8]) -> Result<T, LoginError> {
    let text = opener.open(sealed).ok_or(LoginError::Unopened)?;
    serde_json::from_slice(&text).map_err(LoginError::Info)
}

/// Real servers refuse a mesh key that is not 64 hex digits, and so do we.
fn mesh_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else {
        return Ok(false);
    };
    let mut bytes = [0u8; 32];
    hex::decode_to_slice(&text, &mut bytes).map_err(|_| serde::de::Error::custom("mesh key is not 64 hex digits"))?;
    Ok(true)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}
