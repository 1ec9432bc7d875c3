//! [`SleepWatch`]: notices that the process or the whole machine stood still, by what the clocks say afterwards.
//!
//! A stopped process sees that it woke long after the deadline it had set. A sleeping machine sees nothing of the kind,
//! since the clock that deadlines are kept by sleeps as well; there, the difference to a clock that went on has grown.

use std::time::{Duration, Instant};

/// Later than this is no delay of a busy machine any more.
const LATE: Duration = Duration::from_secs(5);
/// The clocks are compared at most this often.
const COMPARE_INTERVAL: Duration = Duration::from_secs(1);

/// See the module's text.
#[derive(Debug)]
pub(super) struct SleepWatch {
    /// When the driver must have had a turn.
    deadline: Instant,
    /// How far the clock that does not sleep was ahead of ours.
    lag: Duration,
    compared: Instant,
}

impl SleepWatch {
    pub(super) fn new(now: Instant, lag: Duration) -> Self {
        Self {
            deadline: now,
            lag,
            compared: now,
        }
    }

    /// The driver sleeps until then at the latest.
    pub(super) fn note_deadline(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// At every turn: how long the process stood still since the last one, if it did.
    pub(super) fn poll(&mut self, now: Instant, lag: impl FnOnce() -> Duration) -> Option<Duration> {
        let mut slept = now.saturating_duration_since(self.deadline);
        self.deadline = self.deadline.max(now);
        if now.saturating_duration_since(self.compared) >= COMPARE_INTERVAL {
            self.compared = now;
            let lag = lag();
            slept += lag.saturating_sub(self.lag);
            self.lag = lag;
        }
        (slept >= LATE).then_some(slept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn turns_in_time_are_no_sleep() {
        let start = Instant::now();
        let mut watch = SleepWatch::new(start, secs(7));
        for turn in 0..100 {
            watch.note_deadline(start + secs(20 * turn));
            assert_eq!(watch.poll(start + secs(20 * turn + 2), || secs(7)), None);
        }
        watch.note_deadline(start + secs(5_000));
        assert_eq!(watch.poll(start + secs(4_000), || secs(7)), None, "woken early");
    }

    #[test]
    fn a_stopped_process_is_told_once_for_how_long() {
        let start = Instant::now();
        let mut watch = SleepWatch::new(start, secs(0));
        watch.note_deadline(start + secs(10));
        let woken = start + secs(90);
        assert_eq!(watch.poll(woken, || secs(0)), Some(secs(80)));
        assert_eq!(watch.poll(woken, || secs(0)), None);
    }

    #[test]
    fn a_machine_that_slept_is_told_at_the_first_turn() {
        let start = Instant::now();
        let mut watch = SleepWatch::new(start, secs(3));
        watch.note_deadline(start + secs(10));
        assert_eq!(watch.poll(start + secs(2), || secs(3 + 3_600)), Some(secs(3_600)));
        watch.note_deadline(start + secs(10));
        assert_eq!(watch.poll(start + secs(4), || secs(3 + 3_600)), None);
    }

    #[test]
    fn a_clock_set_back_is_no_sleep() {
        let start = Instant::now();
        let mut watch = SleepWatch::new(start, secs(3_600));
        watch.note_deadline(start + secs(10));
        assert_eq!(watch.poll(start + secs(2), || secs(0)), None);
    }
}
