//! The window against a set that remembers everything.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// What the window stands for, without a bound on memory.
#[derive(Default)]
struct Model {
    seen: BTreeSet<u64>,
}

impl Model {
    fn mark(&mut self, counter: u64) -> bool {
        let highest = self.seen.last().copied();
        let too_old = highest.is_some_and(|highest| counter < highest && highest - counter >= USABLE);
        !too_old && self.seen.insert(counter)
    }
}

fn agree(counters: impl IntoIterator<Item = u64>) {
    let (mut window, mut model) = (Window::new(), Model::default());
    for counter in counters {
        let fresh = window.is_fresh(counter);
        assert_eq!(fresh, model.mark(counter), "counter {counter}");
        assert_eq!(window.mark(counter), fresh, "counter {counter}");
        assert!(!window.is_fresh(counter), "counter {counter} marked twice");
    }
}

#[test]
fn exactly_the_last_8192_are_usable() {
    let mut window = Window::new();
    assert!(window.mark(10_000));
    assert!(window.is_fresh(10_000 - USABLE + 1));
    assert!(!window.is_fresh(10_000 - USABLE));
    assert!(window.mark(10_000 - USABLE + 1));
    assert!(!window.mark(10_000 - USABLE + 1));
}

#[test]
fn every_counter_once_forwards_and_backwards() {
    agree(0..30_000);
    agree((0..8_192).rev());
    agree((0..30_000).rev());
    agree((0..30_000).chain(0..30_000));
}

#[test]
fn jumps_over_words_rings_and_to_the_end() {
    let ends = [
        63u64,
        64,
        65,
        127,
        128,
        8_191,
        8_192,
        8_193,
        8_255,
        8_256,
        8_257,
        16_384,
        1 << 40,
    ];
    for end in ends {
        agree([
            0,
            end,
            end - 1,
            end + 1,
            1,
            end.saturating_sub(USABLE),
            end.saturating_sub(USABLE - 1),
        ]);
    }
    let last = u64::MAX - (1 << 13) - 2;
    agree([last - 1, last, last - USABLE, last - USABLE + 1, 0]);
}

proptest! {
    #[test]
    fn agrees_with_a_set(
        start in prop_oneof![Just(0u64), 0..1u64 << 50],
        steps in prop::collection::vec(prop_oneof![
            8 => -70i64..140,
            2 => -9_000i64..9_000,
            1 => -20_000i64..100_000,
        ], 1..600),
    ) {
        let mut at = start;
        agree(steps.into_iter().map(|step| {
            at = at.saturating_add_signed(step);
            at
        }));
    }

    #[test]
    fn a_shuffled_burst_comes_once(seed in any::<u64>(), len in 1u64..9_000) {
        let mut order: Vec<u64> = (0..len).collect();
        let mut state = seed | 1;
        for at in (1..order.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            order.swap(at, (state >> 33) as usize % (at + 1));
        }
        agree(order.iter().copied().chain(order.iter().rev().copied()));
    }
}
