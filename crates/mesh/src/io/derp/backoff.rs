//! [`Backoff`]: when to try a relay again. At once the first time, since most breaks are short; then ever later.

use std::time::{Duration, Instant};

/// Pauses before each further attempt. A server that restarts is back within ten seconds or later than that.
const LADDER: [Duration; 10] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(2),
    Duration::from_secs(2),
    Duration::from_secs(5),
];
/// A relay that does not admit us will not change its mind within milliseconds.
const REFUSED_FIRST: Duration = Duration::from_secs(1);
const REFUSED_LAST: Duration = Duration::from_secs(30);
/// A connection that held so long was a good one.
const HEALTHY: Duration = Duration::from_secs(30);

/// How an attempt or a connection ended, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Not connected, or not for long.
    Failed,
    /// The relay closed the connection before it admitted us.
    Refused,
    /// The relay told when it will be back.
    Restarting(Duration),
}

#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: usize,
    refusals: u32,
}

impl Backoff {
    /// The pause before the next attempt. `since` is when the relay admitted us, if it did; `jitter` is 0 to 1.
    pub(super) fn pause(&mut self, ending: Ending, since: Option<Instant>, jitter: f64, now: Instant) -> Duration {
        if since.is_some() {
            self.refusals = 0;
        }
        if since.is_some_and(|since| now.saturating_duration_since(since) >= HEALTHY) {
            self.failures = 0;
        }
        let pause = match ending {
            Ending::Restarting(pause) => return pause.min(REFUSED_LAST),
            Ending::Refused => {
                let pause = REFUSED_FIRST
                    .saturating_mul(1 << self.refusals.min(8))
                    .min(REFUSED_LAST);
                self.refusals += 1;
                pause
            }
            Ending::Failed => {
                let pause = LADDER[self.failures.min(LADDER.len() - 1)];
                self.failures += 1;
                pause
            }
        };
        pause.mul_f64(0.8 + 0.4 * jitter.clamp(0.0, 1.0))
    }

    /// The next attempt is made at once, and the ladder starts over.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_attempt_is_at_once_and_the_last_every_five_seconds() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        let mut pause = || backoff.pause(Ending::Failed, None, 0.5, now).as_millis();
        let pauses: Vec<_> = (0..11).map(|_| pause()).collect();
        assert_eq!(
            pauses,
            [0, 100, 250, 500, 1_000, 1_000, 2_000, 2_000, 2_000, 5_000, 5_000]
        );
    }

    #[test]
    fn thirty_seconds_of_health_start_over_and_a_flapping_relay_does_not() {
        let (mut backoff, start) = (Backoff::default(), Instant::now());
        for _ in 0..4 {
            backoff.pause(Ending::Failed, None, 0.5, start);
        }
        let flap = backoff.pause(Ending::Failed, Some(start), 0.5, start + Duration::from_secs(29));
        assert_eq!(flap, Duration::from_secs(1));
        let healthy = backoff.pause(Ending::Failed, Some(start), 0.5, start + Duration::from_secs(30));
        assert_eq!(healthy, Duration::ZERO);
    }

    #[test]
    fn a_relay_that_refuses_is_asked_ever_less() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        let mut pause = || backoff.pause(Ending::Refused, None, 0.5, now).as_secs();
        assert_eq!(
            [pause(), pause(), pause(), pause(), pause(), pause(), pause()],
            [1, 2, 4, 8, 16, 30, 30]
        );
        let admitted = backoff.pause(Ending::Refused, Some(now), 0.5, now);
        assert_eq!(admitted, Duration::from_secs(1), "it admitted us in between");
    }

    #[test]
    fn jitter_is_a_fifth_each_way() {
        let now = Instant::now();
        let at = |jitter| {
            Backoff {
                failures: 4,
                refusals: 0,
            }
            .pause(Ending::Failed, None, jitter, now)
            .as_millis()
        };
        assert_eq!((at(0.0), at(1.0)), (800, 1_200));
    }
}
