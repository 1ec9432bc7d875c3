//! [`Window`]: which counters of a session have come already (RFC 6479), so that nothing is delivered twice.
//!
//! A packet is looked up before it is opened, which is cheap, and marked only afterwards: a forged counter moves nothing.

/// Packets by which one may be late and still count.
pub(crate) const USABLE: u64 = 8_192;
const WORD: u64 = 64;
/// One word more than the usable bits fill: the word being entered is cleared as a whole.
const WORDS: usize = (USABLE / WORD) as usize + 1;

/// See the module's text.
pub(crate) struct Window {
    /// One more than the highest counter marked.
    next: u64,
    ring: [u64; WORDS],
}

impl Window {
    /// A window in which nothing has come.
    pub(crate) fn new() -> Self {
        Self {
            next: 0,
            ring: [0; WORDS],
        }
    }

    /// True when this counter has not been marked, nor is too old to tell.
    pub(crate) fn is_fresh(&self, counter: u64) -> bool {
        if counter >= self.next {
            return true;
        }
        self.next - counter <= USABLE && self.ring[slot_of(counter)] & bit_of(counter) == 0
    }

    /// Marks a counter; false when it is not fresh, and then nothing changes.
    pub(crate) fn mark(&mut self, counter: u64) -> bool {
        if !self.is_fresh(counter) {
            return false;
        }
        if counter >= self.next {
            let first = self.next.div_ceil(WORD);
            let last = counter / WORD;
            // Beyond a whole ring every word is cleared once.
            let entered = (last + 1).saturating_sub(first).min(WORDS as u64);
            for word in 0..entered {
                self.ring[((last - word) % WORDS as u64) as usize] = 0;
            }
            self.next = counter.saturating_add(1);
        }
        self.ring[slot_of(counter)] |= bit_of(counter);
        true
    }
}

fn slot_of(counter: u64) -> usize {
    (counter / WORD % WORDS as u64) as usize
}

fn bit_of(counter: u64) -> u64 {
    1 << (counter % WORD)
}

#[cfg(test)]
mod tests;
