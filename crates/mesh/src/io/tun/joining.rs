//! [`Joining`]: whether super-packets of one protocol are given to the kernel, which may refuse a single one or all.
//!
//! One that is refused goes packet by packet, and says nothing of the next. Where the next is refused too, none is tried
//! for a while, which doubles up to a minute, so that a kernel that takes none costs little and one that does is found out.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// The first pause, and the longest.
const PAUSES: [u64; 2] = [1_000, 64_000];

/// See the module's text. Times are those since the device was opened.
#[derive(Debug)]
pub(super) struct Joining {
    able: bool,
    /// Super-packets refused in a row.
    refused: AtomicU32,
    /// Milliseconds until none is tried.
    until: AtomicU64,
}

impl Joining {
    /// For a kernel that says whether it is able at all.
    pub(super) fn new(able: bool) -> Self {
        Self {
            able,
            refused: AtomicU32::new(0),
            until: AtomicU64::new(0),
        }
    }

    /// True when a super-packet may be tried.
    pub(super) fn is_welcome(&self, age: impl FnOnce() -> Duration) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        self.able && (until == 0 || millis(age()) >= until)
    }

    /// The kernel has taken one.
    pub(super) fn accepted(&self) {
        if self.refused.load(Ordering::Relaxed) != 0 {
            self.refused.store(0, Ordering::Relaxed);
            self.until.store(0, Ordering::Relaxed);
        }
    }

    /// The kernel has refused one. The pause that begins, if one does.
    pub(super) fn refused(&self, age: Duration) -> Option<Duration> {
        let before = self.refused.fetch_add(1, Ordering::Relaxed);
        let doublings = before.checked_sub(1)?;
        let pause = (PAUSES[0] << doublings.min(16)).min(PAUSES[1]);
        self.until.store(millis(age) + pause, Ordering::Relaxed);
        Some(Duration::from_millis(pause))
    }
}

fn millis(age: Duration) -> u64 {
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_refusal_says_nothing_of_the_next() {
        let joining = Joining::new(true);
        let age = Duration::from_secs(5);
        for _ in 0..10 {
            assert_eq!(joining.refused(age), None);
            assert!(joining.is_welcome(|| age));
            joining.accepted();
        }
    }

    #[test]
    fn a_kernel_that_takes_none_is_asked_ever_less_and_never_given_up() {
        let joining = Joining::new(true);
        let mut age = Duration::from_secs(5);
        assert_eq!(joining.refused(age), None);
        for expected in [1, 2, 4, 8, 16, 32, 64, 64, 64] {
            let pause = joining.refused(age).unwrap();
            assert_eq!(pause, Duration::from_secs(expected));
            assert!(!joining.is_welcome(|| age + pause - Duration::from_millis(1)));
            age += pause;
            assert!(joining.is_welcome(|| age));
        }
        for _ in 0..100 {
            assert_eq!(joining.refused(age), Some(Duration::from_secs(64)));
        }
        joining.accepted();
        assert!(
            joining.is_welcome(|| age) && joining.refused(age).is_none(),
            "all is forgotten"
        );
    }

    #[test]
    fn a_kernel_that_is_not_able_is_never_asked() {
        assert!(!Joining::new(false).is_welcome(Duration::default));
    }
}
