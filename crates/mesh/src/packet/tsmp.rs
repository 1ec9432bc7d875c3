//! What nodes tell one another inside the tunnel: IP protocol 99, a type and its bytes. It never reaches the device.
//!
//! | type | body | meaning |
//! |---|---|---|
//! | `a` | disco key 32 | a restarted node tells its new disco key: a direct path need not wait for the coordinator |
//! | `p` | 8 bytes | does data arrive? |
//! | `o` | the same 8 bytes, port 2 | it does; the port is that of a service stock nodes offer, 0 here |
//!
//! Authenticated by the tunnel it came through.
//! Layout after Tailscale's `net/packet/tsmp.go`.

use std::net::IpAddr;

use sandd_control_client::keys::DiscoPublicKey;

use super::ip::{IpPacket, encode_ip};

/// IP protocol number.
pub const PROTOCOL: u8 = 99;
const DISCO_ADVERTISEMENT: u8 = b'a';
const PING: u8 = b'p';
const PONG: u8 = b'o';
/// Bytes that a ping carries and a pong repeats.
pub type PingData = [u8; 8];

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

/// A whole inner packet that asks whether data arrives; nothing when the families differ.
#[must_use]
pub fn encode_ping(src: IpAddr, dst: IpAddr, data: PingData) -> Option<Vec<u8>> {
    let mut payload = vec![PING];
    payload.extend_from_slice(&data);
    encode_ip(src, dst, PROTOCOL, &payload)
}

/// The whole inner packet that answers one that asks; nothing when it does not ask.
#[must_use]
pub fn answer_ping(packet: &IpPacket<'_>) -> Option<Vec<u8>> {
    if packet.protocol() != PROTOCOL {
        return None;
    }
    let (kind, rest) = packet.payload().split_first()?;
    let data: &PingData = rest.first_chunk()?;
    if *kind != PING {
        return None;
    }
    let mut payload = vec![PONG];
    payload.extend_from_slice(data);
    payload.extend_from_slice(&[0, 0]);
    encode_ip(packet.dst(), packet.src(), PROTOCOL, &payload)
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

    #[test]
    fn a_ping_is_answered_with_its_bytes_and_nothing_else_is() {
        let (src, dst): (IpAddr, IpAddr) = ("100.64.0.1".parse().unwrap(), "100.64.0.2".parse().unwrap());
        let ping = encode_ping(src, dst, *b"12345678").unwrap();
        let answer = answer_ping(&IpPacket::parse(&ping).unwrap()).unwrap();
        let view = IpPacket::parse(&answer).unwrap();
        assert_eq!(
            (view.src(), view.dst(), view.payload()),
            (dst, src, b"o12345678\0\0".as_slice())
        );
        assert_eq!(answer_ping(&view), None, "a pong ends it");
        let short = encode_ip(src, dst, PROTOCOL, b"p1234567").unwrap();
        assert_eq!(answer_ping(&IpPacket::parse(&short).unwrap()), None);
        let foreign = encode_ip(src, dst, 17, b"p12345678").unwrap();
        assert_eq!(answer_ping(&IpPacket::parse(&foreign).unwrap()), None);
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
