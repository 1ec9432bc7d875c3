//! The Geneve header in front of packets that pass a peer's UDP relay (RFC 8926, as far as it is used).

/// What follows the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GeneveProtocol {
    /// A disco packet.
    Disco,
    /// A WireGuard packet.
    WireGuard,
}

/// Eight bytes: version and option length 0, flags, protocol, virtual network, reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GeneveHeader {
    /// Set on the messages that bind a relay endpoint.
    pub control: bool,
    /// What follows.
    pub protocol: GeneveProtocol,
    /// Virtual network identifier, 24 bits.
    pub vni: u32,
}

const DISCO: [u8; 2] = [0x7a, 0x11];
const WIREGUARD: [u8; 2] = [0x7a, 0x12];

impl GeneveHeader {
    /// Its bytes.
    pub const LEN: usize = 8;

    /// Header and what follows it, or nothing when the bytes are no such packet.
    #[must_use]
    pub fn parse(datagram: &[u8]) -> Option<(Self, &[u8])> {
        let (header, rest) = datagram.split_first_chunk::<{ Self::LEN }>()?;
        let [first, flags, p0, p1, v0, v1, v2, reserved] = *header;
        if first & 0xc0 != 0 || flags & 0x3f != 0 || reserved != 0 {
            return None;
        }
        let protocol = match [p0, p1] {
            DISCO if super::looks_like(rest) => GeneveProtocol::Disco,
            WIREGUARD => GeneveProtocol::WireGuard,
            _ => return None,
        };
        let vni = u32::from_be_bytes([0, v0, v1, v2]);
        Some((
            Self {
                control: flags & 0x80 != 0,
                protocol,
                vni,
            },
            rest,
        ))
    }

    /// The eight bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let [p0, p1] = match self.protocol {
            GeneveProtocol::Disco => DISCO,
            GeneveProtocol::WireGuard => WIREGUARD,
        };
        let [_, v0, v1, v2] = self.vni.to_be_bytes();
        [0, if self.control { 0x80 } else { 0 }, p0, p1, v0, v1, v2, 0]
    }
}
