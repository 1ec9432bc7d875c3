//! [`Pieces`]: a document that is being written, in pieces of one size.
//!
//! The status of a node with thousands of peers is a megabyte. As one buffer that grows by doubling it would leave the
//! allocator with several times as much for the rest of the process's life.

use std::io::{self, Write};

/// Below what allocators fetch from the system by itself.
const PIECE: usize = 32 * 1024;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    full: Vec<Vec<u8>>,
    last: Vec<u8>,
}

impl Pieces {
    /// Bytes in all of them.
    pub(super) fn len(&self) -> usize {
        self.full.len() * PIECE + self.last.len()
    }

    /// In order; each is given up when the next is asked for.
    pub(super) fn into_iter(self) -> impl Iterator<Item = Vec<u8>> {
        self.full.into_iter().chain([self.last])
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.last.len() == PIECE {
            self.full.push(std::mem::take(&mut self.last));
        }
        let taken = bytes.len().min(PIECE - self.last.len());
        if self.last.is_empty() && !self.full.is_empty() {
            self.last.reserve_exact(PIECE);
        }
        self.last.extend_from_slice(bytes.get(..taken).unwrap_or_default());
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_comes_back_in_order_and_small() {
        let document: Vec<u8> = (0..3 * PIECE + 7).map(|at| (at % 251) as u8).collect();
        for step in [1, 999, PIECE, PIECE + 1, document.len()] {
            let mut pieces = Pieces::default();
            for part in document.chunks(step) {
                pieces.write_all(part).unwrap();
            }
            assert_eq!(pieces.len(), document.len());
            let all: Vec<Vec<u8>> = pieces.into_iter().collect();
            assert!(all.iter().all(|piece| piece.len() <= PIECE));
            assert_eq!(all.concat(), document);
        }
        assert_eq!(Pieces::default().len(), 0);
    }
}
