//! How long to leave a coordinator alone after a failure: growing, jittered, and short enough in the first ten minutes
//! that we are back within five seconds of its return (S-34). Pure: the time and the chance are given.

use std::time::{Duration, Instant};

const FLOOR: Duration = Duration::from_millis(100);
/// Below five seconds, so that a new attempt has time to succeed within them.
const EARLY_CAP: Duration = Duration::from_secs(4);
const LATE_CAP: Duration = Duration::from_secs(60);
const EARLY: Duration = Duration::from_secs(600);

/// Delays of one outage.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    attempts: u32,
    since: Option<Instant>,
}

impl Backoff {
    /// The delay before the next attempt; `chance` is in 0..1.
    pub(crate) fn next_delay(&mut self, now: Instant, chance: f64) -> Duration {
        let since = *self.since.get_or_insert(now);
        self.attempts = self.attempts.saturating_add(1);
        let cap = if now.duration_since(since) < EARLY {
            EARLY_CAP
        } else {
            LATE_CAP
        };
        let square = self.attempts.min(1000).pow(2);
        let ceiling = (Duration::from_millis(10) * square).clamp(FLOOR, cap);
        FLOOR / 2 + (ceiling - FLOOR / 2).mul_f64(chance.clamp(0.0, 1.0))
    }

    /// The outage is over.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_cap_of_their_time() {
        let start = Instant::now();
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next_delay(start, 0.0), Duration::from_millis(50));
        assert_eq!(backoff.next_delay(start, 1.0), Duration::from_millis(100));
        for _ in 0..30 {
            assert!(backoff.next_delay(start, 1.0) <= EARLY_CAP);
        }
        assert_eq!(backoff.next_delay(start, 1.0), EARLY_CAP);
        for _ in 0..200 {
            backoff.next_delay(start + EARLY, 0.5);
        }
        assert_eq!(backoff.next_delay(start + EARLY, 1.0), LATE_CAP);
        backoff.reset();
        assert_eq!(backoff.next_delay(start + EARLY, 1.0), FLOOR);
    }
}
