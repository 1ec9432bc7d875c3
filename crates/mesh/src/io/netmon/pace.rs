//! [`Pace`]: when to look at the network after news of it. The first news act at once; what follows is gathered, over
//! pauses that grow to a second, so that neither a change told in many pieces nor an interface that flaps for hours
//! costs more than it is worth.

use std::time::{Duration, Instant};

/// A change of address is told in several pieces, milliseconds apart: the last one must not wait for the second.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(1_000),
];
/// After so much quiet the next news are first ones again.
const CALM_AFTER: Duration = Duration::from_secs(2);

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Pace {
    due: Option<Instant>,
    /// The last look, and how many went before it in this row.
    last: Option<(Instant, usize)>,
}

impl Pace {
    /// There are news.
    pub(super) fn note(&mut self, now: Instant) {
        if self.due.is_some() {
            return;
        }
        let at = match self.last {
            Some((last, row)) => {
                let pause = PAUSES.get(row).or(PAUSES.last()).copied().unwrap_or_default();
                (last + pause).max(now)
            }
            None => now,
        };
        self.due = Some(at);
    }

    /// True while news wait to be looked into.
    pub(super) fn is_waiting(&self) -> bool {
        self.due.is_some()
    }

    /// When [`Self::take_due`] is wanted.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// True once when it is time to look.
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        if self.due.is_none_or(|due| now < due) {
            return false;
        }
        self.due = None;
        let row = match self.last {
            Some((last, row)) if now.saturating_duration_since(last) < CALM_AFTER => row + 1,
            Some(_) | None => 0,
        };
        self.last = Some((now, row));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// News every millisecond from `from` to `to`; gives the times of the looks in milliseconds after the start.
    fn looks(pace: &mut Pace, start: Instant, from: u64, to: u64) -> Vec<u64> {
        let mut looks = Vec::new();
        for millis in from..to {
            let now = start + Duration::from_millis(millis);
            pace.note(now);
            if pace.take_due(now) {
                looks.push(millis);
            }
        }
        looks
    }

    #[test]
    fn the_first_news_act_at_once() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert_eq!(pace.poll_timeout(), None);
        assert!(!pace.take_due(now), "nothing has happened");
        pace.note(now);
        assert_eq!(pace.poll_timeout(), Some(now));
        assert!(pace.take_due(now));
        assert!(!pace.take_due(now), "once");
        assert!(!pace.is_waiting());
    }

    #[test]
    fn a_flood_is_looked_at_once_a_second_in_the_end() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let looks = looks(&mut pace, start, 0, 10_000);
        assert_eq!(looks[..6], [0, 50, 150, 350, 750, 1_750]);
        assert_eq!(looks[6..], [2_750, 3_750, 4_750, 5_750, 6_750, 7_750, 8_750, 9_750]);
    }

    #[test]
    fn the_second_piece_of_a_change_waits_for_a_blink_only() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        pace.note(start);
        assert!(pace.take_due(start));
        let second = start + Duration::from_millis(20);
        pace.note(second);
        pace.note(second + Duration::from_millis(1));
        assert!(!pace.take_due(second));
        assert!(pace.take_due(start + Duration::from_millis(50)));
        assert_eq!(pace.poll_timeout(), None);
    }

    #[test]
    fn after_quiet_the_next_news_are_first_ones() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        looks(&mut pace, start, 0, 2_000);
        let later = 2_750 + 2_000;
        assert!(pace.take_due(start + Duration::from_millis(2_750)), "noted before");
        assert_eq!(looks(&mut pace, start, later, later + 60), [later, later + 50]);
    }
}
