//! Spreads what may be sent over the round trip, instead of sending it in one burst.
//!
//! A window that opens at once, by an acknowledgement of many segments or in slow start, would overrun
//! queues that are shorter than the path's own: that of an interface, or of a socket on the way. The
//! rate is a little more than what a window each round trip makes, twice that in slow start, so that
//! it is the window that decides in the end.

use super::Socket;
use crate::time::{Duration, Instant};

/// What timers are late by does not slow the sender down, up to this.
const LATENESS: Duration = Duration::from_millis(1);
/// One packet is not to be longer than this, unless it has few segments.
const PACKET: Duration = Duration::from_millis(1);
const FEW_SEGMENTS: usize = 2;

#[derive(Debug, Default)]
pub(super) struct Pacing {
    /// When the next octet is due.
    next: Option<Instant>,
}

impl Socket<'_> {
    /// Octets in a second; None as long as nothing is known about the path.
    fn pace(&self) -> Option<u64> {
        let window = self.congestion_controller.window() as u64;
        let threshold = self.congestion_controller.threshold() as u64;
        let round = self.rtte.smoothed().total_micros();
        if round == 0 {
            return None;
        }
        let each_round = if window < threshold / 2 {
            window.saturating_mul(2)
        } else {
            // In a recovery the window is only what is on its way.
            let window = if self.recovery.is_repairing() {
                window.max(threshold)
            } else {
                window
            };
            window.saturating_mul(5) / 4
        };
        Some((each_round.saturating_mul(1_000_000) / round).max(1))
    }

    /// When data may be sent, if it may not be sent now. Probes and what timeouts ask for wait for nothing.
    pub(super) fn waits_for_pace(&self, now: Instant) -> Option<Instant> {
        let urgent = self.recovery.probe_wanted || self.scoreboard.in_flight() == 0;
        self.pacing.next.filter(|next| *next > now && !urgent)
    }

    /// What one packet may carry.
    pub(super) fn paced_size(&self, mss: usize) -> usize {
        self.pace().map_or(usize::MAX, |pace| {
            let size = pace.saturating_mul(PACKET.total_micros()) / 1_000_000;
            usize::try_from(size)
                .unwrap_or(usize::MAX)
                .max(FEW_SEGMENTS * mss)
        })
    }

    /// Data was sent.
    pub(super) fn note_paced(&mut self, octets: usize, now: Instant) {
        let Some(pace) = self.pace() else {
            return;
        };
        let took = (octets as u64).saturating_mul(1_000_000) / pace;
        let earliest = now - LATENESS;
        let from = self.pacing.next.map_or(earliest, |next| next.max(earliest));
        self.pacing.next = Some(from + Duration::from_micros(took));
    }
}
