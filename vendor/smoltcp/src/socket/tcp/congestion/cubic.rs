//! CUBIC (RFC 9438) with a slow start that ends before the queue overflows (HyStart++, RFC 9406).
//!
//! Unlike upstream's it counts octets: an acknowledgement of a whole super-packet grows the window
//! as those of its segments would. What happens during a recovery is the socket's affair.

use super::Acked;
use crate::time::{Duration, Instant};
use crate::wire::TcpSeqNumber;

// Constants for the Cubic congestion control algorithm.
// See RFC 9438.
const BETA_CUBIC: f64 = 0.7;
const C: f64 = 0.4;
// RFC 9438 §4.3: α_cubic = 3(1-β)/(1+β). ~0.5294 for β=0.7.
const ALPHA_CUBIC: f64 = 3.0 * (1.0 - BETA_CUBIC) / (1.0 + BETA_CUBIC);

const DEFAULT_MSS: usize = 1024;
/// RFC 6928.
const INITIAL_SEGMENTS: usize = 10;
/// No window needs to be larger than what any window field can say.
const MAX_WINDOW: usize = 1 << 30;

// Constants of HyStart++, RFC 9406 §4.3.
const MIN_RTT_THRESH: Duration = Duration::from_millis(4);
const MAX_RTT_THRESH: Duration = Duration::from_millis(16);
const MIN_RTT_DIVISOR: u32 = 8;
const N_RTT_SAMPLE: usize = 8;
const CSS_GROWTH_DIVISOR: usize = 4;
/// RFC 9406 has five; after a growth of a quarter in each of five, a queue as long as the path itself
/// has overflowed.
const CSS_ROUNDS: u32 = 2;

#[derive(Debug)]
pub struct Cubic {
    w_max: usize, // window size prior to loss
    cwnd: usize,
    mss: usize,
    ssthresh: usize,
    k: f64,            // cubic curve offset in seconds; depends only on w_max and mss
    w_est: f64,        // RFC 9438 §4.3 reno-friendly window, integrated per ACK
    cwnd_prior: usize, // cwnd at the most recent congestion event; gates α_cubic
    credit: f64,       // growth of less than an octet is not lost

    recovery_start: Option<Instant>,
    slow_start: SlowStart,
}

/// The rounds of HyStart++.
#[derive(Debug, Default)]
struct SlowStart {
    /// The round ends when this is acknowledged.
    round_end: Option<TcpSeqNumber>,
    last_min: Option<Duration>,
    current_min: Option<Duration>,
    /// Of the latest few samples: RFC 9406 takes those of a whole round, but what is sent evenly over
    /// a round fills the queue within it.
    recent_min: Option<Duration>,
    samples: usize,
    /// In conservative slow start: how many rounds of it passed.
    conservative: Option<u32>,
}

/// How fast the window is to grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    Full,
    Conservative,
    /// The queue fills: go over to congestion avoidance.
    Enough,
}

impl SlowStart {
    fn on_ack(&mut self, acked: &Acked, mss: usize) -> Pace {
        if let Some(rtt) = acked.rtt {
            self.current_min = Some(self.current_min.map_or(rtt, |min| min.min(rtt)));
            self.recent_min = Some(self.recent_min.map_or(rtt, |min| min.min(rtt)));
            // An acknowledgement of many segments tells as much as one of each would.
            self.samples += (acked.octets / mss.max(1)).max(1);
        }
        if self.samples >= N_RTT_SAMPLE
            && let Some(recent) = self.recent_min.take()
        {
            self.samples = 0;
            let is_delayed = self.last_min.is_some_and(|last| {
                let threshold = (last / MIN_RTT_DIVISOR).clamp(MIN_RTT_THRESH, MAX_RTT_THRESH);
                recent >= last + threshold
            });
            self.conservative = self.conservative.or(Some(0)).filter(|_| is_delayed);
        }
        let mut pace = match self.conservative {
            Some(_) => Pace::Conservative,
            None => Pace::Full,
        };
        if self.round_end.is_none_or(|end| acked.una >= end) {
            if let Some(rounds) = &mut self.conservative {
                *rounds += 1;
                if *rounds >= CSS_ROUNDS {
                    pace = Pace::Enough;
                }
            }
            self.round_end = Some(acked.nxt);
            // A queue that stays does not become the measure.
            self.last_min = [self.last_min, self.current_min]
                .into_iter()
                .flatten()
                .min();
            self.current_min = None;
        }
        pace
    }
}

impl Cubic {
    pub fn new() -> Cubic {
        let window = DEFAULT_MSS * INITIAL_SEGMENTS;
        let mut cubic = Cubic {
            w_max: window,
            cwnd: window,
            mss: DEFAULT_MSS,
            ssthresh: usize::MAX,
            k: 0.0,
            w_est: window as f64,
            cwnd_prior: window,
            credit: 0.0,
            recovery_start: None,
            slow_start: SlowStart::default(),
        };
        cubic.recompute_k();
        cubic
    }

    pub(super) fn window(&self) -> usize {
        self.cwnd
    }

    pub(super) fn threshold(&self) -> usize {
        self.ssthresh
    }

    pub(super) fn set_window(&mut self, window: usize) {
        self.cwnd = window.clamp(self.mss, MAX_WINDOW);
    }

    // K = cbrt(w_max * (1 - beta) / C) ^ 1/3
    fn recompute_k(&mut self) {
        let c_as_bytes = C * self.mss as f64;
        let k3 = (self.w_max as f64) * (1.0 - BETA_CUBIC) / c_as_bytes;
        self.k = cube_root(k3);
    }

    pub(super) fn on_ack(&mut self, acked: &Acked) {
        if acked.octets == 0 {
            return;
        }
        if self.cwnd < self.ssthresh {
            let pace = self.slow_start.on_ack(acked, self.mss);
            // RFC 7661: a window that is not used proves nothing.
            if !acked.limited {
                return;
            }
            match pace {
                Pace::Full => self.set_window(self.cwnd.saturating_add(acked.octets)),
                Pace::Conservative => {
                    self.set_window(self.cwnd.saturating_add(acked.octets / CSS_GROWTH_DIVISOR));
                }
                Pace::Enough => self.ssthresh = self.cwnd,
            }
            return;
        }
        if acked.limited {
            self.avoid_congestion(acked);
        } else if let Some(start) = self.recovery_start {
            // RFC 9438 §5.8: the time does not count in which the window was not used.
            self.recovery_start = Some((start + acked.srtt / 8).min(acked.now));
        }
    }

    // ca: RFC 9438 §4.2 and §4.3: Calculate W_cubic and W_est. Use whichever grows faster.
    fn avoid_congestion(&mut self, acked: &Acked) {
        let Acked { now, octets, .. } = *acked;
        let recovery_start = match self.recovery_start {
            Some(t) => t,
            None => {
                // RFC 9438 §4.8: set W_max = cwnd and K = 0 at start of CA
                self.w_max = self.cwnd;
                self.k = 0.0;
                self.w_est = self.cwnd as f64;
                self.recovery_start = Some(now);
                now
            }
        };

        // Elapsed time since the start of the recovery phase, in microseconds so the
        // cubic curve still advances between ACKs on sub-millisecond-RTT links.
        let t = now.total_micros() - recovery_start.total_micros();
        if t < 0 {
            return;
        }

        // RFC 9438 §4.3: use cubic function to get suggested cwnd.
        // W_cubic(t) = C(t - K)^3 + w_max, evaluated at the current time t.
        let c_as_bytes = C * self.mss as f64;
        let w_cubic = c_as_bytes * (t as f64 / 1_000_000.0 - self.k).powi(3) + self.w_max as f64;

        // RFC 9438 §4.3: advance our reno-like suggested cwnd.
        // When cwnd exceeds prior cwnd, change α_cubic to match Reno's AIMD.
        let w_est = {
            let alpha = if self.w_est >= self.cwnd_prior as f64 {
                1.0
            } else {
                ALPHA_CUBIC
            };

            self.w_est += alpha * self.mss as f64 * octets as f64 / self.cwnd as f64;
            self.w_est
        };

        // RFC 9438 §4.3: use the suggested window that grows fastest.
        if w_cubic < w_est {
            self.set_window((w_est as usize).max(self.cwnd));
            return;
        }

        // RFC 9438 §4.2: the congestion window target is W_cubic one RTT into the future.
        let w_cubic_target = {
            // A floor ensures that sub-ms RTTs don't ruin the lookahead.
            let srtt = acked.srtt.total_micros().max(1000);

            let t_ahead = (t as f64 + srtt as f64) / 1_000_000.0;
            let raw = c_as_bytes * (t_ahead - self.k).powi(3) + self.w_max as f64;
            raw.min(1.5 * self.cwnd as f64) // clamp to avoid increasing faster than slow-start would
        };

        let growth = (w_cubic_target - self.cwnd as f64).max(0.0) * octets as f64
            / self.cwnd as f64
            + self.credit;
        self.credit = growth.fract();
        self.set_window(self.cwnd.saturating_add(growth as usize));
    }

    pub(super) fn on_loss(&mut self, now: Instant) {
        // RFC 9438 §4.3: remember the cwnd at this congestion event so W_est can
        // detect when it has recovered and switch α_cubic to 1.
        self.cwnd_prior = self.cwnd;

        // RFC 9438 §4.7: Fast Convergence
        // If loss happened at a smaller cwnd than before, it indicates a new flow.
        // Reduce the cubic plateau more than usual to create headroom.
        self.w_max = if self.cwnd < self.w_max {
            ((self.cwnd as f64) * (1.0 + BETA_CUBIC) / 2.0) as usize
        } else {
            self.cwnd
        };

        self.ssthresh = ((self.cwnd as f64 * BETA_CUBIC) as usize).max(2 * self.mss);
        self.w_est = self.ssthresh as f64;
        self.recovery_start = Some(now);
        self.recompute_k();
    }

    pub(super) fn on_recovered(&mut self) {
        self.set_window(self.ssthresh);
    }

    pub(super) fn on_rto(&mut self, again: bool) {
        // RFC 5681: when the retransmission timer fires for a segment that has
        // already been retransmitted by the timer (no new data was ACKed since
        // the previous RTO), ssthresh is held constant.
        if !again {
            self.cwnd_prior = self.cwnd;
            self.ssthresh = ((self.cwnd as f64 * BETA_CUBIC) as usize).max(2 * self.mss);
        }
        self.cwnd = self.mss;

        // RFC 9438 §4.8: defer W_max and K reset to the start of the next CA stage.
        self.recovery_start = None;
        self.slow_start = SlowStart::default();
    }

    pub(super) fn on_restart(&mut self) {
        let restart = self.cwnd.min(self.mss * INITIAL_SEGMENTS);
        // What was reached before is a good place to be careful from.
        if self.ssthresh < usize::MAX {
            self.ssthresh = self.ssthresh.max(self.cwnd / 4 * 3);
        }
        self.cwnd = restart;
        self.recovery_start = None;
        self.slow_start = SlowStart::default();
    }

    pub(super) fn set_mss(&mut self, mss: usize) {
        self.mss = mss;
        if self.ssthresh == usize::MAX {
            self.cwnd = mss * INITIAL_SEGMENTS;
        }
        self.recompute_k();
    }
}

/// Efficient cube root using f64 bit tricks and Newton-Raphson.
///
/// a = mantissa * 2^e
///
/// cbrt(a) = cbrt(mantissa * 2^e)
/// cbrt(a) = cbrt(mantissa) * cbrt(2^e)
/// -> cbrt(2^e) = 2^(e/3)
///     -> e = 3q + r
///   -> 2^(e/3) = 2^(3q + r)
///   -> 2^(e/3) = 2^q * 2^(r/3)
/// cbrt(a) = cbrt(mantissa) * 2^q * 2^(r/3)
///
/// Floats are constructed from a mantissa and expontnet component.
/// Cbrt of a float can be achieved by cbrt of these two components.
///
/// The mantissa is always between 1 and 2, putting the cbrt between 1
/// and 1.2599. The slope of the curve between those two points is
/// almost a straight line, so a linear interpolatoin between those
/// two points gives an error less than 2%.
///
///
/// The exponent `e` of `2^e` has two parts, tt's quotient and remainder: `e = 3q + r`.
/// Which means cbrt `2^e` is cbrt `2^3q * 2^r` which becomes `2^q * 2^(r/3)`.
///
/// The remainder operation means `r` can only be 0, 1, or 2, so we can calaculate
/// `2^(r/3)` ahead of time.
///
/// Multiplying everything gets us a pretty close answer to the true cbrt.
/// `cbrt(a) = cbrt(mantissa) * 2^q * 2^(r/3)`
///
/// One or two Newton-Raphson iterations reduce any error enough not to matter.
fn cube_root(a: f64) -> f64 {
    if !(a >= f64::MIN_POSITIVE && a.is_finite()) {
        return 0.0;
    }

    const POW2_REM_OVER_3: [f64; 3] = [1.0, 1.2599210498948732, 1.5874010519681994];

    // decompose a into IEEE-754 components
    let bits = a.to_bits();

    // extract mantissa, get rough cbrt using linear interpolation
    let m = f64::from_bits((bits & 0x000F_FFFF_FFFF_FFFF) | 0x3FF0_0000_0000_0000);
    let cbrt_m = m.mul_add(0.2599, 0.7401);

    // extract exponent, break into quotient and remainder
    // e = 3q + r where r ∈ {0, 1, 2}
    let e = (((bits >> 52) & 0x7FF) as i64) - 1023;
    let q = e.div_euclid(3);
    let r = e.rem_euclid(3) as usize;

    // calculate 2^q efficiently by constructing f64 from bits
    let pow2q = f64::from_bits(((q + 1023) as u64) << 52);

    // add cbrt mantissa and other component back in:
    // cbrt mantiassa * 2^q * 2^(r/3)
    let x = cbrt_m * pow2q * POW2_REM_OVER_3[r];

    // a single iteration should bring us close enough
    (2.0 * x + a / (x * x)) / 3.0
}

#[cfg(test)]
mod test {
    use super::*;

    const MSS: usize = 1024;

    fn acked(octets: usize, now: Instant) -> Acked {
        Acked {
            now,
            octets,
            rtt: None,
            srtt: Duration::from_millis(1),
            una: TcpSeqNumber(0),
            nxt: TcpSeqNumber(0),
            limited: true,
        }
    }

    fn ack(cubic: &mut Cubic, octets: usize, now: Instant) {
        cubic.on_ack(&acked(octets, now));
    }

    fn cubic() -> Cubic {
        let mut cubic = Cubic::new();
        cubic.set_mss(MSS);
        cubic
    }

    #[test]
    fn congestion_avoidance_works() {
        let mut cubic = cubic();
        cubic.w_max = MSS * 32;
        cubic.recompute_k();

        // Post-fast-recovery state: cwnd = ssthresh ≈ w_max * beta.
        cubic.cwnd = (MSS * 32 * 7) / 10;
        cubic.ssthresh = cubic.cwnd;
        cubic.recovery_start = Some(Instant::from_millis(0));

        // CA at small time intervals should grow by less than 1 MSS per ACK.
        for i in 1..10 {
            let initial_cwnd = cubic.window();
            ack(&mut cubic, MSS, Instant::from_millis(i));
            assert!(cubic.window() < initial_cwnd + MSS);
        }

        // CA approaches w_max as t approaches K, and exceeds it past K.
        let pre = cubic.window();
        for i in 0..60 {
            ack(&mut cubic, MSS, Instant::from_millis(i * 100));
        }
        assert!(cubic.window() >= cubic.w_max);
        assert!(cubic.window() > pre);

        // RFC 9438 §4.2: the target is clamped to 1.5 * cwnd
        let pre = cubic.window();
        ack(&mut cubic, MSS, Instant::from_millis(100_000));
        assert!(cubic.window() <= pre + MSS);
    }

    #[test]
    fn a_loss_takes_three_tenths() {
        let mut cubic = cubic();
        cubic.cwnd = MSS * 32;
        cubic.on_loss(Instant::from_millis(0));
        assert_eq!(cubic.threshold(), (MSS as f64 * 32.0 * BETA_CUBIC) as usize);
        assert_eq!(cubic.w_max, MSS * 32);
        cubic.on_recovered();
        assert_eq!(cubic.window(), cubic.threshold());
    }

    #[test]
    fn an_unused_window_does_not_grow() {
        let mut cubic = cubic();
        for millis in 0..100 {
            cubic.on_ack(&Acked {
                limited: false,
                ..acked(MSS, Instant::from_millis(millis))
            });
        }
        assert_eq!(cubic.window(), MSS * INITIAL_SEGMENTS);
    }

    #[test]
    fn repeated_rto_holds_ssthresh() {
        let mut cubic = cubic();
        cubic.cwnd = MSS * 32;
        cubic.on_rto(false);
        let ssthresh = cubic.ssthresh;
        assert_eq!(cubic.window(), MSS);
        cubic.on_rto(true);
        assert_eq!(cubic.ssthresh, ssthresh);
        ack(&mut cubic, MSS, Instant::from_millis(10));
        assert_eq!(cubic.window(), 2 * MSS);
    }

    #[test]
    fn slow_start_grows_by_what_is_acknowledged() {
        let mut cubic = cubic();
        for octets in [MSS / 2, MSS, 45 * MSS] {
            let before = cubic.window();
            ack(&mut cubic, octets, Instant::from_millis(1));
            assert_eq!(cubic.window(), before + octets);
        }
    }

    #[test]
    fn fast_convergence_reduces_w_max() {
        let mut cubic = cubic();
        cubic.w_max = MSS * 64;
        cubic.cwnd = MSS * 32;
        cubic.on_loss(Instant::from_millis(0));
        assert_eq!(cubic.w_max, ((MSS * 32) as f64 * 0.85) as usize);
    }

    /// A round of ten acknowledgements of one segment each, at this round trip.
    fn round(cubic: &mut Cubic, sent: &mut usize, rtt: i64) {
        let una = *sent;
        *sent += 10 * MSS;
        for index in 1..=10 {
            cubic.on_ack(&Acked {
                rtt: Some(Duration::from_millis(rtt as u64)),
                una: TcpSeqNumber(0) + una + index * MSS,
                nxt: TcpSeqNumber(0) + *sent + index * MSS,
                ..acked(MSS, Instant::from_millis(0))
            });
        }
    }

    #[test]
    fn slow_start_ends_when_the_queue_fills() {
        let (mut cubic, mut sent) = (cubic(), 0);
        for _ in 0..3 {
            round(&mut cubic, &mut sent, 20);
        }
        assert_eq!(cubic.slow_start.conservative, None);
        round(&mut cubic, &mut sent, 25);
        assert!(cubic.slow_start.conservative.is_some());
        assert_eq!(cubic.ssthresh, usize::MAX);
        for _ in 0..CSS_ROUNDS {
            round(&mut cubic, &mut sent, 26);
        }
        assert!(cubic.ssthresh <= cubic.window());
    }

    #[test]
    fn a_passing_delay_does_not_end_slow_start() {
        let (mut cubic, mut sent) = (cubic(), 0);
        for rtt in [20, 20, 20, 25, 20, 20] {
            round(&mut cubic, &mut sent, rtt);
        }
        assert_eq!(cubic.slow_start.conservative, None);
        assert_eq!(cubic.ssthresh, usize::MAX);
    }

    #[test]
    fn test_cube_root() {
        let mut max_err = 0.0;
        let mut max_err_at = 0;
        let mut max_err_expected = 0.0;
        let mut max_err_found = 0.0;

        for i in (1..1_000_000).step_by(99) {
            let found = cube_root(i as f64);
            let expected = (i as f64).cbrt();
            let err = (found - expected).abs() / expected;

            if err > max_err {
                max_err = err;
                max_err_at = i;
                max_err_found = found;
                max_err_expected = expected;
            }
        }

        assert!(
            max_err < 0.0005,
            "cube_root({max_err_at}) = {max_err_found}, expected ~{max_err_expected}, rel err {max_err:.3e}"
        );
    }
}
