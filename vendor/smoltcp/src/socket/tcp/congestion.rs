use crate::time::{Duration, Instant};
use crate::wire::TcpSeqNumber;

pub(super) mod cubic;

/// What an acknowledgement of new data means for the window.
#[derive(Debug, Clone, Copy)]
pub(super) struct Acked {
    pub(super) now: Instant,
    /// Octets newly acknowledged, be it of one segment or of many.
    pub(super) octets: usize,
    /// A measurement of the round trip.
    pub(super) rtt: Option<Duration>,
    pub(super) srtt: Duration,
    /// The first octet that is not acknowledged, and the first that was never sent.
    pub(super) una: TcpSeqNumber,
    pub(super) nxt: TcpSeqNumber,
    /// The window, and not the application or the remote, held the sender back.
    pub(super) limited: bool,
}

/// The congestion control: CUBIC, or none at all.
#[derive(Debug)]
pub(super) enum Controller {
    None,
    Cubic(cubic::Cubic),
}

impl Controller {
    pub(super) fn new() -> Self {
        Self::Cubic(cubic::Cubic::new())
    }

    /// The number of octets that may be on their way.
    pub(super) fn window(&self) -> usize {
        match self {
            Self::None => usize::MAX / 2,
            Self::Cubic(cubic) => cubic.window(),
        }
    }

    /// What the window is to be once a loss is repaired.
    pub(super) fn threshold(&self) -> usize {
        match self {
            Self::None => usize::MAX / 2,
            Self::Cubic(cubic) => cubic.threshold(),
        }
    }

    /// For the time of a recovery (RFC 6937).
    pub(super) fn set_window(&mut self, window: usize) {
        if let Self::Cubic(cubic) = self {
            cubic.set_window(window);
        }
    }

    pub(super) fn on_ack(&mut self, acked: &Acked) {
        if let Self::Cubic(cubic) = self {
            cubic.on_ack(acked);
        }
    }

    /// Something was lost, for the first time within this round trip.
    pub(super) fn on_loss(&mut self, now: Instant) {
        if let Self::Cubic(cubic) = self {
            cubic.on_loss(now);
        }
    }

    /// All that was sent before the loss is acknowledged.
    pub(super) fn on_recovered(&mut self) {
        if let Self::Cubic(cubic) = self {
            cubic.on_recovered();
        }
    }

    /// Nothing came back; `again`: nor did it after the timeout before.
    pub(super) fn on_rto(&mut self, again: bool) {
        if let Self::Cubic(cubic) = self {
            cubic.on_rto(again);
        }
    }

    /// Something is sent after a pause that was longer than the timeout (RFC 5681 §4.1).
    pub(super) fn on_restart(&mut self) {
        if let Self::Cubic(cubic) = self {
            cubic.on_restart();
        }
    }

    /// Set the maximum segment size.
    pub(super) fn set_mss(&mut self, mss: usize) {
        if let Self::Cubic(cubic) = self {
            cubic.set_mss(mss);
        }
    }
}
