//! [`TokenBucket`]: the rate that a relay asks its clients to keep. What does not fit is dropped rather than kept waiting.

use std::time::Instant;

use crate::derp::ServerInfo;

#[derive(Debug)]
pub(super) struct TokenBucket {
    per_second: f64,
    burst: f64,
    level: f64,
    filled: Instant,
}

impl TokenBucket {
    /// Nothing when the relay asks for no limit.
    pub(super) fn new(info: &ServerInfo, now: Instant) -> Option<Self> {
        if info.bytes_per_second == 0 || info.bytes_burst == 0 {
            return None;
        }
        let burst = info.bytes_burst as f64;
        Some(Self {
            per_second: info.bytes_per_second as f64,
            burst,
            level: burst,
            filled: now,
        })
    }

    /// Whether a frame of so many bytes may go now.
    pub(super) fn take(&mut self, bytes: usize, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.level = (self.level + passed * self.per_second).min(self.burst);
        self.filled = now;
        let fits = bytes as f64 <= self.level;
        if fits {
            self.level -= bytes as f64;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_burst_goes_at_once_and_then_the_rate() {
        let now = Instant::now();
        let info = ServerInfo {
            version: 2,
            bytes_per_second: 1_000,
            bytes_burst: 3_000,
        };
        let mut bucket = TokenBucket::new(&info, now).unwrap();
        assert!(bucket.take(2_000, now));
        assert!(bucket.take(1_000, now));
        assert!(!bucket.take(1, now));
        let later = now + Duration::from_millis(500);
        assert!(!bucket.take(501, later));
        assert!(bucket.take(500, later));
        let much_later = now + Duration::from_secs(3_600);
        assert!(!bucket.take(3_001, much_later), "the burst does not grow");
        assert!(bucket.take(3_000, much_later));
    }

    #[test]
    fn no_limit_is_none() {
        let now = Instant::now();
        assert!(TokenBucket::new(&ServerInfo::current(), now).is_none());
        let half = ServerInfo {
            bytes_per_second: 5,
            ..ServerInfo::current()
        };
        assert!(TokenBucket::new(&half, now).is_none());
    }
}
