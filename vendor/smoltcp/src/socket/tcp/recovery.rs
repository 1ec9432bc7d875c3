//! What the sender does about losses: who decides that something is lost is the scoreboard.
//!
//! - A loss opens an episode that lasts until everything sent before it is acknowledged. In it the
//!   window shrinks in proportion to what arrives (RFC 6937), so that sending never pauses.
//! - When the end of a flight is lost, nothing arrives that could tell. After two round trips the
//!   last segment is sent once more, or a new one (tail loss probe, RFC 8985 §7).
//! - When that does not help either, the timeout loses everything and begins anew (RFC 6298 §5).
//!
//! Toward a remote without selective acknowledgements, three repeated ones and partial ones take
//! their place (RFC 6582).

use super::congestion::Acked;
use super::{Delivered, Socket, State, Timer};
use crate::socket::Context;
use crate::time::{Duration, Instant};
use crate::wire::{TcpControl, TcpRepr, TcpSeqNumber};

/// A remote may wait this long with the acknowledgement of a single segment (RFC 8985 §7.2).
const LONG_ACK_DELAY: Duration = Duration::from_millis(200);
/// What is added to two round trips when more than one segment is on its way: our own remotes
/// delay an acknowledgement by 10 ms.
const SHORT_ACK_DELAY: Duration = Duration::from_millis(12);

#[derive(Debug, Default)]
pub(super) struct Recovery {
    episode: Option<Episode>,
    /// A timeout lost everything before this.
    timeout: Option<TcpSeqNumber>,
    /// When the scoreboard will know of more losses.
    reorder_at: Option<Instant>,
    probe_at: Option<Instant>,
    /// A probe is to be sent, whatever the window says.
    pub(super) probe_wanted: bool,
    probe: Option<Probe>,
}

/// What was sent before the loss ends at `end`.
#[derive(Debug, Clone, Copy)]
struct Episode {
    end: TcpSeqNumber,
    threshold: usize,
    flight: usize,
    delivered: usize,
    sent: usize,
}

/// A tail loss probe whose outcome is not known.
#[derive(Debug, Clone, Copy)]
struct Probe {
    end: TcpSeqNumber,
    /// It repeated something.
    again: bool,
}

impl Recovery {
    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.reorder_at, self.probe_at].into_iter().flatten().min()
    }

    /// A loss is being repaired, and the window is only what is on its way.
    pub(super) fn is_repairing(&self) -> bool {
        self.episode.is_some()
    }

    fn is_calm(&self) -> bool {
        self.episode.is_none() && self.timeout.is_none()
    }
}

impl Socket<'_> {
    /// Takes the window of a segment, unless a newer segment was seen (RFC 9293 §3.10.7.4): one
    /// that was overtaken must not close it. True when the window differs from the one before.
    pub(super) fn update_remote_window(
        &mut self,
        repr: &TcpRepr,
        window: usize,
        is_stale: bool,
    ) -> bool {
        let before = self.remote_win_len;
        let Some(ack) = repr.ack_number.filter(|_| repr.control != TcpControl::Syn) else {
            self.remote_win_len = window;
            return window != before;
        };
        if is_stale {
            return false;
        }
        let newer = self.window_from.is_none_or(|(seq, acked)| {
            seq < repr.seq_number
                || (seq == repr.seq_number && acked < ack)
                || (seq == repr.seq_number && acked == ack && window > before)
        });
        if newer {
            self.window_from = Some((repr.seq_number, ack));
            self.remote_win_len = window;
        } else if ack > self.local_seq_no {
            self.remote_win_len = before.saturating_sub(ack - self.local_seq_no);
        }
        window != before
    }

    /// Counts acknowledgements that only repeat another.
    pub(super) fn count_duplicate(
        &mut self,
        repr: &TcpRepr,
        ack: TcpSeqNumber,
        is_window_update: bool,
    ) {
        let repeated = self.local_rx_last_ack == Some(ack)
            && repr.payload.is_empty()
            && ack < self.remote_last_seq
            && !is_window_update;
        if repeated {
            // Increment duplicate ACK count
            self.local_rx_dup_acks = self.local_rx_dup_acks.saturating_add(1);
            net_debug!(
                "received duplicate ACK for seq {} (duplicate nr {})",
                ack,
                self.local_rx_dup_acks
            );
        } else {
            self.local_rx_dup_acks = 0;
            self.local_rx_last_ack = Some(ack);
        }
    }

    /// An acceptable acknowledgement came, which may repeat an old one.
    pub(super) fn acknowledged(
        &mut self,
        cx: &Context,
        repr: &TcpRepr,
        ack: TcpSeqNumber,
        in_flight_before: usize,
        advanced: bool,
    ) {
        let now = cx.now();
        let mut delivered = self.scoreboard.on_ack(ack, now);
        let twice = self.take_sack(repr, ack, now, &mut delivered);
        if advanced && let Some(sent_at) = self.syn_sent_at.take() {
            delivered.rtt.get_or_insert(now - sent_at);
        }
        if let Some(rtt) = delivered.rtt {
            self.rtte.sample(rtt);
        }
        if advanced {
            self.rtte.on_progress();
        }
        self.judge_probe(repr, ack, now, advanced, twice);
        if self.recovery.timeout.is_some_and(|end| ack >= end) {
            self.recovery.timeout = None;
        }
        if self
            .recovery
            .episode
            .is_some_and(|episode| ack >= episode.end)
        {
            self.recovery.episode = None;
            self.congestion_controller.on_recovered();
        }
        if self.remote_has_sack {
            self.find_losses(now);
        } else {
            self.count_losses(now, advanced, &mut delivered);
        }
        if self.recovery.episode.is_some() {
            self.proportion(delivered.octets);
        } else if advanced {
            let window = self.congestion_controller.window();
            let slow = window < self.congestion_controller.threshold();
            let used = if slow {
                in_flight_before.saturating_mul(2)
            } else {
                in_flight_before + 3 * self.remote_mss
            };
            self.congestion_controller.on_ack(&Acked {
                now,
                octets: delivered.octets,
                rtt: delivered.rtt,
                srtt: self.rtte.smoothed(),
                una: ack,
                nxt: self.remote_last_seq,
                limited: used >= window,
            });
        }
        if advanced {
            self.tune_send_buffer();
            self.arm_probe(now);
        }
    }

    /// Notes what arrived behind holes. True when the remote says that something came twice
    /// (RFC 2883).
    fn take_sack(
        &mut self,
        repr: &TcpRepr,
        ack: TcpSeqNumber,
        now: Instant,
        delivered: &mut Delivered,
    ) -> bool {
        let mut twice = false;
        if !self.remote_has_sack {
            return twice;
        }
        for (left, right) in repr.sack_ranges.iter().flatten() {
            let (left, right) = (TcpSeqNumber(*left as i32), TcpSeqNumber(*right as i32));
            if right <= left {
                continue;
            }
            if right <= ack {
                twice = true;
            } else if left > ack && right <= self.remote_last_seq {
                self.scoreboard.on_sack(left, right, now, delivered);
            }
        }
        twice
    }

    fn judge_probe(
        &mut self,
        repr: &TcpRepr,
        ack: TcpSeqNumber,
        now: Instant,
        advanced: bool,
        twice: bool,
    ) {
        let Some(probe) = self.recovery.probe.filter(|probe| ack >= probe.end) else {
            return;
        };
        if !probe.again || twice {
            self.recovery.probe = None;
        } else if ack > probe.end {
            // It was not in vain: what it repeated had been lost.
            self.recovery.probe = None;
            if self.recovery.is_calm() {
                self.congestion_controller.on_loss(now);
                self.congestion_controller.on_recovered();
            }
        } else if !advanced && repr.payload.is_empty() {
            self.recovery.probe = None;
        }
    }

    fn find_losses(&mut self, now: Instant) {
        let recovering = !self.recovery.is_calm();
        let wait =
            self.scoreboard
                .find_losses(now, self.remote_mss, recovering, self.rtte.smoothed());
        self.recovery.reorder_at = wait.map(|wait| now + wait);
        if !recovering && self.scoreboard.lost() > 0 {
            self.begin_episode(now);
        }
    }

    /// For a remote that acknowledges only what has no hole before it.
    fn count_losses(&mut self, now: Instant, advanced: bool, delivered: &mut Delivered) {
        if self.recovery.episode.is_some() {
            if advanced {
                self.scoreboard.lose_first(self.remote_mss);
            } else {
                delivered.octets += self.remote_mss;
            }
        } else if self.local_rx_dup_acks == 3 && self.recovery.is_calm() {
            self.scoreboard.lose_first(self.remote_mss);
            self.begin_episode(now);
        }
    }

    fn begin_episode(&mut self, now: Instant) {
        net_debug!("something was lost");
        self.congestion_controller.on_loss(now);
        self.recovery.probe_at = None;
        self.recovery.probe = None;
        self.recovery.episode = Some(Episode {
            end: self.remote_last_seq,
            threshold: self.congestion_controller.threshold(),
            flight: self.flight_size().max(1),
            delivered: 0,
            sent: 0,
        });
        // What was lost goes out at once.
        self.congestion_controller
            .set_window(self.in_flight() + self.remote_mss);
    }

    /// RFC 6937: as much goes out as brings what is on its way down to the threshold by the end of
    /// the episode, or up to it when more was lost.
    fn proportion(&mut self, delivered: usize) {
        let in_flight = self.in_flight();
        let Some(episode) = &mut self.recovery.episode else {
            return;
        };
        if delivered == 0 {
            return;
        }
        episode.delivered = episode.delivered.saturating_add(delivered);
        let room = if in_flight > episode.threshold {
            let due = (episode.delivered as u64 * episode.threshold as u64)
                .div_ceil(episode.flight as u64);
            (due as usize).saturating_sub(episode.sent)
        } else {
            let limit = episode
                .delivered
                .saturating_sub(episode.sent)
                .max(delivered)
                + self.remote_mss;
            limit.min(episode.threshold - in_flight)
        };
        self.congestion_controller.set_window(in_flight + room);
    }

    /// Looks at the timers of this module.
    pub(super) fn look_for_losses(&mut self, now: Instant) {
        if self.recovery.reorder_at.is_some_and(|at| at <= now) {
            self.recovery.reorder_at = None;
            self.find_losses(now);
        }
        if self.recovery.probe_at.is_some_and(|at| at <= now) {
            self.recovery.probe_at = None;
            self.recovery.probe_wanted = !self.scoreboard.is_empty() && self.scoreboard.lost() == 0;
        }
    }

    /// Nothing came back for too long.
    pub(super) fn lose_everything(&mut self) {
        let again = self.rtte.timeouts() > 0;
        self.rtte.on_rto();
        if matches!(self.state, State::SynSent | State::SynReceived) {
            // Rewind, as if the SYN had never been sent.
            self.remote_last_seq = self.local_seq_no;
            self.syn_sent_at = None;
            return;
        }
        self.congestion_controller.on_rto(again);
        self.scoreboard.lose_all();
        self.local_rx_dup_acks = 0;
        self.recovery = Recovery {
            timeout: Some(self.remote_last_seq),
            ..Recovery::default()
        };
    }

    /// Something that occupies sequence space is sent: for the first time, or again.
    pub(super) fn note_sent(&mut self, start: TcpSeqNumber, end: TcpSeqNumber, now: Instant) {
        if self.recovery.probe_wanted {
            self.recovery.probe_wanted = false;
            self.recovery.probe = Some(Probe {
                end: end.max(self.remote_last_seq),
                again: start < self.remote_last_seq,
            });
            // The timeout counts from here (RFC 8985 §7.3).
            let rto = self.rtte.retransmission_timeout();
            self.timer.set_for_retransmit(now, rto);
        }
        self.scoreboard.on_send(start, end, now);
        if let Some(episode) = &mut self.recovery.episode {
            episode.sent = episode.sent.saturating_add(end - start);
        }
        self.last_sent_at = Some(now);
    }

    /// Sets the time of the next probe, if one can help.
    pub(super) fn arm_probe(&mut self, now: Instant) {
        let able = self.remote_has_sack
            && self.rtte.is_measured()
            && !self.scoreboard.is_empty()
            && self.scoreboard.lost() == 0
            && self.scoreboard.arrived() == 0
            && self.recovery.is_calm()
            && self.recovery.probe.is_none();
        self.recovery.probe_at = None;
        if !able {
            return;
        }
        let delay = if self.scoreboard.in_flight() <= self.remote_mss {
            LONG_ACK_DELAY
        } else {
            SHORT_ACK_DELAY
        };
        let at = now + self.rtte.smoothed() * 2 + delay;
        let too_late = match self.timer {
            Timer::Retransmit { expires_at } => expires_at <= at,
            _ => false,
        };
        self.recovery.probe_at = Some(at).filter(|_| !too_late);
    }

    /// The remote's FIN came before all octets in front of it; now they are here.
    pub(super) fn take_early_fin(&mut self, cx: &Context) {
        self.early_fin = None;
        let state = match self.state {
            State::Established | State::SynReceived => State::CloseWait,
            State::FinWait1 => State::Closing,
            State::FinWait2 => State::TimeWait,
            _ => return,
        };
        self.remote_seq_no += 1;
        self.rx_fin_received = true;
        self.set_state(state);
        if state == State::TimeWait {
            self.timer.set_for_close(cx.now());
        }
    }
}
