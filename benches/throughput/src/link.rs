//! The emulated link: what becomes of a packet that enters it. Pure; `link-box` is the shell around it.

use std::time::{Duration, Instant};

/// How one link behaves, each way alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinkConfig {
    /// Bits a second; 0 for no limit.
    pub bits_per_second: f64,
    /// From the end of sending to arrival.
    pub delay: Duration,
    /// How long a packet may wait for its turn before it is dropped at the tail.
    pub buffer: Duration,
    /// Share of the packets that are lost by chance.
    pub loss: f64,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It arrives then.
    Arrives(Instant),
    /// The buffer was full.
    Dropped,
    /// Chance.
    Lost,
}

/// One direction of a link.
#[derive(Debug)]
pub struct Shaper {
    config: LinkConfig,
    random: u64,
    /// When the last packet that was taken will have been sent.
    busy_until: Option<Instant>,
}

impl Shaper {
    /// An idle one; the same seed loses the same packets.
    #[must_use]
    pub fn new(config: &LinkConfig, seed: u64) -> Self {
        Self {
            config: *config,
            random: seed,
            busy_until: None,
        }
    }

    /// Takes a packet of `length` bytes.
    pub fn pass(&mut self, now: Instant, length: usize) -> Fate {
        let begins = self.busy_until.map_or(now, |busy| busy.max(now));
        if begins.duration_since(now) > self.config.buffer {
            return Fate::Dropped;
        }
        let sending = if self.config.bits_per_second > 0.0 {
            Duration::from_secs_f64(length as f64 * 8.0 / self.config.bits_per_second)
        } else {
            Duration::ZERO
        };
        // What is lost by chance has used its time on the wire all the same.
        let sent = begins + sending;
        self.busy_until = Some(sent);
        if self.chance() < self.config.loss {
            return Fate::Lost;
        }
        Fate::Arrives(sent + self.config.delay)
    }

    /// Between 0 and 1, by SplitMix64.
    fn chance(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.random;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) as f64 / u64::MAX as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: LinkConfig = LinkConfig {
        bits_per_second: 1e9,
        delay: Duration::from_millis(10),
        buffer: Duration::from_millis(20),
        loss: 0.0,
    };

    #[test]
    fn packets_queue_up_at_the_rate_and_fall_at_the_tail() {
        let (mut shaper, now) = (Shaper::new(&LINK, 1), Instant::now());
        let one = Duration::from_micros(10);
        assert_eq!(shaper.pass(now, 1250), Fate::Arrives(now + one + LINK.delay));
        assert_eq!(shaper.pass(now, 1250), Fate::Arrives(now + one * 2 + LINK.delay));
        let passed = (0..10_000).filter(|_| shaper.pass(now, 1250) != Fate::Dropped).count();
        assert_eq!(passed, 2001 - 2);
        assert_eq!(
            shaper.pass(now + Duration::from_secs(1), 1250),
            Fate::Arrives(now + Duration::from_secs(1) + one + LINK.delay)
        );
    }

    #[test]
    fn as_many_are_lost_as_asked_for_and_the_same_again() {
        let config = LinkConfig {
            bits_per_second: 0.0,
            loss: 0.01,
            ..LINK
        };
        let now = Instant::now();
        let lost = |seed| {
            let mut shaper = Shaper::new(&config, seed);
            let fates: Vec<bool> = (0..100_000).map(|_| shaper.pass(now, 1500) == Fate::Lost).collect();
            fates
        };
        let count = lost(7).iter().filter(|lost| **lost).count();
        assert!((800..1200).contains(&count), "{count}");
        assert_eq!(lost(7), lost(7));
    }
}
