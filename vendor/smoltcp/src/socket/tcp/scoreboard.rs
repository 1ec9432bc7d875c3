//! What was sent and is not acknowledged: which of it arrived, which is lost, what is on its way.
//!
//! Selective acknowledgements (RFC 2018) mark what arrived behind a hole. What was sent long
//! enough before something that arrived is lost (RACK, RFC 8985): time decides, not a count of
//! segments, so a lost retransmission is found, too. Ranges are as large as they were sent, be it
//! 45 segments at once, and are cut only where an acknowledgement or a loss cuts them.
//!
//! A remote may acknowledge whatever it likes: each call costs at most one pass over the ranges, and
//! there are never more than [`MAX_RANGES`]. What does not fit is not noted, or noted for a whole
//! range, which costs a retransmission or time.

use alloc::collections::VecDeque;

use crate::time::{Duration, Instant};
use crate::wire::TcpSeqNumber;

/// Bound on ranges. A window of 6 MiB in segments of 1240 octets, every other of them lost, fits.
const MAX_RANGES: usize = if cfg!(test) { 64 } else { 8192 };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// On its way, as far as is known.
    Sent,
    /// The remote has it.
    Arrived,
    /// To be sent again.
    Lost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    start: TcpSeqNumber,
    end: TcpSeqNumber,
    sent_at: Instant,
    fate: Fate,
    again: bool,
}

impl Range {
    fn len(&self) -> usize {
        self.end - self.start
    }
}

/// What an acknowledgement told.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Delivered {
    /// Octets that are now known to have arrived.
    pub(super) octets: usize,
    /// The round trip of the latest of those that were sent only once.
    pub(super) rtt: Option<Duration>,
}

/// The latest transmission that is known to have arrived.
#[derive(Debug, Clone, Copy)]
struct Latest {
    sent_at: Instant,
    end: TcpSeqNumber,
    rtt: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Scoreboard {
    /// In order and without gaps.
    ranges: VecDeque<Range>,
    sent: usize,
    arrived: usize,
    lost: usize,
    latest: Option<Latest>,
    /// Behind the last octet that is known to have arrived.
    furthest: Option<TcpSeqNumber>,
    reordered: bool,
    min_rtt: Option<Duration>,
}

impl Scoreboard {
    /// Octets on their way.
    pub(super) fn in_flight(&self) -> usize {
        self.sent
    }

    /// Octets that wait to be sent again.
    pub(super) fn lost(&self) -> usize {
        self.lost
    }

    /// Octets behind a hole that arrived.
    pub(super) fn arrived(&self) -> usize {
        self.arrived
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(super) fn min_rtt(&self) -> Option<Duration> {
        self.min_rtt
    }

    /// Ranges that are kept.
    pub(super) fn ranges(&self) -> usize {
        self.ranges.len()
    }

    /// Octets of memory.
    pub(super) fn stored(&self) -> usize {
        self.ranges.capacity() * size_of::<Range>()
    }

    /// Gives back the memory of an empty board; what was learnt of the path stays.
    pub(super) fn release(&mut self) {
        if self.ranges.is_empty() {
            self.ranges = VecDeque::new();
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Notes that `start..end` was sent, for the first time or again.
    pub(super) fn on_send(&mut self, start: TcpSeqNumber, end: TcpSeqNumber, now: Instant) {
        if end <= start {
            return;
        }
        let known = self.ranges.back().map_or(start, |last| last.end);
        if start < known {
            self.on_resend(start, end.min(known), now);
        }
        let start = start.max(known);
        if start >= end {
            return;
        }
        if self.ranges.len() >= MAX_RANGES {
            return self.lengthen_last(end, now);
        }
        self.sent += end - start;
        match self.ranges.back_mut() {
            Some(last)
                if last.end == start
                    && !last.again
                    && last.fate == Fate::Sent
                    && last.sent_at == now =>
            {
                last.end = end;
            }
            _ => self.ranges.push_back(Range {
                start,
                end,
                sent_at: now,
                fate: Fate::Sent,
                again: false,
            }),
        }
    }

    /// There is no room for another range: the last one counts as sent with the new octets, which
    /// costs time or a retransmission when it was lost or had arrived.
    fn lengthen_last(&mut self, end: TcpSeqNumber, now: Instant) {
        let Some(last) = self.ranges.back_mut() else {
            return;
        };
        match last.fate {
            Fate::Sent => self.sent -= last.len(),
            Fate::Arrived => self.arrived -= last.len(),
            Fate::Lost => self.lost -= last.len(),
        }
        last.again |= last.fate != Fate::Sent;
        last.fate = Fate::Sent;
        last.sent_at = now;
        last.end = end;
        self.sent += last.len();
    }

    fn on_resend(&mut self, start: TcpSeqNumber, end: TcpSeqNumber, now: Instant) {
        self.cut(start);
        self.cut(end);
        // What could not be cut for want of room counts as sent again as a whole.
        let mut index = self.ranges.partition_point(|range| range.end <= start);
        while let Some(range) = self.ranges.get_mut(index).filter(|range| range.start < end) {
            let len = range.len();
            match range.fate {
                Fate::Lost => {
                    self.lost -= len;
                    self.sent += len;
                }
                Fate::Arrived => {
                    index += 1;
                    continue;
                }
                Fate::Sent => {}
            }
            range.fate = Fate::Sent;
            range.sent_at = now;
            range.again = true;
            index += 1;
        }
    }

    /// Everything before `una` arrived.
    pub(super) fn on_ack(&mut self, una: TcpSeqNumber, now: Instant) -> Delivered {
        let mut delivered = Delivered::default();
        while let Some(first) = self.ranges.front_mut().filter(|first| first.start < una) {
            let mut done = *first;
            if una < first.end {
                done.end = una;
                first.start = una;
            } else {
                self.ranges.pop_front();
            }
            let len = done.len();
            match done.fate {
                Fate::Sent => self.sent -= len,
                Fate::Arrived => self.arrived -= len,
                Fate::Lost => self.lost -= len,
            }
            if done.fate != Fate::Arrived {
                delivered.octets += len;
                self.note_arrival(&done, now, &mut delivered);
            }
        }
        if self.furthest.is_some_and(|furthest| furthest <= una) {
            self.furthest = None;
        }
        delivered
    }

    /// `start..end` arrived behind a hole.
    pub(super) fn on_sack(
        &mut self,
        start: TcpSeqNumber,
        end: TcpSeqNumber,
        now: Instant,
        delivered: &mut Delivered,
    ) {
        let (Some(first), Some(last)) = (self.ranges.front(), self.ranges.back()) else {
            return;
        };
        let (start, end) = (start.max(first.start), end.min(last.end));
        if end <= start || self.ranges.len() + 2 > MAX_RANGES {
            return;
        }
        self.cut(start);
        self.cut(end);
        let from = self.first_from(start);
        let mut index = from;
        while let Some(range) = self.ranges.get_mut(index).filter(|range| range.start < end) {
            index += 1;
            let len = range.len();
            match range.fate {
                Fate::Arrived => continue,
                Fate::Sent => self.sent -= len,
                Fate::Lost => self.lost -= len,
            }
            self.arrived += len;
            delivered.octets += len;
            range.fate = Fate::Arrived;
            let done = *range;
            self.note_arrival(&done, now, delivered);
        }
        self.furthest = Some(self.furthest.map_or(end, |furthest| furthest.max(end)));
        self.join(from.saturating_sub(1), index);
    }

    /// Marks what must be lost by now. The duration after which more would be, if nothing arrives.
    pub(super) fn find_losses(
        &mut self,
        now: Instant,
        mss: usize,
        recovering: bool,
        srtt: Duration,
    ) -> Option<Duration> {
        let latest = self.latest?;
        let mut patience = Duration::ZERO;
        if self.reordered || !(recovering || self.arrived >= 3 * mss) {
            patience = (self.min_rtt.unwrap_or(latest.rtt) / 4).min(srtt);
        }
        let mut wait = None;
        for range in &mut self.ranges {
            // Whatever begins behind it and was not sent again was sent later.
            if range.fate != Fate::Sent {
                continue;
            }
            if range.sent_at > latest.sent_at
                || (range.sent_at == latest.sent_at && range.end >= latest.end)
            {
                if range.start > latest.end && !range.again && self.lost == 0 {
                    break;
                }
                continue;
            }
            let due = range.sent_at + latest.rtt + patience;
            if due <= now {
                range.fate = Fate::Lost;
                self.sent -= range.len();
                self.lost += range.len();
            } else {
                wait = wait.max(Some(due - now));
            }
        }
        wait
    }

    /// The first `len` octets that are on their way are lost, whatever time says.
    pub(super) fn lose_first(&mut self, len: usize) {
        let Some(first) = self.ranges.front() else {
            return;
        };
        let end = first.start + len.min(first.len());
        self.cut(end);
        if let Some(first) = self
            .ranges
            .front_mut()
            .filter(|first| first.fate == Fate::Sent)
        {
            first.fate = Fate::Lost;
            self.sent -= first.len();
            self.lost += first.len();
        }
    }

    /// Everything that did not arrive is lost. If the first octets arrived out of order, the remote
    /// has thrown away what it had (RFC 2018 §8), and all is.
    pub(super) fn lose_all(&mut self) {
        let forgotten = self
            .ranges
            .front()
            .is_some_and(|first| first.fate == Fate::Arrived);
        for range in &mut self.ranges {
            match range.fate {
                Fate::Sent => self.sent -= range.len(),
                Fate::Arrived if forgotten => self.arrived -= range.len(),
                Fate::Arrived | Fate::Lost => continue,
            }
            self.lost += range.len();
            range.fate = Fate::Lost;
        }
        if forgotten {
            self.furthest = None;
        }
        self.join(0, self.ranges.len());
    }

    /// What is to be sent again first.
    pub(super) fn first_lost(&self) -> Option<(TcpSeqNumber, TcpSeqNumber)> {
        if self.lost == 0 {
            return None;
        }
        let mut ranges = self
            .ranges
            .iter()
            .skip_while(|range| range.fate != Fate::Lost);
        let first = ranges.next()?;
        let end = ranges
            .take_while(|range| range.fate == Fate::Lost)
            .last()
            .map_or(first.end, |last| last.end);
        Some((first.start, end))
    }

    fn note_arrival(&mut self, range: &Range, now: Instant, delivered: &mut Delivered) {
        let rtt = now - range.sent_at;
        if range.again {
            // What was sent twice may have arrived the first time.
            if self.min_rtt.is_some_and(|min| rtt < min) {
                return;
            }
        } else {
            self.min_rtt = Some(self.min_rtt.map_or(rtt, |min| min.min(rtt)));
            delivered.rtt = Some(delivered.rtt.map_or(rtt, |other| other.min(rtt)));
            if self.furthest.is_some_and(|furthest| range.end < furthest) {
                self.reordered = true;
            }
        }
        let newer = self.latest.is_none_or(|latest| {
            range.sent_at > latest.sent_at
                || (range.sent_at == latest.sent_at && range.end > latest.end)
        });
        if newer {
            self.latest = Some(Latest {
                sent_at: range.sent_at,
                end: range.end,
                rtt,
            });
        }
    }

    /// The index of the first range that begins at or behind `at`.
    fn first_from(&self, at: TcpSeqNumber) -> usize {
        self.ranges.partition_point(|range| range.start < at)
    }

    /// Makes `at` a border of ranges, if it lies within one, and if there is room for another.
    fn cut(&mut self, at: TcpSeqNumber) {
        if self.ranges.len() >= MAX_RANGES {
            return;
        }
        let next = self.first_from(at);
        let Some(index) = next.checked_sub(1) else {
            return;
        };
        let range = &mut self.ranges[index];
        if at >= range.end {
            return;
        }
        let mut behind = *range;
        range.end = at;
        behind.start = at;
        self.ranges.insert(next, behind);
    }

    /// Makes one of neighbours that share their fate, and need no more be told apart.
    fn join(&mut self, from: usize, to: usize) {
        let mut index = to.min(self.ranges.len().saturating_sub(1));
        while index > from {
            let (left, right) = (self.ranges[index - 1], self.ranges[index]);
            let alike = left.fate == right.fate && left.fate != Fate::Sent;
            if alike {
                let left = &mut self.ranges[index - 1];
                left.end = right.end;
                left.again |= right.again;
                self.ranges.remove(index);
            }
            index -= 1;
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const MSS: usize = 1000;
    const BASE: i32 = i32::MAX - 5_000;

    fn seq(offset: usize) -> TcpSeqNumber {
        TcpSeqNumber(BASE) + offset
    }

    fn at(millis: i64) -> Instant {
        Instant::from_millis(millis)
    }

    fn srtt() -> Duration {
        Duration::from_millis(20)
    }

    fn check(board: &Scoreboard) {
        let sum = |fate| -> usize {
            board
                .ranges
                .iter()
                .filter(|range| range.fate == fate)
                .map(Range::len)
                .sum()
        };
        assert_eq!(board.sent, sum(Fate::Sent));
        assert_eq!(board.arrived, sum(Fate::Arrived));
        assert_eq!(board.lost, sum(Fate::Lost));
        assert!(board.ranges.len() <= MAX_RANGES);
        for (left, right) in board.ranges.iter().zip(board.ranges.iter().skip(1)) {
            assert_eq!(left.end, right.start);
        }
        assert!(board.ranges.iter().all(|range| range.start < range.end));
    }

    /// Ten segments sent at once, as one packet.
    fn ten() -> Scoreboard {
        let mut board = Scoreboard::default();
        board.on_send(seq(0), seq(10 * MSS), at(0));
        assert_eq!(board.ranges(), 1);
        board
    }

    fn sack(board: &mut Scoreboard, from: usize, to: usize, now: Instant) -> Delivered {
        let mut delivered = Delivered::default();
        board.on_sack(seq(from * MSS), seq(to * MSS), now, &mut delivered);
        check(board);
        delivered
    }

    #[test]
    fn acknowledgements_shorten_the_board_and_measure() {
        let mut board = ten();
        let delivered = board.on_ack(seq(4 * MSS), at(20));
        assert_eq!(delivered.octets, 4 * MSS);
        assert_eq!(delivered.rtt, Some(Duration::from_millis(20)));
        assert_eq!(board.in_flight(), 6 * MSS);
        board.release();
        assert_eq!(board.ranges(), 1);
        board.on_ack(seq(10 * MSS), at(21));
        check(&board);
        assert!(board.is_empty());
        board.release();
        assert_eq!(board.ranges.capacity(), 0);
        assert_eq!(board.min_rtt(), Some(Duration::from_millis(20)));
    }

    #[test]
    fn a_hole_before_three_segments_is_lost_at_once() {
        let mut board = ten();
        board.on_ack(seq(2 * MSS), at(20));
        assert_eq!(sack(&mut board, 3, 6, at(21)).octets, 3 * MSS);
        assert_eq!(board.find_losses(at(21), MSS, false, srtt()), None);
        check(&board);
        assert_eq!(board.first_lost(), Some((seq(2 * MSS), seq(3 * MSS))));
        assert_eq!(board.in_flight(), 4 * MSS);
        board.on_send(seq(2 * MSS), seq(3 * MSS), at(21));
        check(&board);
        assert_eq!((board.lost(), board.in_flight()), (0, 5 * MSS));
    }

    #[test]
    fn a_hole_before_fewer_waits_for_a_quarter_of_the_round_trip() {
        let mut board = ten();
        board.on_ack(seq(2 * MSS), at(20));
        sack(&mut board, 3, 4, at(20));
        let wait = board.find_losses(at(20), MSS, false, srtt());
        assert_eq!(wait, Some(Duration::from_millis(5)));
        assert_eq!(board.lost(), 0);
        assert_eq!(board.find_losses(at(25), MSS, false, srtt()), None);
        assert_eq!(board.lost(), MSS);
    }

    #[test]
    fn reordering_once_seen_is_borne() {
        let mut board = ten();
        sack(&mut board, 4, 8, at(20));
        // What seemed lost arrives by itself.
        board.on_ack(seq(2 * MSS), at(20));
        assert!(board.reordered);
        assert!(board.find_losses(at(20), MSS, false, srtt()).is_some());
        assert_eq!(board.lost(), 0);
    }

    #[test]
    fn a_lost_retransmission_is_found() {
        let mut board = ten();
        sack(&mut board, 1, 10, at(20));
        board.find_losses(at(20), MSS, true, srtt());
        board.on_send(seq(0), seq(MSS), at(21));
        board.on_send(seq(10 * MSS), seq(12 * MSS), at(22));
        assert_eq!(board.lost(), 0);
        // What was sent after it arrives.
        sack(&mut board, 10, 12, at(42));
        assert_eq!(board.find_losses(at(42), MSS, true, srtt()), None);
        assert_eq!(board.first_lost(), Some((seq(0), seq(MSS))));
    }

    #[test]
    fn a_timeout_loses_all_that_did_not_arrive() {
        let mut board = ten();
        sack(&mut board, 5, 7, at(20));
        board.lose_all();
        check(&board);
        assert_eq!((board.lost(), board.arrived()), (8 * MSS, 2 * MSS));
        assert_eq!(board.first_lost(), Some((seq(0), seq(5 * MSS))));
    }

    #[test]
    fn a_remote_that_forgets_gets_all_again() {
        let mut board = ten();
        sack(&mut board, 5, 7, at(20));
        board.on_ack(seq(5 * MSS), at(21));
        board.lose_all();
        check(&board);
        assert_eq!((board.lost(), board.arrived()), (5 * MSS, 0));
    }

    #[test]
    fn whatever_is_acknowledged_the_board_stays_whole_and_bounded() {
        let mut state = 1_u64;
        let mut random = |below: usize| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        for _ in 0..200 {
            let mut board = Scoreboard::default();
            let (mut una, mut nxt, mut clock) = (0, 0, 0);
            for _ in 0..300 {
                clock += random(3) as i64;
                match random(8) {
                    0 => {
                        let len = 1 + random(50 * MSS);
                        board.on_send(seq(nxt), seq(nxt + len), at(clock));
                        nxt += len;
                    }
                    1 => {
                        una += random(nxt - una + 1);
                        board.on_ack(seq(una), at(clock));
                    }
                    2 if random(4) == 0 => board.lose_all(),
                    2 => board.lose_first(random(2 * MSS)),
                    3 => {
                        if let Some((start, end)) = board.first_lost() {
                            let len = (1 + random(3 * MSS)).min(end - start);
                            board.on_send(start, start + len, at(clock));
                        }
                    }
                    _ => {
                        // Also outside of what was sent, and upside down.
                        let (from, to) = (random(nxt + 5 * MSS), random(nxt + 5 * MSS));
                        let mut delivered = Delivered::default();
                        board.on_sack(seq(from), seq(to), at(clock), &mut delivered);
                        assert!(delivered.octets <= nxt - una);
                    }
                }
                board.find_losses(at(clock), MSS, random(2) == 0, srtt());
                check(&board);
                assert_eq!(board.sent + board.lost + board.arrived, nxt - una);
            }
        }
    }

    #[test]
    fn single_octets_do_not_fill_the_memory() {
        let mut board = Scoreboard::default();
        board.on_send(seq(0), seq(100_000), at(0));
        let mut delivered = Delivered::default();
        for octet in (1..100_000).step_by(2) {
            board.on_sack(seq(octet), seq(octet + 1), at(1), &mut delivered);
        }
        check(&board);
    }

    /// A remote that acknowledges in pieces, while what was lost goes out in pieces, too.
    #[test]
    fn no_call_exceeds_the_bound() {
        let mut board = Scoreboard::default();
        for index in 0..3 * MAX_RANGES {
            board.on_send(seq(index * MSS), seq((index + 1) * MSS), at(index as i64));
            check(&board);
        }
        board.lose_all();
        let mut delivered = Delivered::default();
        for index in 0..MAX_RANGES {
            board.on_sack(
                seq(index * 99 + 50),
                seq(index * 99 + 51),
                at(900),
                &mut delivered,
            );
            let (start, _) = board.first_lost().unwrap();
            board.on_send(start, start + 1, at(901 + index as i64));
            board.on_send(
                seq((3 * MAX_RANGES + index) * MSS),
                seq((3 * MAX_RANGES + index + 1) * MSS),
                at(902 + index as i64),
            );
            board.lose_first(1);
            check(&board);
        }
        board.on_ack(seq(4 * MAX_RANGES * MSS), at(2000));
        check(&board);
        assert!(board.is_empty());
    }
}
