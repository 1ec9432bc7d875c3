//! How long a round trip takes, and how long to wait for one (RFC 6298), in microseconds.

use crate::time::Duration;

/// RFC 6298 (2.1): Until a round-trip time (RTT) measurement has been made for a
/// segment sent between the sender and receiver, the sender SHOULD
/// set RTO <- 1 second.
const INITIAL_RTO: Duration = Duration::from_millis(1000);

/// The least that is added to the smoothed round trip. RFC 6298 would have the sum be at least a
/// second; as in other stacks, a remote may delay its acknowledgement by up to 200 ms, and no more
/// is waited for.
const MIN_MARGIN: u64 = 200_000;

/// RFC 6298 (2.5) A maximum value MAY be placed on RTO provided it is at least 60
/// seconds
const MAX_RTO: Duration = Duration::from_millis(60_000);

#[derive(Debug, Clone, Copy)]
pub(super) struct RttEstimator {
    measured: bool,
    /// Smoothed RTT
    srtt: u64,
    /// RTT variance.
    rttvar: u64,
    /// Retransmission Time-Out
    rto: Duration,
    timeouts: u32,
}

impl Default for RttEstimator {
    fn default() -> Self {
        Self {
            measured: false,
            srtt: 0,
            rttvar: 0,
            rto: INITIAL_RTO,
            timeouts: 0,
        }
    }
}

impl RttEstimator {
    pub(super) fn retransmission_timeout(&self) -> Duration {
        self.rto
    }

    /// Zero before the first measurement.
    pub(super) fn smoothed(&self) -> Duration {
        Duration::from_micros(self.srtt)
    }

    pub(super) fn is_measured(&self) -> bool {
        self.measured
    }

    /// Timeouts since something was last acknowledged.
    pub(super) fn timeouts(&self) -> u32 {
        self.timeouts
    }

    pub(super) fn sample(&mut self, rtt: Duration) {
        let rtt = rtt.total_micros().min(MAX_RTO.total_micros());
        if self.measured {
            // RFC 6298 (2.3) When a subsequent RTT measurement R' is made, a host MUST set (...)
            self.rttvar = (self.rttvar * 3 + self.srtt.abs_diff(rtt)).div_ceil(4);
            self.srtt = (self.srtt * 7 + rtt).div_ceil(8);
        } else {
            // RFC 6298 (2.2) When the first RTT measurement R is made, the host MUST set (...)
            self.measured = true;
            self.srtt = rtt;
            self.rttvar = rtt / 2;
        }
        self.refresh();
    }

    /// Something new was acknowledged: an end to backing off.
    pub(super) fn on_progress(&mut self) {
        if self.timeouts > 0 {
            self.timeouts = 0;
            self.refresh();
        }
    }

    fn refresh(&mut self) {
        // RFC 6298 (2.2), (2.3)
        if self.measured {
            let margin = (self.rttvar * 4).max(MIN_MARGIN);
            self.rto = Duration::from_micros(self.srtt + margin).min(MAX_RTO);
        } else {
            self.rto = INITIAL_RTO;
        }
        self.rto = self.rto.max(Duration::from_micros(MIN_MARGIN));
    }

    pub(super) fn on_rto(&mut self) {
        // RFC 6298 (5.5) The host MUST set RTO <- RTO * 2 ("back off the timer").  The
        // maximum value discussed in (2.5) above may be used to provide
        // an upper bound to this doubling operation.
        self.rto = (self.rto * 2).min(MAX_RTO);
        self.timeouts = self.timeouts.saturating_add(1);
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_timeout_follows_the_measurements() {
        let mut estimator = RttEstimator::default();
        assert_eq!(estimator.retransmission_timeout(), INITIAL_RTO);
        for rto in [6000, 5000, 4250] {
            estimator.sample(Duration::from_millis(2000));
            assert_eq!(
                estimator.retransmission_timeout(),
                Duration::from_millis(rto)
            );
        }
        for _ in 0..50 {
            estimator.sample(Duration::from_millis(2000));
        }
        assert_eq!(
            estimator.retransmission_timeout(),
            Duration::from_millis(2200)
        );
    }

    #[test]
    fn it_backs_off_until_there_is_progress() {
        let mut estimator = RttEstimator::default();
        estimator.sample(Duration::from_millis(20));
        let first = estimator.retransmission_timeout();
        for _ in 0..20 {
            estimator.on_rto();
        }
        assert_eq!(estimator.retransmission_timeout(), MAX_RTO);
        estimator.on_progress();
        assert_eq!(estimator.retransmission_timeout(), first);
    }
}
