//! The disco-key advertisement inside the tunnel: IP protocol 99, type `a`, 32 bytes of key.
//!
//! A node that has restarted tells its new disco key to the peer right after the handshake, so that a direct path need
//! not wait for the coordinator. Authenticated by the tunnel it came through; it never reaches the device.
//! Layout after Tailscale's `net/packet/tsmp.go`.

use std::net::IpAddr;

use sandd_control_client::keys::DiscoPublicKey;

use super::ip::{IpPacket, encode_ip};

/// IP protocol number.
pub const PROTOCOL: u8 = 99;
const DISCO_ADVERTISEMENT: u8 = b'a';

/// A whole inner packet that tells `key`; nothing when the families differ.
#[must_use]
pub fn encode_disco_advertisement(src: IpAddr, dst: IpAddr, key: &DiscoPublicKey) -> Option<Vec<u8>> {
    let mut payload = vec![DISCO_ADVERTISEMENT];
    payload.extend_from_slice(key.as_bytes());
    encode_ip(src, dst, PROTOCOL, &payload)
}

/// The key that a packet of that kind tells.
#[must_use]
pub fn parse_disco_advertisement(packet: &IpPacket<'_>) -> Option<DiscoPublicKey> {
    if packet.protocol() != PROTOCOL {
        return None;
    }
    let (kind, rest) = packet.payload().split_first()?;
    let key = rest.first_chunk::<32>()?;
    (*kind == DISCO_ADVERTISEMENT).then(|| DiscoPublicKey::from_bytes(*key)).and_then(DiscoPublicKey::non_zero)
}
