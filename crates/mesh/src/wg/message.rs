//! Message type and receiver index of a WireGuard datagram, without decrypting (WireGuard paper, section 5.4).
//!
//! First stop after the demultiplexer: what is neither of the four types with a legal length goes no further.

/// What a datagram claims to be. Nothing in it is proven yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MessageKind {
    /// Type 1, always 148 bytes.
    Initiation,
    /// Type 2, always 92 bytes, with our index.
    Response { receiver: u32 },
    /// Type 3, always 64 bytes, with our index.
    Cookie { receiver: u32 },
    /// Type 4, at least 32 bytes, with our index.
    Data { receiver: u32 },
}

/// Reads the kind, or nothing when the bytes fit no type.
pub(crate) fn classify(datagram: &[u8]) -> Option<MessageKind> {
    let header: [u8; 4] = datagram.get(..4)?.try_into().ok()?;
    let word = |at: usize| {
        let bytes: [u8; 4] = datagram.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_le_bytes(bytes))
    };
    match (u32::from_le_bytes(header), datagram.len()) {
        (1, 148) => Some(MessageKind::Initiation),
        (2, 92) => Some(MessageKind::Response { receiver: word(8)? }),
        (3, 64) => Some(MessageKind::Cookie { receiver: word(4)? }),
        (4, 32..) => Some(MessageKind::Data { receiver: word(4)? }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(kind: u8, len: usize) -> Vec<u8> {
        let mut bytes = vec![0u8; len];
        bytes[0] = kind;
        bytes[4..8].copy_from_slice(&7u32.to_le_bytes());
        if len >= 12 {
            bytes[8..12].copy_from_slice(&9u32.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn each_type_has_its_length() {
        assert_eq!(classify(&datagram(1, 148)), Some(MessageKind::Initiation));
        assert_eq!(classify(&datagram(2, 92)), Some(MessageKind::Response { receiver: 9 }));
        assert_eq!(classify(&datagram(3, 64)), Some(MessageKind::Cookie { receiver: 7 }));
        assert_eq!(classify(&datagram(4, 32)), Some(MessageKind::Data { receiver: 7 }));
        for (kind, len) in [(1, 147), (2, 93), (3, 63), (4, 31), (5, 148), (0, 148)] {
            assert_eq!(classify(&datagram(kind, len)), None, "type {kind}, {len} bytes");
        }
        assert_eq!(classify(&[]), None);
    }
}
