//! From a URL to a [`Connection`]: the coordinator's key, the upgrade, the handshake.
//!
//! With a key known for this URL the handshake comes first and `/key` is asked only when that fails: a restart costs no
//! round trip more than it must. Without one, `/key` is fetched and the same TCP and TLS connection is then upgraded.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use std::net::IpAddr;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;

use super::noise_stream::NoiseStream;
use super::session::Connection;
use crate::config::{ControlConfig, ControlUrl};
use crate::dial::{DialError, Http1, Upgraded};
use crate::error::ControlError;
use crate::keys::{MachinePrivateKey, MachinePublicKey};
use crate::noise::{CAPABILITY_VERSION, Initiator, RESPONSE_LEN, take_response};
use crate::wire::ServerKeys;

const PROTOCOL: &str = "tailscale-control-protocol";
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection, and the key with which the coordinator proved itself.
pub(super) async fn connect(
    config: &ControlConfig,
    machine: &MachinePrivateKey,
    known: Option<MachinePublicKey>,
) -> Result<(Connection, MachinePublicKey), ControlError> {
    let Some(known) = known else {
        let (key, http) = fetch_key(config).await?;
        return Ok((handshake(config, machine, key, http).await?, key));
    };
    let failure = match handshake(config, machine, known, None).await {
        Ok(connection) => return Ok((connection, known)),
        Err(error @ (ControlError::HandshakeClosed | ControlError::Handshake(_))) => error,
        Err(error) => return Err(error),
    };
    let (offered, http) = fetch_key(config).await?;
    if offered == known {
        return Err(failure);
    }
    if !config.accept_new_control_key {
        return Err(ControlError::ControlKeyChanged { pinned: known, offered });
    }
    tracing::warn!(pinned = %known, %offered, "taking the coordinator's new key, as asked");
    Ok((handshake(config, machine, offered, http).await?, offered))
}

/// Dials the coordinator itself; plain HTTP only to addresses that are not public (S-09).
pub(super) async fn dial(config: &ControlConfig) -> Result<Http1, ControlError> {
    let stream = config.dialer.dial(&config.url.dial_target()).await?;
    if config.url.is_plain_http() {
        let address = stream.tcp().peer_addr().map_err(DialError::Io)?.ip();
        if !is_private(address) {
            return Err(ControlError::PlainHttp { address });
        }
    }
    Ok(Http1::new(stream))
}

/// The key as `/key` tells it, and the connection if it can be used further.
async fn fetch_key(config: &ControlConfig) -> Result<(MachinePublicKey, Option<Http1>), ControlError> {
    let mut http = dial(config).await?;
    // On loopback there is no network that could vouch wrongly.
    let here = config.url.host().parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if config.url.is_plain_http() && !here {
        tracing::warn!(url = %config.url, "first contact over plain http: only the network vouches for this coordinator");
    }
    let head = format!(
        "GET /key?v={CAPABILITY_VERSION} HTTP/1.1\r\nHost: {}\r\nAccept: application/json\r\n\r\n",
        config.url.authority()
    );
    let response = http.request(&head, true).await?;
    let no_key = |problem: String| ControlError::NoControlKey {
        url: config.url.clone(),
        problem,
    };
    if response.status != 200 {
        return Err(no_key(format!("status {}", response.status)));
    }
    let keys: ServerKeys = serde_json::from_slice(&response.body).map_err(|error| no_key(error.to_string()))?;
    let key = keys
        .public_key
        .non_zero()
        .ok_or_else(|| no_key("the key is zero".to_owned()))?;
    Ok((key, response.reusable.then_some(http)))
}

async fn handshake(
    config: &ControlConfig,
    machine: &MachinePrivateKey,
    control: MachinePublicKey,
    http: Option<Http1>,
) -> Result<Connection, ControlError> {
    let (initiator, initiation) = Initiator::start(machine, &control, CAPABILITY_VERSION)?;
    let head = upgrade_head(&config.url, &initiation);
    let reused = http.is_some();
    let http = match http {
        Some(http) => http,
        None => dial(config).await?,
    };
    let upgraded = match http.upgrade(&head).await {
        // The server closed the connection between the two requests, as it may.
        Err(DialError::Io(_)) if reused => dial(config).await?.upgrade(&head).await,
        other => other,
    };
    let (response, mut upgraded) = upgraded?;
    if response.header("upgrade") != Some(PROTOCOL) {
        return Err(DialError::NotHttp("an upgrade to another protocol").into());
    }
    let (response, received) = tokio::time::timeout(HANDSHAKE_TIMEOUT, read_response(&mut upgraded))
        .await
        .map_err(|_| ControlError::TimedOut("the handshake"))??;
    let transport = initiator.finish(&response)?;
    Connection::start(NoiseStream::new(upgraded, transport, &received), config.url.authority()).await
}

fn upgrade_head(url: &ControlUrl, initiation: &[u8]) -> String {
    format!(
        "POST /ts2021 HTTP/1.1\r\nHost: {}\r\nUpgrade: {PROTOCOL}\r\nConnection: upgrade\r\n\
         X-Tailscale-Handshake: {}\r\nContent-Length: 0\r\n\r\n",
        url.authority(),
        BASE64_STANDARD.encode(initiation)
    )
}

/// The Noise response, and what came behind it.
async fn read_response(upgraded: &mut Upgraded) -> Result<([u8; RESPONSE_LEN], BytesMut), ControlError> {
    let mut received = BytesMut::new();
    loop {
        if let Some(response) = take_response(&received)? {
            return Ok((response, received.split_off(RESPONSE_LEN)));
        }
        match upgraded.read_buf(&mut received).await {
            // Headscale refuses by closing; the reset of a proxy means the same.
            Ok(0) => return Err(ControlError::HandshakeClosed),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                return Err(ControlError::HandshakeClosed);
            }
            Ok(_) => {}
            Err(error) => return Err(DialError::Io(error).into()),
        }
    }
}

/// Loopback, private, link-local, shared (CGNAT, where meshes live) and unique local addresses.
fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            v4.is_loopback() || v4.is_private() || v4.is_link_local() || (a == 100 && (64..128).contains(&b))
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_addresses_are_told_from_private_ones() {
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "::1",
            "fd7a::1",
            "fe80::1",
        ] {
            assert!(is_private(private.parse().unwrap()), "{private}");
        }
        for public in ["8.8.8.8", "100.128.0.1", "172.32.0.1", "2001:db8::1", "::ffff:8.8.8.8"] {
            assert!(!is_private(public.parse().unwrap()), "{public}");
        }
    }

    #[test]
    fn the_upgrade_is_asked_for_as_the_protocol_wants() {
        let url = ControlUrl::parse("http://127.0.0.1:8080").unwrap();
        let head = upgrade_head(&url, &[0; 101]);
        assert!(head.starts_with("POST /ts2021 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n"));
        assert!(head.ends_with("Content-Length: 0\r\n\r\n"));
        let value = head
            .lines()
            .find_map(|line| line.strip_prefix("X-Tailscale-Handshake: "))
            .unwrap();
        assert_eq!(value.len(), 136);
    }
}
