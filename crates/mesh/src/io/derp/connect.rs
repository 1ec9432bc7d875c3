//! From a region's servers to a [`Connection`] that is about to log in: dial, upgrade, greet.
//!
//! ```text
//! first time     TCP, TLS, GET ──▶ 101, ServerKey ──▶ ClientInfo, packets
//! key known      TCP, TLS, GET + ClientInfo + packets                       one round trip less ("fast start")
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sandd_control_client::dial::{Stream, upgrade};
use sandd_control_client::keys::NodePublicKey;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use super::connection::Connection;
use super::error::RelayError;
use super::region::Link;
use super::target::Target;
use crate::derp::ClientLogin;

/// For all servers of a region together.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Unacknowledged data for so long means that the path is gone.
const USER_TIMEOUT: Duration = Duration::from_secs(8);
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Unsent bytes that the kernel holds: more would only make packets old.
const UNSENT: u32 = 128 << 10;
/// Name in the extra certificate by which servers tell their key.
const META_NAME: &[u8] = b"derpkey";

/// What is remembered of a server between connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// Its key, from a login that worked.
    Key(NodePublicKey),
    /// A fast start was refused: its key must have changed.
    StaleKey,
    /// A fast start was not answered: something in between waits for HTTP.
    NoFastStart,
}

/// A connection with what its end may teach.
pub(super) struct Attempt {
    pub(super) connection: Connection,
    pub(super) server_name: String,
    pub(super) fast: bool,
}

/// Tries the servers in order; each gets its share of the time for TCP, TLS and upgrade together.
pub(super) async fn connect(link: &Link, known: &BTreeMap<String, Known>) -> Result<Attempt, RelayError> {
    let deadline = Instant::now() + TIMEOUT;
    let mut last = RelayError::NoServer;
    for (position, target) in link.targets.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(link.targets.len() - position).unwrap_or(u32::MAX);
        let attempt = connect_to(link, target, known.get(&target.name).copied());
        match tokio::time::timeout(share, attempt).await {
            Ok(Ok(attempt)) => return Ok(attempt),
            Ok(Err(error)) => last = error,
            Err(_) => last = RelayError::TimedOut,
        }
        tracing::debug!(server = %target.name.escape_debug(), error = %last.describe(), "relay server not reached");
    }
    Err(last)
}

async fn connect_to(link: &Link, target: &Target, known: Option<Known>) -> Result<Attempt, RelayError> {
    let started = Instant::now();
    let stream = link.dialer.dial(&target.dial).await?;
    tune(stream.tcp());
    let server = match known {
        Some(Known::Key(key)) => Some(key),
        Some(Known::StaleKey | Known::NoFastStart) => None,
        None => stream.is_tls13().then(|| told_key(&stream)).flatten(),
    };
    let login = ClientLogin::new(link.key.clone());
    let mut connection;
    if let Some(server) = server {
        connection = Connection::new(Box::new(stream), login, started);
        connection.greet_fast(&target.request(true), server);
    } else {
        let (_, upgraded) = upgrade(stream, &target.request(false)).await?;
        connection = Connection::new(Box::new(upgraded), login, started);
        connection.greet().await?;
    }
    Ok(Attempt {
        connection,
        server_name: target.name.clone(),
        fast: server.is_some(),
    })
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
