//! STUN binding request and response (RFC 8489, sections 5 and 14.2) over the crate stun-rs: the codec alone.
//!
//! The servers that coordinators name answer one form of request only: SOFTWARE `tailnode`, then a right FINGERPRINT
//! as the last attribute, 40 bytes in all (Tailscale `net/stun`). Answers are read as liberally as stock clients do.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use stun_rs::attributes::stun::{Fingerprint, MappedAddress, Software, XorMappedAddress};
use stun_rs::methods::BINDING;
use stun_rs::{
    DecoderContextBuilder, MessageClass, MessageDecoderBuilder, MessageEncoderBuilder, StunMessage, StunMessageBuilder,
    TransactionId,
};

/// A transaction id.
pub type TxId = [u8; 12];

const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const SOFTWARE: &str = "tailnode";
const HEADER: usize = 20;
/// SOFTWARE and FINGERPRINT with their headers.
const REQUEST_LEN: usize = HEADER + 12 + 8;
/// A number that some servers used for XOR-MAPPED-ADDRESS before it had its own.
const OLD_XOR_MAPPED_ADDRESS: u16 = 0x8020;
/// Longest message worth reading.
const MAX_MESSAGE: usize = 1_500;

/// True for a binding request or success response: enough to tell it from WireGuard and disco.
#[must_use]
pub fn looks_like(datagram: &[u8]) -> bool {
    datagram.len() >= HEADER && datagram[0] & 0xc0 == 0 && datagram[1] == 0x01 && datagram[4..8] == COOKIE
}

/// The request that servers answer.
///
/// # Panics
/// Never: both attributes are constant and fit the buffer.
#[must_use]
pub fn binding_request(tx: &TxId) -> Vec<u8> {
    let software = Software::new(SOFTWARE).expect("a short ASCII text is a SOFTWARE");
    let message = StunMessageBuilder::new(BINDING, MessageClass::Request)
        .with_transaction_id(TransactionId::from(*tx))
        .with_attribute(software)
        .with_attribute(Fingerprint::default())
        .build();
    encode(&message)
}

/// The answer of a server that saw the request come from `seen`.
///
/// # Panics
/// Never: the attribute fits the buffer.
#[must_use]
pub fn binding_response(tx: &TxId, seen: SocketAddr) -> Vec<u8> {
    let seen = SocketAddr::new(seen.ip().to_canonical(), seen.port());
    let message = StunMessageBuilder::new(BINDING, MessageClass::SuccessResponse)
        .with_transaction_id(TransactionId::from(*tx))
        .with_attribute(XorMappedAddress::from(seen))
        .build();
    encode(&message)
}

/// Transaction id of a request in the one form that is answered; anything else gets silence.
#[must_use]
pub fn parse_request(datagram: &[u8]) -> Option<TxId> {
    if datagram.len() < REQUEST_LEN || !looks_like(datagram) || datagram[..2] != [0x00, 0x01] {
        return None;
    }
    let message = decode(datagram)?;
    let software = message
        .get::<Software>()
        .and_then(|attribute| attribute.as_software().ok())?;
    if *software != SOFTWARE {
        return None;
    }
    let fingerprint = message
        .get::<Fingerprint>()
        .and_then(|attribute| attribute.as_fingerprint().ok())?;
    // The checksum covers everything before the attribute, which must be the last one.
    let covered = datagram.get(..declared_len(datagram)?.checked_sub(8)?)?;
    if datagram.get(covered.len()..covered.len() + 4)? != [0x80, 0x28, 0x00, 0x04] || !fingerprint.validate(covered) {
        return None;
    }
    tx_of(datagram)
}

/// Transaction id and mapped address of a success response.
#[must_use]
pub fn parse_response(datagram: &[u8]) -> Option<(TxId, SocketAddr)> {
    if !looks_like(datagram) || datagram[..2] != [0x01, 0x01] {
        return None;
    }
    let whole = datagram.get(..declared_len(datagram)?)?;
    let seen = xor_mapped(whole)
        .or_else(|| old_xor_mapped(whole))
        .or_else(|| mapped(whole))?;
    Some((tx_of(datagram)?, SocketAddr::new(seen.ip().to_canonical(), seen.port())))
}

fn xor_mapped(datagram: &[u8]) -> Option<SocketAddr> {
    let message = decode(datagram)?;
    let attribute = message.get::<XorMappedAddress>()?.as_xor_mapped_address().ok()?;
    Some(*attribute.socket_address())
}

fn mapped(datagram: &[u8]) -> Option<SocketAddr> {
    let message = decode(datagram)?;
    let attribute = message.get::<MappedAddress>()?.as_mapped_address().ok()?;
    Some(*attribute.socket_address())
}

/// stun-rs does not know the old number.
fn old_xor_mapped(datagram: &[u8]) -> Option<SocketAddr> {
    let mut rest = datagram.get(HEADER..)?;
    loop {
        let (kind, len) = (u16::from_be_bytes([*rest.first()?, *rest.get(1)?]), rest.get(2..4)?);
        let len = usize::from(u16::from_be_bytes([len[0], len[1]]));
        let value = rest.get(4..4 + len)?;
        if kind == OLD_XOR_MAPPED_ADDRESS {
            let port = u16::from_be_bytes([*value.get(2)?, *value.get(3)?]) ^ 0x2112;
            let mask = datagram.get(4..HEADER)?;
            let mut octets = [0u8; 16];
            let address = value.get(4..)?;
            let wanted = if *value.get(1)? == 1 { 4 } else { 16 };
            for (octet, (byte, mask)) in octets.iter_mut().zip(address.get(..wanted)?.iter().zip(mask)) {
                *octet = byte ^ mask;
            }
            let ip = match octets.first_chunk::<4>() {
                Some(v4) if wanted == 4 => IpAddr::V4(Ipv4Addr::from(*v4)),
                _ => IpAddr::V6(Ipv6Addr::from(octets)),
            };
            return Some(SocketAddr::new(ip, port));
        }
        rest = rest.get(4 + len.next_multiple_of(4)..)?;
    }
}

fn declared_len(datagram: &[u8]) -> Option<usize> {
    let len = usize::from(u16::from_be_bytes([*datagram.get(2)?, *datagram.get(3)?]));
    let whole = len + HEADER;
    (whole <= datagram.len() && whole <= MAX_MESSAGE).then_some(whole)
}

fn tx_of(datagram: &[u8]) -> Option<TxId> {
    datagram.get(8..)?.first_chunk::<12>().copied()
}

fn decode(datagram: &[u8]) -> Option<StunMessage> {
    let context = DecoderContextBuilder::default().build();
    let decoder = MessageDecoderBuilder::default().with_context(context).build();
    decoder.decode(datagram).ok().map(|(message, _)| message)
}

fn encode(message: &StunMessage) -> Vec<u8> {
    let mut buffer = vec![0u8; 128];
    let len = MessageEncoderBuilder::default()
        .build()
        .encode(&mut buffer, message)
        .expect("one or two attributes fit");
    buffer.truncate(len);
    buffer
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vectors::{bytes, vectors};

    #[test]
    fn requests_are_built_and_judged_as_the_servers_do() {
        let all = vectors();
        let tx: TxId = bytes(&all["stun"]["txid"]).try_into().unwrap();
        assert_eq!(binding_request(&tx), bytes(&all["stun"]["request"]));
        for form in all["stun"]["request_forms"].as_array().unwrap() {
            let accepted = parse_request(&bytes(&form["request"])).is_some();
            assert_eq!(accepted, form["accepted"].as_bool().unwrap(), "{}", form["name"]);
        }
    }

    #[test]
    fn responses_are_built_and_read() {
        let all = vectors();
        let tx: TxId = bytes(&all["stun"]["txid"]).try_into().unwrap();
        for response in all["stun"]["responses"].as_array().unwrap() {
            let addr: SocketAddr = response["addr"].as_str().unwrap().parse().unwrap();
            assert_eq!(binding_response(&tx, addr), bytes(&response["response"]));
            assert_eq!(parse_response(&bytes(&response["response"])), Some((tx, addr)));
        }
        for form in all["stun"]["response_forms"].as_array().unwrap() {
            let read = parse_response(&bytes(&form["response"])).map(|(_, addr)| addr.to_string());
            assert_eq!(read.as_deref(), form["addr"].as_str(), "{}", form["name"]);
        }
    }

    proptest! {
        #[test]
        fn addresses_round_trip(tx in any::<TxId>(), v4 in any::<[u8; 4]>(), v6 in any::<[u8; 16]>(), port in any::<u16>()) {
            for ip in [IpAddr::from(v4), IpAddr::from(v6)] {
                let addr = SocketAddr::new(ip.to_canonical(), port);
                prop_assert_eq!(parse_response(&binding_response(&tx, addr)), Some((tx, addr)));
            }
        }

        #[test]
        fn any_bytes_never_panic(tail in proptest::collection::vec(any::<u8>(), 0..120), kind in 0u8..2, len in any::<u8>()) {
            let mut datagram = vec![kind, 1, 0, len];
            datagram.extend(COOKIE);
            datagram.extend(tail);
            let _ = parse_request(&datagram);
            let _ = parse_response(&datagram);
        }
    }
}
