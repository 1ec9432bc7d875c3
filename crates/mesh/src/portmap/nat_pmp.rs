//! NAT-PMP (RFC 6886): requests to UDP port 5351 of the gateway, and its answers.
//!
//! | message | bytes |
//! |---|---|
//! | external address request | `00 00` |
//! | answer, 12 | `00 80`, result 2, epoch 4, address 4 |
//! | map UDP request, 12 | `00 01 00 00`, internal port 2, external port 2 (0: any), lifetime 4 (0: delete) |
//! | answer, 16 | `00 81`, result 2, epoch 4, internal port 2, external port 2, lifetime 4 |

use std::net::Ipv4Addr;

/// Asks for the gateway's public address.
pub(crate) const ADDRESS_REQUEST: [u8; 2] = [0, 0];

/// An answer to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Response {
    /// The public address; unspecified when the gateway does not know it yet.
    Address { epoch: u32, address: Ipv4Addr },
    /// A mapping, or the end of one.
    Mapped {
        epoch: u32,
        internal: u16,
        external: u16,
        lifetime: u32,
    },
    /// The gateway said no, and why (section 3.5).
    Refused { mapping: bool, result: u16 },
}

/// Asks for a mapping of this UDP port.
pub(crate) fn map_request(internal: u16, external: u16, lifetime: u32) -> [u8; 12] {
    let mut request = [0; 12];
    request[1] = 1;
    request[4..6].copy_from_slice(&internal.to_be_bytes());
    request[6..8].copy_from_slice(&external.to_be_bytes());
    request[8..].copy_from_slice(&lifetime.to_be_bytes());
    request
}

/// Gives the mapping back (section 3.4: external port and lifetime 0).
pub(crate) fn delete_request(internal: u16) -> [u8; 12] {
    map_request(internal, 0, 0)
}

/// Reads an answer; nothing when it is none.
pub(crate) fn parse(datagram: &[u8]) -> Option<Response> {
    let (&[version, opcode], rest) = datagram.split_first_chunk::<2>()?;
    if version != 0 || !matches!(opcode, 0x80 | 0x81) {
        return None;
    }
    let (result, rest) = rest.split_first_chunk::<2>()?;
    let result = u16::from_be_bytes(*result);
    if result != 0 {
        let mapping = opcode == 0x81;
        return Some(Response::Refused { mapping, result });
    }
    let (epoch, rest) = rest.split_first_chunk::<4>()?;
    let epoch = u32::from_be_bytes(*epoch);
    if opcode == 0x80 {
        let address = Ipv4Addr::from(*rest.first_chunk::<4>()?);
        return Some(Response::Address { epoch, address });
    }
    let &[i0, i1, e0, e1, l0, l1, l2, l3] = rest.first_chunk::<8>()?;
    Some(Response::Mapped {
        epoch,
        internal: u16::from_be_bytes([i0, i1]),
        external: u16::from_be_bytes([e0, e1]),
        lifetime: u32::from_be_bytes([l0, l1, l2, l3]),
    })
}
