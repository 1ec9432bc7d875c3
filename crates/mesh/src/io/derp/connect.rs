//! From a region's servers to a [`Connection`] that is about to log in: dial, upgrade, greet.
//!
//! ```text
//! first time     TCP, TLS, GET ──▶ 101, ServerKey ──▶ ClientInfo, packets
//! key known      TCP, TLS, GET + ClientInfo + packets                       one round trip less ("fast start")
//! no 101         TCP, TLS, GET as a WebSocket ──▶ 101, ServerKey ──▶ the same inside binary messages
//! ```

use std::time::{Duration, Instant};

use sandd_control_client::dial::{DialError, Stream, upgrade};
use sandd_control_client::keys::NodePublicKey;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use super::connection::{Connection, Transport};
use super::error::RelayError;
use super::memory::Known;
use super::region::{Link, Shared};
use super::target::Target;
use super::websocket::WebSocketBytes;
use crate::derp::ClientLogin;

/// For all servers of a region together.
const TIMEOUT: Duration = Duration::from_secs(10);
/// An attempt of this age that is not through is made anew when the network has changed.
const HANGS_AFTER: Duration = Duration::from_secs(1);
/// Unacknowledged data for so long means that the path is gone.
const USER_TIMEOUT: Duration = Duration::from_secs(8);
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Unsent bytes that the kernel holds: more would only make packets old.
const UNSENT: u32 = 128 << 10;
/// Name in the extra certificate by which servers tell their key.
const META_NAME: &[u8] = b"derpkey";

/// A connection with what its end may teach.
pub(super) struct Attempt {
    pub(super) connection: Connection,
    pub(super) server: String,
    /// The key that a fast start relied upon.
    pub(super) fast: Option<NodePublicKey>,
}

/// As [`connect`], but begins anew when the network changes under an attempt that hangs.
pub(super) async fn connect_anew(link: &Link, shared: &Shared) -> Result<Attempt, RelayError> {
    loop {
        let started = Instant::now();
        let mut attempt = std::pin::pin!(connect(link));
        loop {
            tokio::select! {
                ended = &mut attempt => return ended,
                () = shared.network_changed() => {}
            }
            if started.elapsed() >= HANGS_AFTER {
                break;
            }
        }
    }
}

/// Tries the servers in order; each gets its share of the time for TCP, TLS and upgrade together.
async fn connect(link: &Link) -> Result<Attempt, RelayError> {
    let deadline = Instant::now() + TIMEOUT;
    let mut last = RelayError::NoServer;
    for (position, target) in link.targets.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(link.targets.len() - position).unwrap_or(u32::MAX);
        match tokio::time::timeout(share, connect_to(link, target)).await {
            Ok(Ok(attempt)) => return Ok(attempt),
            Ok(Err(error)) => last = error,
            Err(_) => last = RelayError::TimedOut,
        }
        link.memory.unreachable(&target.server);
        tracing::debug!(server = %target.server.escape_debug(), error = %last.describe(), "relay server not reached");
    }
    Err(last)
}

async fn connect_to(link: &Link, target: &Target) -> Result<Attempt, RelayError> {
    let known = link.memory.of(&target.server);
    let started = Instant::now();
    let stream = dial(link, target).await?;
    let fast = match known {
        Some(Known::Key(key)) => Some(key),
        Some(Known::StaleKey | Known::Stalled(_) | Known::NoFastStart | Known::WebSocket) => None,
        None => stream.is_tls13().then(|| told_key(&stream)).flatten(),
    };
    let login = ClientLogin::new(link.key.clone());
    let connection = if let Some(key) = fast {
        let mut connection = Connection::new(Box::new(stream), login, started);
        connection.greet_fast(&target.request(true), key);
        connection
    } else {
        let transport: Box<dyn Transport> = if known == Some(Known::WebSocket) {
            Box::new(WebSocketBytes::open(stream, &target.websocket_url()).await?)
        } else {
            match upgrade(stream, &target.request(false)).await {
                Ok((_, upgraded)) => Box::new(upgraded),
                Err(refusal @ DialError::Status { .. }) => Box::new(by_websocket(link, target, refusal).await?),
                Err(error) => return Err(error.into()),
            }
        };
        let mut connection = Connection::new(transport, login, started);
        connection.greet().await?;
        connection
    };
    Ok(Attempt {
        connection,
        server: target.server.clone(),
        fast,
    })
}

async fn dial(link: &Link, target: &Target) -> Result<Stream, RelayError> {
    let stream = link.dialer.dial(&target.dial).await?;
    tune(stream.tcp());
    Ok(stream)
}

/// Something in between does not know DERP's upgrade; most such things know WebSockets.
async fn by_websocket(link: &Link, target: &Target, refusal: DialError) -> Result<WebSocketBytes, RelayError> {
    let stream = dial(link, target).await?;
    match WebSocketBytes::open(stream, &target.websocket_url()).await {
        Ok(socket) => {
            link.memory.needs_websocket(&target.server);
            tracing::info!(server = %target.server.escape_debug(), "relay is reached by websocket alone");
            Ok(socket)
        }
        Err(error) => {
            tracing::debug!(error = %error.describe(), "no websocket to the relay either");
            Err(refusal.into())
        }
    }
}

/// Best effort: without these options a dead connection is noticed later, no more.
fn tune(tcp: &TcpStream) {
    let socket = SockRef::from(tcp);
    let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE));
    #[cfg(target_os = "linux")]
    {
        let _ = socket.set_tcp_user_timeout(Some(USER_TIMEOUT));
        let _ = socket.set_tcp_notsent_lowat(UNSENT);
    }
}

/// The server's key, where it tells it by an extra certificate. A wrong one only makes the login fail.
fn told_key(stream: &Stream) -> Option<NodePublicKey> {
    let certificates = stream.peer_certificates();
    let (_leaf, others) = certificates.split_first()?;
    key_in_certificate(others.last()?)
}

fn key_in_certificate(der: &[u8]) -> Option<NodePublicKey> {
    let at = der.windows(META_NAME.len()).position(|window| window == META_NAME)?;
    let digits = der.get(at + META_NAME.len()..)?.first_chunk::<64>()?;
    let mut key = [0u8; 32];
    hex::decode_to_slice(digits, &mut key).ok()?;
    Some(NodePublicKey::from_bytes(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_found_in_a_certificate_and_nowhere_else() {
        let key = NodePublicKey::from_bytes([0xab; 32]);
        let mut der = b"0\x82 some der derpkey".to_vec();
        der.extend_from_slice("ab".repeat(32).as_bytes());
        assert_eq!(key_in_certificate(&der), Some(key));
        der.truncate(der.len() - 1);
        assert_eq!(key_in_certificate(&der), None);
        assert_eq!(key_in_certificate(b"derpke"), None);
        assert_eq!(key_in_certificate(b""), None);
    }
}
