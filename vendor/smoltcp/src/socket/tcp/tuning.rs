//! Buffers that are as large as the path needs, and cost nothing when nothing is in them.
//!
//! Only growing buffers are tuned ([`RingBuffer::growing`](crate::storage::RingBuffer::growing)).
//! The send buffer holds two congestion windows. The receive buffer doubles when the remote uses
//! all that it was offered within a few round trips, and the application keeps up with reading.
//! Both stay within what [`Socket::set_buffer_limit`] grants.

use super::Socket;
use crate::time::{Duration, Instant};
use crate::wire::TcpSeqNumber;

/// Round trips within which a window that is used up was too small: a full queue on the path makes
/// them longer than the one of the handshake.
const HASTE: u32 = 4;

#[derive(Debug, Default)]
pub(super) struct Tuning {
    /// A window that was offered ends here, and began to be used then.
    round: Option<(TcpSeqNumber, Instant)>,
    /// What the owner grants to each of the buffers; 0: whatever their ceiling is.
    limit: usize,
}

impl<'a> Socket<'a> {
    /// Grants this many octets to each of the two buffers.
    pub fn set_buffer_limit(&mut self, limit: usize) {
        self.tuning.limit = limit;
    }

    /// Octets that both buffers may hold, and octets of memory that they have, and the notes on what was sent from them.
    pub fn buffer_sizes(&self) -> (usize, usize) {
        (
            self.rx_buffer.capacity() + self.tx_buffer.capacity(),
            self.rx_buffer.stored() + self.tx_buffer.stored() + self.scoreboard.stored(),
        )
    }

    /// Gives back the storage of buffers that are empty, and has them grow anew from `limit`.
    pub fn shrink_buffers(&mut self, limit: usize) {
        if self.tx_buffer.is_empty() {
            self.tx_buffer.set_limit(limit);
            self.tx_buffer.release();
            self.scoreboard.release();
        }
        if self.rx_buffer.is_empty() && self.assembler.is_empty() {
            self.rx_buffer.set_limit(limit);
            self.rx_buffer.release();
            self.tuning.round = None;
        }
    }

    fn largest(&self, ceiling: usize) -> usize {
        match self.tuning.limit {
            0 => ceiling,
            limit => limit.min(ceiling),
        }
    }

    /// Something new was acknowledged.
    pub(super) fn tune_send_buffer(&mut self) {
        let wanted = self.congestion_controller.window().saturating_mul(2);
        let wanted = wanted.min(self.largest(self.tx_buffer.ceiling()));
        if wanted > self.tx_buffer.capacity() {
            self.tx_buffer.set_limit(wanted);
        }
    }

    /// Something new arrived.
    pub(super) fn tune_receive_buffer(&mut self, now: Instant) {
        let next = self.remote_seq_no + self.rx_buffer.len();
        let capacity = self.rx_buffer.capacity();
        if let Some((end, began)) = self.tuning.round {
            if next < end {
                return;
            }
            let patience = (self.rtte.smoothed() * HASTE).max(Duration::from_millis(1));
            let keeps_up = self.rx_buffer.len() <= capacity / 2;
            if keeps_up && now - began <= patience {
                let wanted = (capacity * 2).min(self.largest(self.rx_buffer.ceiling()));
                if wanted > capacity {
                    self.rx_buffer.set_limit(wanted);
                }
            }
        }
        self.tuning.round = Some((next + self.rx_buffer.window(), now));
    }
}
