//! How many connections may be there without having registered (S-31), pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Connections that have not registered yet, in all.
const MAX_UNREGISTERED: usize = 64;

/// The same from one address.
const MAX_UNREGISTERED_PER_ADDRESS: usize = 8;

const MINUTE: Duration = Duration::from_secs(60);

/// Counts who knocks.
#[derive(Debug, Default)]
pub(super) struct Limits {
    unregistered: BTreeMap<IpAddr, usize>,
    total: usize,
    turned_away: u64,
    last_log: Option<Instant>,
}

impl Limits {
    /// A connection came; `false` when there are too many that did not register.
    pub(super) fn enter(&mut self, from: IpAddr) -> bool {
        let count = self.unregistered.get(&from).copied().unwrap_or(0);
        if self.total >= MAX_UNREGISTERED || count >= MAX_UNREGISTERED_PER_ADDRESS {
            self.turned_away = self.turned_away.saturating_add(1);
            return false;
        }
        self.total += 1;
        *self.unregistered.entry(from).or_default() += 1;
        true
    }

    /// It registered, or ended without.
    pub(super) fn leave(&mut self, from: IpAddr) {
        if let Some(count) = self.unregistered.get_mut(&from) {
            *count -= 1;
            self.total = self.total.saturating_sub(1);
            if *count == 0 {
                self.unregistered.remove(&from);
            }
        }
    }

    /// How many were turned away, once a minute at most.
    pub(super) fn count_to_log(&mut self, now: Instant) -> Option<u64> {
        if self.turned_away == 0 || self.last_log.is_some_and(|at| now.duration_since(at) < MINUTE) {
            return None;
        }
        self.last_log = Some(now);
        Some(std::mem::take(&mut self.turned_away))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_all_places() {
        let now = Instant::now();
        let mut limits = Limits::default();
        let address = |n: u8| IpAddr::from([10, 0, 0, n]);
        for _ in 0..8 {
            assert!(limits.enter(address(1)));
        }
        assert!(!limits.enter(address(1)));
        assert!(limits.enter(address(2)));
        limits.leave(address(1));
        assert!(limits.enter(address(1)));
        assert_eq!(limits.count_to_log(now), Some(1));
        assert!(!limits.enter(address(1)));
        assert_eq!(limits.count_to_log(now), None);
        assert_eq!(limits.count_to_log(now + MINUTE), Some(1));
    }

    #[test]
    fn all_addresses_together_are_bounded() {
        let mut limits = Limits::default();
        let entered = (0..20)
            .flat_map(|n| [n; 8])
            .filter(|n| limits.enter([10, 0, 0, *n].into()))
            .count();
        assert_eq!(entered, MAX_UNREGISTERED);
    }
}
