//! [`PathMtu`]: the largest packet that a direct path to a peer carries, found by padded pings.
//!
//! Beside [`PathAgent`](super::agent::PathAgent), which decides where data goes, this decides how large it may be. A path
//! starts with what every path must carry and is raised by proof alone: a ping of the size in question that was answered.
//! Only nodes of ours are asked, since stock peers send and expect the smallest size (docs/PROTOCOLS.md). Sizes are those
//! of the packets inside the tunnel.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::agent::TxId;

/// What every path carries, or it is no path.
pub(crate) const BASE: usize = 1_280;
/// Sizes that are tried, upwards: PPPoE and IPv6 underlays, plain Ethernet, jumbo frames.
const STEPS: [usize; 3] = [1_360, 1_420, 8_900];
/// A size is given up after so many unanswered pings.
const TRIES: u32 = 3;
/// Time between them.
const TRY_AFTER: Duration = Duration::from_millis(300);
/// What is proven is looked at again after this, while there is traffic: a path may have become narrower and swallow what
/// is too large for it without a word.
const RENEW: Duration = Duration::from_secs(5);
/// The path answered nothing at all: its size is looked at again after this.
const SILENT: Duration = Duration::from_secs(1);
/// A path that carried something so lately is in use; the size of another one is nobody's concern.
const USED: Duration = Duration::from_secs(5);
/// What was not answered is tried again after this.
const RETRY: Duration = Duration::from_secs(600);

/// A ping to send: padded so that its datagram is as large as that of a full packet of `inner` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MtuProbe {
    pub(crate) to: SocketAddr,
    pub(crate) tx: TxId,
    pub(crate) inner: usize,
}

#[derive(Debug)]
struct Trial {
    inner: usize,
    tries: u32,
    tx: Option<TxId>,
    due: Instant,
    begun: Instant,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct PathMtu {
    ceiling: usize,
    proven: usize,
    path: Option<SocketAddr>,
    /// Elsewhere, since most peers have none.
    trial: Option<Box<Trial>>,
    renew: Option<Instant>,
    /// Sizes above the proven one are left alone until then.
    above: Option<Instant>,
}

impl PathMtu {
    /// Nothing proven; never more than `ceiling`, which is what the device takes.
    pub(crate) const fn new(ceiling: usize) -> Self {
        Self {
            ceiling,
            proven: BASE,
            path: None,
            trial: None,
            renew: None,
            above: None,
        }
    }

    /// The largest packet that may be sent.
    pub(crate) fn inner(&self) -> usize {
        self.proven.min(self.ceiling.max(BASE))
    }

    /// The direct path is this one now, or there is none: then packets go by relay, which carries any size.
    pub(crate) fn set_path(&mut self, path: Option<SocketAddr>, now: Instant) {
        if self.path == path {
            return;
        }
        self.path = path;
        self.trial = None;
        self.renew = None;
        self.above = None;
        if path.is_some() {
            self.proven = BASE;
            self.try_above(BASE, now);
        }
    }

    /// The kernel says that the datagram of a packet of `inner` bytes was too large for the path. That of a probe may be.
    pub(crate) fn handle_too_big(&mut self, inner: usize, now: Instant) {
        if inner > self.proven {
            return;
        }
        self.give_up(now);
    }

    /// A pong to one of our probes; false when it answers something else.
    pub(crate) fn handle_pong(&mut self, tx: &TxId, now: Instant) -> bool {
        let Some(trial) = self.trial.take_if(|trial| trial.tx.as_ref() == Some(tx)) else {
            return false;
        };
        self.proven = self.proven.max(trial.inner);
        self.try_above(trial.inner, now);
        true
    }

    /// The probe that is due. `alive` is when the path last carried anything small: what answers nothing at all says
    /// nothing of sizes.
    pub(crate) fn poll_probe(
        &mut self,
        alive: Option<Instant>,
        now: Instant,
        new_tx: fn() -> TxId,
    ) -> Option<MtuProbe> {
        let to = self.path?;
        let used = alive.is_some_and(|alive| now.saturating_duration_since(alive) < USED);
        if used && self.renew.is_some_and(|at| at <= now) {
            self.renew = None;
            // From the proven size on, so that a path that has become narrower is noticed.
            if self.proven > BASE {
                self.begin(self.proven, now);
            } else {
                self.try_above(BASE, now);
            }
        }
        let trial = self.trial.as_mut().filter(|trial| trial.due <= now)?;
        if trial.tries >= TRIES {
            if trial.inner <= self.proven && alive.is_none_or(|alive| alive < trial.begun) {
                self.trial = None;
                self.renew = Some(now + SILENT);
            } else if trial.inner <= self.proven {
                self.give_up(now);
            } else {
                self.trial = None;
                self.above = Some(now + RETRY);
                self.renew = Some(now + self.pause());
            }
            return None;
        }
        let tx = new_tx();
        trial.tries += 1;
        trial.tx = Some(tx);
        trial.due = now + TRY_AFTER;
        Some(MtuProbe {
            to,
            tx,
            inner: trial.inner,
        })
    }

    /// When [`Self::poll_probe`] is wanted next. A renewal is no reason to wake: the next packet brings it about.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.trial.as_ref().map(|trial| trial.due)
    }

    fn try_above(&mut self, inner: usize, now: Instant) {
        if self.above.is_some_and(|at| at > now) {
            self.renew = Some(now + self.pause());
            return;
        }
        let ceiling = self.ceiling;
        match STEPS.iter().find(|step| **step > inner && **step <= ceiling) {
            Some(step) => self.begin(*step, now),
            None => self.renew = Some(now + self.pause()),
        }
    }

    /// Back to what every path carries.
    fn give_up(&mut self, now: Instant) {
        self.proven = BASE;
        self.trial = None;
        self.above = Some(now + RETRY);
        self.renew = self.path.map(|_| now + RETRY);
    }

    fn pause(&self) -> Duration {
        if self.proven > BASE { RENEW } else { RETRY }
    }

    fn begin(&mut self, inner: usize, now: Instant) {
        self.trial = Some(Box::new(Trial {
            inner,
            tries: 0,
            tx: None,
            due: now,
            begun: now,
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn new_tx() -> TxId {
        crate::engine::new_tx()
    }

    /// Plays a path that carries packets up to `limit` for an hour.
    fn play(mtu: &mut PathMtu, limit: usize, start: Instant) -> (Instant, usize) {
        let (mut now, mut sent) = (start, 0);
        while now < start + Duration::from_secs(3_600) {
            now = mtu.poll_timeout().unwrap_or(now + Duration::from_secs(1)).max(now);
            if let Some(probe) = mtu.poll_probe(Some(now), now, new_tx) {
                sent += 1;
                if probe.inner <= limit {
                    assert!(mtu.handle_pong(&probe.tx, now));
                    assert!(!mtu.handle_pong(&probe.tx, now), "a pong counts once");
                }
            }
        }
        (now, sent)
    }

    #[test]
    fn a_path_is_raised_to_what_it_carries_and_no_further() {
        for (ceiling, limit, expected) in [
            (1_420, 1_420, 1_420),
            (1_420, 1_300, BASE),
            (1_420, 1_400, 1_360),
            (1_280, 9_000, BASE),
            (8_900, 9_000, 8_900),
            (8_900, 1_500, 1_420),
        ] {
            let mut mtu = PathMtu::new(ceiling);
            let now = Instant::now();
            mtu.set_path(Some(addr(1)), now);
            let (_, sent) = play(&mut mtu, limit, now);
            assert_eq!(mtu.inner(), expected, "ceiling {ceiling}, path {limit}");
            assert!(sent < 800, "{sent} probes in an hour");
        }
    }

    #[test]
    fn a_black_hole_is_left_within_seven_seconds_and_silence_is_none() {
        let mut mtu = PathMtu::new(1_420);
        let start = Instant::now();
        mtu.set_path(Some(addr(1)), start);
        let (mut now, _) = play(&mut mtu, 1_420, start);
        for alive in [false, true] {
            let start = now;
            // Nothing large comes through from here on.
            while now < start + Duration::from_secs(7) {
                let small = if alive { now } else { start };
                mtu.poll_probe(Some(small), now, new_tx);
                now += Duration::from_millis(50);
            }
            assert_eq!(mtu.inner(), if alive { BASE } else { 1_420 });
        }
    }

    #[test]
    fn a_narrower_or_another_path_starts_over() {
        let mut mtu = PathMtu::new(1_420);
        let now = Instant::now();
        mtu.set_path(Some(addr(1)), now);
        let (now, _) = play(&mut mtu, 1_420, now);
        assert_eq!(mtu.inner(), 1_420);
        let (now, _) = play(&mut mtu, BASE, now);
        assert_eq!(mtu.inner(), BASE, "noticed at the next look");
        let (now, _) = play(&mut mtu, 1_420, now);
        assert_eq!(mtu.inner(), 1_420);
        mtu.set_path(None, now);
        assert_eq!(mtu.inner(), 1_420, "a relay carries any size");
        assert_eq!(mtu.poll_timeout(), None);
        mtu.set_path(Some(addr(2)), now);
        assert_eq!(mtu.inner(), BASE);
        let (now, _) = play(&mut mtu, 1_420, now);
        mtu.handle_too_big(8_900, now);
        assert_eq!(mtu.inner(), 1_420, "that was a probe");
        mtu.handle_too_big(1_420, now);
        assert_eq!(mtu.inner(), BASE);
    }
}
