//! What time it is for expiry decisions: ours, corrected by the coordinator's where the two clearly differ.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Coordinator times before this (2023-01-10) are not believed.
const OLDEST_BELIEVED: Duration = Duration::from_secs(1_673_373_066);
/// Smaller differences are delay, not a wrong clock.
const TOLERATED: Duration = Duration::from_secs(60);

/// Difference between the coordinator's clock and ours.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ControlClock {
    ahead: Duration,
    behind: Duration,
}

impl ControlClock {
    pub(super) fn learn(&mut self, control: SystemTime, now: SystemTime) {
        if control
            .duration_since(UNIX_EPOCH)
            .is_ok_and(|since| since > OLDEST_BELIEVED)
        {
            let ahead = control.duration_since(now).unwrap_or_default();
            let behind = now.duration_since(control).unwrap_or_default();
            let relevant = |difference: Duration| {
                if difference > TOLERATED {
                    difference
                } else {
                    Duration::ZERO
                }
            };
            *self = Self {
                ahead: relevant(ahead),
                behind: relevant(behind),
            };
        }
    }

    /// The coordinator's view of our `now`.
    pub(super) fn adjust(&self, now: SystemTime) -> SystemTime {
        now.checked_add(self.ahead)
            .and_then(|time| time.checked_sub(self.behind))
            .unwrap_or(now)
    }

    /// Our view of the coordinator's `time`.
    pub(super) fn local(&self, time: SystemTime) -> SystemTime {
        time.checked_sub(self.ahead)
            .and_then(|time| time.checked_add(self.behind))
            .unwrap_or(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clear_differences_from_credible_clocks_count() {
        let now = UNIX_EPOCH + Duration::from_secs(1_795_000_000);
        let mut clock = ControlClock::default();
        clock.learn(now + Duration::from_secs(59), now);
        assert_eq!(clock.adjust(now), now);
        clock.learn(now + Duration::from_secs(3600), now);
        assert_eq!(clock.adjust(now), now + Duration::from_secs(3600));
        assert_eq!(clock.local(now + Duration::from_secs(3600)), now);
        clock.learn(UNIX_EPOCH + Duration::from_secs(5), now);
        assert_eq!(clock.adjust(now), now + Duration::from_secs(3600));
        clock.learn(now - Duration::from_secs(3600), now);
        assert_eq!(clock.adjust(now), now - Duration::from_secs(3600));
    }
}
