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
    (*kind == DISCO_ADVERTISEMENT)
        .then(|| DiscoPublicKey::from_bytes(*key))
        .and_then(DiscoPublicKey::non_zero)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vectors::{bytes, vectors};

    #[test]
    fn both_families_equal_the_vectors() {
        let all = vectors();
        let key = DiscoPublicKey::from_bytes(bytes(&all["keys"]["disco_a"]["public"]).try_into().unwrap());
        for name in ["disco_advertisement_v4", "disco_advertisement_v6"] {
            let packet = bytes(&all["tsmp"][name]);
            let view = IpPacket::parse(&packet).unwrap();
            assert_eq!(parse_disco_advertisement(&view), Some(key));
            let ours = encode_disco_advertisement(view.src(), view.dst(), &key).unwrap();
            assert_eq!(parse_disco_advertisement(&IpPacket::parse(&ours).unwrap()), Some(key));
            assert_eq!(ours, packet, "{name}");
        }
    }

    #[test]
    fn other_kinds_and_short_ones_tell_nothing() {
        let (src, dst) = ("100.64.0.1".parse().unwrap(), "100.64.0.2".parse().unwrap());
        let tells = |protocol, payload: &[u8]| {
            let packet = encode_ip(src, dst, protocol, payload).unwrap();
            parse_disco_advertisement(&IpPacket::parse(&packet).unwrap())
        };
        let mut payload = [7u8; 33];
        payload[0] = b'a';
        assert!(tells(PROTOCOL, &payload).is_some());
        assert_eq!(tells(98, &payload), None);
        assert_eq!(tells(PROTOCOL, &payload[..32]), None);
        assert_eq!(tells(PROTOCOL, &[]), None);
        assert_eq!(
            tells(PROTOCOL, b"!rejected and so on, to fill thirty-three bytes"),
            None
        );
    }

    proptest! {
        #[test]
        fn keys_survive(key: [u8; 32], v6: bool) {
            let key = DiscoPublicKey::from_bytes(key);
            let (src, dst) = if v6 { ("fd7a::1", "fd7a::2") } else { ("100.64.0.1", "100.64.0.2") };
            let packet = encode_disco_advertisement(src.parse().unwrap(), dst.parse().unwrap(), &key).unwrap();
            prop_assert_eq!(parse_disco_advertisement(&IpPacket::parse(&packet).unwrap()), key.non_zero());
        }
    }
}
