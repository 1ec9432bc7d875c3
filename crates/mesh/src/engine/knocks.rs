//! [`Knocks`]: node keys nobody told us of that send packets over a relay. A relay lets members in alone, so a knock means
//! that a peer was faster than its entry in our map, or that the coordinator never sent us the entry.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use sandd_control_client::keys::NodePublicKey;
use sandd_control_client::netmap::RegionId;

/// Keys remembered.
const MAX_KNOCKS: usize = 64;
/// A knock counts for so long.
const LIFETIME: Duration = Duration::from_secs(15);
/// Who still knocks after this is missing in our map.
const MISSING_AFTER: Duration = Duration::from_secs(6);
/// Between two whole maps asked for because of knocks, doubling up to the last.
const ASK_GAP: Duration = Duration::from_secs(60);
const ASK_GAP_MOST: Duration = Duration::from_secs(3_600);

#[derive(Debug)]
struct Knock {
    key: NodePublicKey,
    region: RegionId,
    first: Instant,
    last: Instant,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Knocks {
    all: VecDeque<Knock>,
    /// Not before this is a whole map asked for again, and the pause after the next one.
    next_ask: Option<(Instant, Duration)>,
}

impl Knocks {
    /// Somebody unknown knocked. True when the map is to be asked for anew.
    pub(super) fn note(&mut self, key: NodePublicKey, region: RegionId, now: Instant) -> bool {
        self.all
            .retain(|knock| now.saturating_duration_since(knock.last) < LIFETIME);
        let known = self.all.iter_mut().find(|knock| knock.key == key);
        let first = if let Some(knock) = known {
            knock.region = region;
            knock.last = now;
            knock.first
        } else {
            if self.all.len() >= MAX_KNOCKS {
                self.all.pop_front();
            }
            self.all.push_back(Knock {
                key,
                region,
                first: now,
                last: now,
            });
            now
        };
        let (from, gap) = self.next_ask.unwrap_or((now, ASK_GAP));
        let ask = now.saturating_duration_since(first) >= MISSING_AFTER && now >= from;
        if ask {
            self.next_ask = Some((now + gap, (gap * 2).min(ASK_GAP_MOST)));
        }
        ask
    }

    /// The region a peer knocked at lately, now that it is known.
    pub(super) fn take(&mut self, key: &NodePublicKey, now: Instant) -> Option<RegionId> {
        let at = self.all.iter().position(|knock| knock.key == *key)?;
        let knock = self.all.remove(at)?;
        (now.saturating_duration_since(knock.last) < LIFETIME).then_some(knock.region)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_keeps_knocking_is_asked_for_and_not_all_the_time() {
        let mut knocks = Knocks::default();
        let (key, region) = (NodePublicKey::from_bytes([7; 32]), RegionId(9));
        let start = Instant::now();
        let asked: Vec<u64> = (0..1_000u64)
            .map(|step| step * 5)
            .filter(|at| knocks.note(key, region, start + Duration::from_secs(*at)))
            .collect();
        assert_eq!(asked, [10, 70, 190, 430, 910, 1_870, 3_790]);
        assert_eq!(knocks.take(&key, start + Duration::from_secs(5_000)), Some(region));
        assert_eq!(knocks.take(&key, start + Duration::from_secs(5_000)), None);
    }

    #[test]
    fn a_peer_that_was_only_faster_than_its_entry_asks_for_nothing() {
        let mut knocks = Knocks::default();
        let start = Instant::now();
        for number in 0..200u8 {
            let key = NodePublicKey::from_bytes([number; 32]);
            for millis in [0, 400, 5_000] {
                assert!(!knocks.note(key, RegionId(1), start + Duration::from_millis(millis)));
            }
        }
        assert!(knocks.all.len() <= MAX_KNOCKS);
    }
}
