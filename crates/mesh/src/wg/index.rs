//! [`IndexTable`]: which receiver index belongs to whom.
//!
//! Indices are random, all 32 bits, and unique among those in use: nobody on the way can tell from them which sessions are
//! one peer's, and a guess of one hits nothing. A table is looked up once for a run of datagrams.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};

/// See the module's text. `O` says whose an index is.
pub(crate) struct IndexTable<O> {
    owners: HashMap<u32, O, BuildHasherDefault<Spread>>,
}

impl<O: Copy> IndexTable<O> {
    /// A table without indices.
    pub(crate) fn new() -> Self {
        Self {
            owners: HashMap::default(),
        }
    }

    /// Whose index this is.
    pub(crate) fn owner(&self, index: u32) -> Option<O> {
        self.owners.get(&index).copied()
    }

    /// A fresh index for `owner`.
    pub(crate) fn register(&mut self, owner: O) -> u32 {
        loop {
            let mut bytes = [0u8; 4];
            crate::random::fill(&mut bytes);
            let index = u32::from_ne_bytes(bytes);
            if let Entry::Vacant(free) = self.owners.entry(index) {
                free.insert(owner);
                return index;
            }
        }
    }

    /// Gives an index back.
    pub(crate) fn release(&mut self, index: u32) {
        self.owners.remove(&index);
    }

    /// Gives all of them back.
    pub(crate) fn clear(&mut self) {
        self.owners.clear();
    }

    /// No index is in use.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }
}

/// Spreads keys that we drew ourselves; nobody else chooses what is in the table.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, index: u32) {
        // The table takes the position from the low bits and a tag from the high ones.
        self.0 = (self.0 ^ u64::from(index))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(26);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_unique_and_have_one_owner_until_they_are_released() {
        let mut table = IndexTable::new();
        let indices: Vec<u32> = (0..5_000u32).map(|owner| table.register(owner)).collect();
        for (owner, index) in (0..).zip(&indices) {
            assert_eq!(table.owner(*index), Some(owner));
        }
        for index in &indices {
            table.release(*index);
            assert_eq!(table.owner(*index), None);
        }
        assert!(table.is_empty());
        // All bits are used.
        assert_eq!(indices.iter().fold(0, |bits, index| bits | index), u32::MAX);
        assert_eq!(indices.iter().fold(u32::MAX, |bits, index| bits & index), 0);
    }
}
