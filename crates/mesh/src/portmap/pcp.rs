//! PCP (RFC 6887), the successor of NAT-PMP on the same port of the gateway.
//!
//! | part | bytes |
//! |---|---|
//! | request, 24 | version 2, opcode (0 announce, 1 map), 2 zero, lifetime 4, own address 16 (IPv4-mapped) |
//! | answer, 24 | version 2, opcode + 0x80, zero, result, lifetime 4, epoch 4, 12 zero |
//! | map, 36 more both ways | nonce 12, protocol 1, 3 zero, internal port 2, external port 2, external address 16 |

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Place;

const VERSION: u8 = 2;
const ANNOUNCE: u8 = 0;
const MAP: u8 = 1;
const UDP: u8 = 17;
/// Longer ones break the protocol (section 7).
const MAX_LEN: usize = 1_100;

/// Names a mapping: whoever does not know it can neither renew nor delete it.
pub(crate) type Nonce = [u8; 12];

/// An answer to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Response {
    /// The gateway speaks PCP.
    Announce { epoch: u32 },
    /// A mapping, or the end of one.
    Mapped {
        epoch: u32,
        nonce: Nonce,
        internal: u16,
        external: u16,
        address: Ipv4Addr,
        lifetime: u32,
    },
    /// The gateway said no, and why (section 7.4). It may be of another version of the protocol.
    Refused { mapping: bool, result: u8 },
}

/// Asks whether there is a server.
pub(crate) fn announce_request(own: Ipv4Addr) -> [u8; 24] {
    header(ANNOUNCE, own, 0)
}

/// Asks for a mapping, renews it, or with lifetime 0 gives it back.
pub(crate) fn map_request(place: &Place, nonce: &Nonce, external: u16, lifetime: u32) -> [u8; 60] {
    let mut request = [0; 60];
    request[..24].copy_from_slice(&header(MAP, place.own, lifetime));
    request[24..36].copy_from_slice(nonce);
    request[36] = UDP;
    request[40..42].copy_from_slice(&place.port.to_be_bytes());
    request[42..44].copy_from_slice(&external.to_be_bytes());
    request[44..].copy_from_slice(&Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().octets());
    request
}

fn header(opcode: u8, own: Ipv4Addr, lifetime: u32) -> [u8; 24] {
    let mut header = [0; 24];
    header[0] = VERSION;
    header[1] = opcode;
    header[4..8].copy_from_slice(&lifetime.to_be_bytes());
    header[8..].copy_from_slice(&own.to_ipv6_mapped().octets());
    header
}

/// Reads an answer; nothing when it is none.
pub(crate) fn parse(datagram: &[u8]) -> Option<Response> {
    let (header, rest) = datagram.split_first_chunk::<24>()?;
    let mapping = match header[1] {
        0x80 => false,
        0x81 => true,
        _ => return None,
    };
    if header[0] != VERSION || datagram.len() > MAX_LEN {
        return None;
    }
    let result = header[3];
    if result != 0 {
        return Some(Response::Refused { mapping, result });
    }
    let lifetime = u32::from_be_bytes(*header[4..].first_chunk()?);
    let epoch = u32::from_be_bytes(*header[8..].first_chunk()?);
    if !mapping {
        return Some(Response::Announce { epoch });
    }
    let body = rest.first_chunk::<36>()?;
    if body[12] != UDP {
        return None;
    }
    let address: [u8; 16] = *body[20..].first_chunk()?;
    Some(Response::Mapped {
        epoch,
        nonce: *body.first_chunk()?,
        internal: u16::from_be_bytes([body[16], body[17]]),
        external: u16::from_be_bytes([body[18], body[19]]),
        address: Ipv6Addr::from(address).to_ipv4_mapped()?,
        lifetime,
    })
}
