//! [`HandshakeGuard`]: what a handshake message must pass before a Diffie-Hellman is spent on it (S-17).
//!
//! First mac1, which only somebody who knows our public key can make; then the cookie once handshakes arrive faster
//! than [`CALM_RATE`]; then a bucket for each source, so that one source cannot use up what the others need.
//! boringtun's limiter counts all sources together, hence the bucket.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use boringtun::noise::TunnResult;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::x25519::PublicKey;

/// Handshake messages a second, of all sources, from which on cookies are asked for.
const CALM_RATE: u64 = 100;
/// Handshake messages a second of one source.
const SOURCE_RATE: f64 = 20.0;
/// Messages that one source may send at once.
const SOURCE_BURST: f64 = 40.0;
/// Sources remembered; when full, the refilled ones are forgotten.
const MAX_SOURCES: usize = 4_096;

/// What to do with a handshake message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Hand it to the tunnel.
    Admit,
    /// Send this cookie reply to where it came from, and nothing else.
    Cookie(Vec<u8>),
    /// Silence.
    Refuse,
}

/// See the module's text.
pub(crate) struct HandshakeGuard {
    limiter: RateLimiter,
    sources: HashMap<IpAddr, Bucket>,
}

struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl HandshakeGuard {
    /// A guard for the node with this public key.
    pub(crate) fn new(public: &PublicKey) -> Self {
        Self {
            limiter: RateLimiter::new(public, CALM_RATE),
            sources: HashMap::new(),
        }
    }

    /// Judges a datagram of type 1 or 2 that came from `source`.
    pub(crate) fn admit(&mut self, source: IpAddr, datagram: &[u8], now: Instant) -> Admission {
        self.limiter.reset_count();
        let mut reply = [0u8; 64];
        match self.limiter.verify_packet(Some(source), datagram, &mut reply) {
            Ok(_) => {}
            Err(TunnResult::WriteToNetwork(cookie)) => return Admission::Cookie(cookie.to_vec()),
            Err(_) => return Admission::Refuse,
        }
        if self.take_token(source, now) {
            Admission::Admit
        } else {
            Admission::Refuse
        }
    }

    fn take_token(&mut self, source: IpAddr, now: Instant) -> bool {
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&source) {
            let full_after = Duration::from_secs_f64(SOURCE_BURST / SOURCE_RATE);
            self.sources
                .retain(|_, bucket| now.saturating_duration_since(bucket.filled) < full_after);
            if self.sources.len() >= MAX_SOURCES {
                return false;
            }
        }
        let bucket = self.sources.entry(source).or_insert(Bucket {
            tokens: SOURCE_BURST,
            filled: now,
        });
        let gained = now.saturating_duration_since(bucket.filled).as_secs_f64() * SOURCE_RATE;
        bucket.tokens = (bucket.tokens + gained).min(SOURCE_BURST);
        bucket.filled = now;
        let enough = bucket.tokens >= 1.0;
        if enough {
            bucket.tokens -= 1.0;
        }
        enough
    }
}

impl std::fmt::Debug for HandshakeGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HandshakeGuard({} sources)", self.sources.len())
    }
}
