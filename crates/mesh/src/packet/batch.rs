//! [`PacketBatch`]: the unit that every stage takes and gives.

use super::PacketBuf;

/// Packets in order. A stage that drops one leaves the order of the others.
#[derive(Debug, Default)]
pub struct PacketBatch(Vec<PacketBuf>);

impl PacketBatch {
    /// An empty batch.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Appends a packet.
    pub fn push(&mut self, packet: PacketBuf) {
        self.0.push(packet);
    }

    /// Number of packets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes all packets out, keeping the allocation.
    pub fn drain(&mut self) -> impl Iterator<Item = PacketBuf> + '_ {
        self.0.drain(..)
    }
}

impl IntoIterator for PacketBatch {
    type Item = PacketBuf;
    type IntoIter = std::vec::IntoIter<PacketBuf>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl FromIterator<PacketBuf> for PacketBatch {
    fn from_iter<I: IntoIterator<Item = PacketBuf>>(packets: I) -> Self {
        Self(packets.into_iter().collect())
    }
}
