//! [`PacketBuf`]: one packet with room in front and behind, so that headers and tags are added in place.
//!
//! Overlay packets travel in it between the device (netstack or TUN) and the engine; sealing then writes the
//! WireGuard header into the headroom and the tag into the tailroom, without a second buffer.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// Bytes kept free in front: virtio header, WireGuard header, DERP frame header with key.
pub const HEADROOM: usize = 64;
/// Bytes kept free behind: padding to 16 and the tag.
pub const TAILROOM: usize = 48;

/// An owned packet. It dereferences to the packet's bytes.
#[derive(Clone)]
pub struct PacketBuf {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl PacketBuf {
    /// A packet of `len` zero bytes.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        Self {
            bytes: vec![0; HEADROOM + len + TAILROOM],
            start: HEADROOM,
            end: HEADROOM + len,
        }
    }

    /// A packet that holds a copy of `bytes`.
    #[must_use]
    pub fn copied_from(bytes: &[u8]) -> Self {
        let mut packet = Self::zeroed(bytes.len());
        packet.copy_from_slice(bytes);
        packet
    }

    /// Makes it a packet of `len` bytes of which none matters, and keeps the allocation when it is large enough.
    pub fn reset(&mut self, len: usize) {
        let whole = HEADROOM + len + TAILROOM;
        if self.bytes.len() < whole {
            self.bytes.resize(whole, 0);
        }
        self.start = HEADROOM;
        self.end = HEADROOM + len;
    }

    /// Bytes that it can hold without a new allocation.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.bytes.len().saturating_sub(HEADROOM + TAILROOM)
    }

    /// Shortens the packet; a longer `len` changes nothing.
    pub fn truncate(&mut self, len: usize) {
        self.end = self.end.min(self.start.saturating_add(len));
    }

    /// Free bytes in front.
    #[must_use]
    pub fn headroom(&self) -> usize {
        self.start
    }

    /// Free bytes behind.
    #[must_use]
    pub fn tailroom(&self) -> usize {
        self.bytes.len() - self.end
    }

    /// Moves the start forward by `count` bytes (a header was read); false when there are not so many.
    #[must_use]
    pub fn advance(&mut self, count: usize) -> bool {
        let enough = count <= self.len();
        if enough {
            self.start += count;
        }
        enough
    }
}

impl Deref for PacketBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }
}

impl DerefMut for PacketBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }
}

impl fmt::Debug for PacketBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PacketBuf({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_kept_on_both_sides() {
        let mut packet = PacketBuf::copied_from(b"abcdef");
        assert_eq!(&packet[..], b"abcdef");
        assert_eq!(packet.headroom(), HEADROOM);
        assert_eq!(packet.tailroom(), TAILROOM);
        assert!(packet.advance(2));
        packet.truncate(3);
        assert_eq!(&packet[..], b"cde");
        assert!(!packet.advance(4));
    }

    #[test]
    fn a_used_packet_serves_again() {
        let mut packet = PacketBuf::copied_from(b"abcdef");
        assert!(packet.advance(2));
        packet.reset(5);
        assert_eq!(
            (packet.len(), packet.headroom(), packet.tailroom()),
            (5, HEADROOM, TAILROOM + 1)
        );
        assert_eq!(packet.capacity(), 6);
        packet.reset(100);
        assert_eq!((packet.len(), packet.capacity()), (100, 100));
    }
}
