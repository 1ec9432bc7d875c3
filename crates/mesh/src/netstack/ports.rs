//! Random numbers from the given seed, and the ports that sockets get when they do not ask for one.

use std::ops::RangeInclusive;

/// The dynamic range of RFC 6335.
const DYNAMIC: RangeInclusive<u16> = 49_152..=65_535;

/// A small generator for ports, echo identifiers and the like; nothing secret comes from it.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next_u64(&mut self) -> u64 {
        // SplitMix64: one addition and a mixing of the bits.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn next_u16(&mut self) -> u16 {
        (self.next_u64() >> 48) as u16
    }

    /// A port for which `is_free` holds: random first, so that others cannot guess it (RFC 6056), then the next ones.
    pub(super) fn free_port(&mut self, is_free: impl Fn(u16) -> bool) -> Option<u16> {
        let count = DYNAMIC.end() - DYNAMIC.start() + 1;
        let first = self.next_u16() % count;
        (0..count)
            .map(|step| DYNAMIC.start() + (first + step) % count)
            .find(|port| is_free(*port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_free_port_is_found() {
        let mut random = Random::seeded(7);
        assert_eq!(random.free_port(|port| port == 50_000), Some(50_000));
        assert_eq!(random.free_port(|_| false), None);
    }

    #[test]
    fn ports_are_spread() {
        let mut random = Random::seeded(7);
        let ports: std::collections::BTreeSet<_> = (0..100).filter_map(|_| random.free_port(|_| true)).collect();
        assert!(ports.len() > 90);
        assert!(ports.iter().all(|port| DYNAMIC.contains(port)));
    }
}
