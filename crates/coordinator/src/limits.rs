//! [`Limits`]: how long and how many.

use std::time::Duration;

/// Limits for what nobody has vouched for, and for members that do not read. The defaults are right for a mesh of some
/// hundred nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// For each step before a client is known: first byte, TLS handshake, request head, relay login. 10 s.
    pub opening: Duration,
    /// Connections of clients that are no members (yet). 512.
    pub strangers: usize,
    /// Of these, from one address; many nodes may stand behind one. 128.
    pub strangers_per_address: usize,
    /// All connections. 8192.
    pub connections: usize,
    /// How long a node may leave a map message unread. 60 s.
    pub map_write: Duration,
    /// Silence on a map stream before a keep-alive, and up to a fifth more. 50 s.
    pub map_keep_alive: Duration,
    /// Between two HTTP/2 pings, which tell a node that has vanished. 30 s.
    pub ping: Duration,
    /// How long the answer to one may take. 20 s.
    pub pong: Duration,
    /// How long a relay client may leave what is written to it unread. 5 s.
    pub relay_write: Duration,
    /// Between keep-alives to a relay client, and up to a twelfth more. 60 s.
    pub relay_keep_alive: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            opening: seconds(10),
            strangers: 512,
            strangers_per_address: 128,
            connections: 8192,
            map_write: seconds(60),
            map_keep_alive: seconds(50),
            ping: seconds(30),
            pong: seconds(20),
            relay_write: seconds(5),
            relay_keep_alive: seconds(60),
        }
    }
}

/// `base` and up to `base / part` more, so that not all clients are spoken to at once.
pub(crate) fn with_jitter(base: Duration, part: u32) -> Duration {
    let mut byte = [0u8];
    // Without randomness all keep step, which is no harm.
    let _ = getrandom::fill(&mut byte);
    base + base / part * u32::from(byte[0]) / 256
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_adds_a_part_at_most() {
        for _ in 0..1000 {
            let interval = with_jitter(Duration::from_secs(50), 5);
            assert!((50..60).contains(&interval.as_secs()), "{interval:?}");
        }
    }
}
