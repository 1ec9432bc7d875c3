//! [`Features`]: the marker by which nodes of ours know one another, in the padding of a ping and behind a pong, where
//! stock peers do not look. It is a statement of that peer, never a right.

/// Bytes of the marker: magic, version, nothing, bits.
pub(crate) const MARKER_LEN: usize = 12;
const MAGIC: [u8; 8] = *b"\xf0\x9f\xa6\xa5sndd";
const VERSION: u8 = 1;
const NAT_MASK: u16 = 0b11;
const GUESSES: u16 = 0b100;

/// How the NAT in front of a node maps (RFC 4787, section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Nat {
    /// Not found out yet.
    #[default]
    Unknown,
    /// One port for all destinations, or no NAT.
    Easy,
    /// Another port for each destination.
    Hard,
}

/// What a node of ours says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// Version of this statement.
    pub version: u8,
    /// Bits 0 and 1: its NAT (0 unknown, 1 easy, 2 hard). Bit 2: it takes part in port guessing.
    pub bits: u16,
}

impl Features {
    /// Bytes of the marker.
    pub(crate) const LEN: usize = MARKER_LEN;

    /// What this build says.
    #[must_use]
    pub const fn current(nat: Nat, guesses: bool) -> Self {
        let nat = match nat {
            Nat::Unknown => 0,
            Nat::Easy => 1,
            Nat::Hard => 2,
        };
        Self {
            version: VERSION,
            bits: nat | if guesses { GUESSES } else { 0 },
        }
    }

    /// The NAT in front of it, as far as it knows.
    #[must_use]
    pub const fn nat(self) -> Nat {
        match self.bits & NAT_MASK {
            1 => Nat::Easy,
            2 => Nat::Hard,
            _ => Nat::Unknown,
        }
    }

    /// It takes part in port guessing.
    #[must_use]
    pub const fn guesses(self) -> bool {
        self.bits & GUESSES != 0
    }

    pub(super) fn encode(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&MAGIC);
        out.push(self.version);
        out.push(0);
        out.extend_from_slice(&self.bits.to_be_bytes());
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.get(..MARKER_LEN)?.strip_prefix(&MAGIC)?;
        Some(Self {
            version: rest[0],
            bits: u16::from_be_bytes([rest[2], rest[3]]),
        })
    }
}
