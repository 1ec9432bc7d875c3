//! When to dial again: the first time within a second, then longer up to a ceiling, always jittered.

use std::time::{Duration, Instant};

/// A connection that lived this long starts the ladder anew.
const GOOD_CONNECTION: Duration = Duration::from_secs(60);

/// The shortest ceiling: no setting makes a daemon dial in a loop.
const LEAST_CEILING: Duration = Duration::from_millis(100);

/// The pause before each attempt.
#[derive(Debug)]
pub struct Reconnect {
    ceiling: Duration,
    failures: u32,
    connected: Option<Instant>,
}

impl Reconnect {
    /// A ladder that ends at `ceiling`.
    #[must_use]
    pub fn new(ceiling: Duration) -> Self {
        Self {
            ceiling: ceiling.max(LEAST_CEILING),
            failures: 0,
            connected: None,
        }
    }

    /// The registration went through.
    pub fn handle_connected(&mut self, now: Instant) {
        self.connected = Some(now);
    }

    /// The connection ended, or there was none; `random` is evenly spread over all values.
    pub fn handle_ended(&mut self, now: Instant, random: u32) -> Duration {
        if self
            .connected
            .take()
            .is_some_and(|since| now.duration_since(since) >= GOOD_CONNECTION)
        {
            self.failures = 0;
        }
        let step = Duration::from_secs(1)
            .saturating_mul(1 << self.failures.min(16))
            .min(self.ceiling);
        self.failures = self.failures.saturating_add(1);
        let share = f64::from(random) / f64::from(u32::MAX);
        // The first retry is anywhere in the first second, so that a fleet spreads; later ones keep half their step.
        if self.failures == 1 {
            step.mul_f64(share)
        } else {
            step.mul_f64(0.5 + share / 2.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ladder_rises_to_its_ceiling_and_starts_anew() {
        let now = Instant::now();
        let mut reconnect = Reconnect::new(Duration::from_secs(5));
        let pauses: Vec<_> = (0..6)
            .map(|_| reconnect.handle_ended(now, u32::MAX).as_secs())
            .collect();
        assert_eq!(pauses, [1, 2, 4, 5, 5, 5]);
        assert_eq!(reconnect.handle_ended(now, 0), Duration::from_millis(2500));
        reconnect.handle_connected(now);
        assert_eq!(
            reconnect
                .handle_ended(now + Duration::from_secs(59), u32::MAX)
                .as_secs(),
            5
        );
        reconnect.handle_connected(now);
        assert_eq!(reconnect.handle_ended(now + Duration::from_secs(60), 0), Duration::ZERO);
    }

    #[test]
    fn no_setting_makes_a_loop() {
        let now = Instant::now();
        let mut reconnect = Reconnect::new(Duration::ZERO);
        reconnect.handle_ended(now, 0);
        assert!(reconnect.handle_ended(now, 0) >= Duration::from_millis(50));
    }
}
