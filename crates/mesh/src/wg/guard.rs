//! [`HandshakeGuard`]: what a handshake message must pass before a Diffie-Hellman is spent on it (S-17).
//!
//! ```text
//!  mac1 right? -> calm, or cookie right? -> source within its limit? -> budget left? -> tunnel
//!    silence        cookie reply              silence                     queue, oldest first; silence when full
//! ```
//!
//! mac1 is right only for somebody who knows our public key. Cookies are asked for when handshakes arrive faster than
//! [`CALM_RATE`] or wait; they prove address and port. A limit for each source keeps one from using up what the others
//! need. The budget is what all handshakes together may cost: a fifth of one core.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use sandd_noise::x25519::PublicKey;
use sandd_noise::{COOKIE_REPLY_SZ, CookieChecker};

/// Handshake messages a second, of all sources, from which on cookies are asked for.
const CALM_RATE: u32 = 100;
/// How long cookies are asked for after that rate.
const LOAD_LASTS: Duration = Duration::from_secs(1);
/// Messages that one source may send a second, and at once. A source is an IPv4 address or an IPv6 /64.
const SOURCE: Rate = Rate {
    a_second: 20.0,
    at_once: 40.0,
};
/// Handshakes that are worked on in a second, and at once: each costs up to four Diffie-Hellmans, 0.2 ms on a slow core.
const BUDGET: Rate = Rate {
    a_second: 1_000.0,
    at_once: 50.0,
};
/// Sources remembered; when full, the refilled ones are forgotten.
const MAX_SOURCES: usize = 4_096;
/// Messages that wait for the budget.
const MAX_QUEUED: usize = 1_024;
/// So many waiting are load.
const MANY_QUEUED: usize = MAX_QUEUED / 8;
/// Least distance of two looks at all sources for refilled ones.
const SWEEP_PAUSE: Duration = Duration::from_millis(100);

/// What to do with a handshake message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Hand it to the tunnel.
    Admit,
    /// Send this cookie reply to where it came from, and nothing else.
    Cookie([u8; COOKIE_REPLY_SZ]),
    /// Nothing now: it waits here until [`HandshakeGuard::next`] gives it.
    Queued,
    /// Silence.
    Refuse,
}

/// See the module's text. `F` says where a message that waits came from.
pub(crate) struct HandshakeGuard<F> {
    checker: CookieChecker,
    sources: HashMap<IpAddr, Bucket>,
    swept: Option<Instant>,
    budget: Option<Bucket>,
    queue: VecDeque<(F, Vec<u8>)>,
    load: Load,
}

impl<F> HandshakeGuard<F> {
    /// A guard for the node with this public key.
    pub(crate) fn new(public: &PublicKey) -> Self {
        Self {
            checker: CookieChecker::new(public),
            sources: HashMap::new(),
            swept: None,
            budget: None,
            queue: VecDeque::new(),
            load: Load::default(),
        }
    }

    /// Judges a datagram of type 1 or 2. `source` is what limits and cookies go by, `from` is kept with it if it waits.
    pub(crate) fn admit(&mut self, from: F, source: SocketAddr, datagram: &[u8], now: Instant) -> Admission {
        if !self.checker.check_mac1(datagram) {
            return Admission::Refuse;
        }
        let loaded = self.load.count(now) || self.queue.len() >= MANY_QUEUED;
        if loaded && !self.checker.check_mac2(datagram, source, now) {
            return match self.checker.reply(datagram, source, now) {
                Ok(reply) => Admission::Cookie(reply),
                Err(_) => Admission::Refuse,
            };
        }
        if !self.take_from_source(source.ip(), now) {
            return Admission::Refuse;
        }
        if self.queue.is_empty() && self.take_from_budget(now) {
            return Admission::Admit;
        }
        if self.queue.len() >= MAX_QUEUED {
            return Admission::Refuse;
        }
        self.queue.push_back((from, datagram.to_vec()));
        Admission::Queued
    }

    /// The oldest message that waits, when the budget has room for it.
    pub(crate) fn next(&mut self, now: Instant) -> Option<(F, Vec<u8>)> {
        if self.queue.is_empty() || !self.take_from_budget(now) {
            return None;
        }
        self.queue.pop_front()
    }

    /// When [`Self::next`] has something.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let budget = self.budget.as_ref().filter(|_| !self.queue.is_empty())?;
        Some(budget.ready_at(&BUDGET))
    }

    fn take_from_budget(&mut self, now: Instant) -> bool {
        self.budget.get_or_insert(Bucket::full(&BUDGET, now)).take(&BUDGET, now)
    }

    fn take_from_source(&mut self, source: IpAddr, now: Instant) -> bool {
        let source = network_of(source);
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&source) {
            let lately = |at| now.saturating_duration_since(at) < SWEEP_PAUSE;
            if self.swept.is_some_and(lately) {
                return false;
            }
            self.swept = Some(now);
            self.sources.retain(|_, bucket| !bucket.is_full(&SOURCE, now));
            if self.sources.len() >= MAX_SOURCES {
                return false;
            }
        }
        let fresh = || Bucket::full(&SOURCE, now);
        self.sources.entry(source).or_insert_with(fresh).take(&SOURCE, now)
    }
}

impl<F> std::fmt::Debug for HandshakeGuard<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HandshakeGuard({} sources)", self.sources.len())
    }
}

/// Whether handshakes arrive fast.
#[derive(Default)]
struct Load {
    second: Option<Instant>,
    count: u32,
    until: Option<Instant>,
}

impl Load {
    /// Counts a message; true under load.
    fn count(&mut self, now: Instant) -> bool {
        let over = |since: Instant| now.saturating_duration_since(since) >= Duration::from_secs(1);
        if self.second.is_none_or(over) {
            self.second = Some(now);
            self.count = 0;
        }
        self.count = self.count.saturating_add(1);
        if self.count > CALM_RATE {
            self.until = Some(now + LOAD_LASTS);
        }
        self.until.is_some_and(|until| now < until)
    }
}

struct Rate {
    a_second: f64,
    at_once: f64,
}

/// Tokens that come back with time.
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn full(rate: &Rate, now: Instant) -> Self {
        Self {
            tokens: rate.at_once,
            filled: now,
        }
    }

    fn take(&mut self, rate: &Rate, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * rate.a_second;
        self.tokens = (self.tokens + gained).min(rate.at_once);
        self.filled = self.filled.max(now);
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }

    fn is_full(&self, rate: &Rate, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * rate.a_second;
        self.tokens + gained >= rate.at_once
    }

    /// When the next token is there, a little late rather than early.
    fn ready_at(&self, rate: &Rate) -> Instant {
        let missing = (1.0 - self.tokens).max(0.0) / rate.a_second;
        self.filled + Duration::from_secs_f64(missing) + Duration::from_micros(1)
    }
}

/// What one customer of a provider has: an IPv4 address, an IPv6 /64.
fn network_of(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests;
