//! Between the standard library's clock and smoltcp's: smoltcp counts microseconds from a start of its own.

use std::time::{Duration, Instant};

/// smoltcp answers "at once" with its instant zero, so our start lies later.
const START_MICROS: i64 = 1_000_000;

/// Both clocks, tied together at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    base: Instant,
}

impl Clock {
    pub(super) const fn starting_at(base: Instant) -> Self {
        Self { base }
    }

    /// An instant before the start counts as the start.
    pub(super) fn inner(&self, now: Instant) -> smoltcp::time::Instant {
        let micros = i64::try_from(now.saturating_duration_since(self.base).as_micros()).unwrap_or(i64::MAX / 2);
        smoltcp::time::Instant::from_micros(micros.saturating_add(START_MICROS))
    }

    /// `None` for "at once".
    pub(super) fn outer(&self, instant: smoltcp::time::Instant) -> Option<Instant> {
        let micros = u64::try_from(instant.total_micros().saturating_sub(START_MICROS)).ok()?;
        self.base.checked_add(Duration::from_micros(micros))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_survive_the_round_trip() {
        let base = Instant::now();
        let clock = Clock::starting_at(base);
        for micros in [0, 1, 999, 1_000_000, 86_400_000_000] {
            let instant = base + Duration::from_micros(micros);
            assert_eq!(clock.outer(clock.inner(instant)), Some(instant));
        }
    }

    #[test]
    fn at_once_has_no_instant() {
        let clock = Clock::starting_at(Instant::now());
        assert_eq!(clock.outer(smoltcp::time::Instant::from_millis(0)), None);
    }
}
