//! Two stacks, a line between them with delay, jitter (hence reordering), loss and duplication, and a clock that only
//! the test moves.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::super::ports::Random;
use super::super::{ConnectionId, ListenerId, SocketError, Stack, StackConfig};
use crate::packet::PacketBuf;
use crate::packet::join::Joiner;
use crate::packet::vnet::VnetHeader;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    A,
    B,
}

/// How the line treats packets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weather {
    pub(super) delay: Duration,
    pub(super) jitter: Duration,
    /// Of a thousand.
    pub(super) loss: u64,
    /// Of a thousand.
    pub(super) duplication: u64,
}

pub(super) const CALM: Weather = Weather {
    delay: Duration::from_millis(5),
    jitter: Duration::ZERO,
    loss: 0,
    duplication: 0,
};

pub(super) struct Link {
    pub(super) a: Stack,
    pub(super) b: Stack,
    pub(super) now: Instant,
    pub(super) start: Instant,
    pub(super) weather: Weather,
    pub(super) cut: bool,
    pub(super) carried: u64,
    pub(super) resets: u64,
    /// What arrives at the same time is joined to super-packets first.
    pub(super) joins: bool,
    /// The largest packet that was delivered.
    pub(super) largest: usize,
    joiner: Joiner,
    random: Random,
    flying: BTreeMap<(Instant, u64), (Side, PacketBuf)>,
    count: u64,
    polls_without_progress: u32,
}

pub(super) fn v4(host: u8) -> IpAddr {
    IpAddr::from([100, 64, 0, host])
}

pub(super) fn v6(host: u16) -> IpAddr {
    IpAddr::from([0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, host])
}

pub(super) fn noop() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// Test data: bytes that repeat after a prime number of them, so that no shift by packets goes unseen.
pub(super) struct Pattern(Vec<u8>);

const PERIOD: usize = 1_000_003;

impl Pattern {
    pub(super) fn new() -> Self {
        let mut random = Random::seeded(7);
        let mut bytes: Vec<u8> = (0..PERIOD + 64 * 1024).map(|_| random.next_u64() as u8).collect();
        bytes.copy_within(..64 * 1024, PERIOD);
        Self(bytes)
    }

    /// At most 64 KiB of it from `offset` on.
    pub(super) fn at(&self, offset: u64, len: usize) -> &[u8] {
        let start = (offset % PERIOD as u64) as usize;
        &self.0[start..start + len]
    }
}

impl Link {
    pub(super) fn new(weather: Weather) -> Self {
        Self::with(weather, |_config| ())
    }

    pub(super) fn with(weather: Weather, change: impl Fn(&mut StackConfig)) -> Self {
        let start = Instant::now();
        let stack = |seed: u8, addresses: [IpAddr; 2]| {
            let mut config = StackConfig::new(1280);
            config.seed = [seed; 16];
            change(&mut config);
            let mut stack = Stack::new(config, start);
            stack.set_addresses(&addresses);
            stack
        };
        Self {
            a: stack(1, [v4(1), v6(1)]),
            b: stack(2, [v4(2), v6(2)]),
            now: start,
            start,
            weather,
            cut: false,
            carried: 0,
            resets: 0,
            joins: false,
            largest: 0,
            joiner: Joiner::new(),
            random: Random::seeded(42),
            flying: BTreeMap::new(),
            count: 0,
            polls_without_progress: 0,
        }
    }

    pub(super) fn stack(&mut self, side: Side) -> &mut Stack {
        match side {
            Side::A => &mut self.a,
            Side::B => &mut self.b,
        }
    }

    /// Nothing flies and nobody has a deadline.
    pub(super) fn is_quiet(&self) -> bool {
        self.flying.is_empty() && self.a.poll_timeout().is_none() && self.b.poll_timeout().is_none()
    }

    /// One turn of both drivers, then the clock goes on to the next event; false when there is none.
    pub(super) fn step(&mut self) -> bool {
        self.turn();
        assert_eq!((self.a.stalled(), self.b.stalled()), (None, None));
        let deadlines = [
            self.a.poll_timeout(),
            self.b.poll_timeout(),
            self.flying.keys().next().map(|(at, _)| *at),
        ];
        let Some(next) = deadlines.into_iter().flatten().min() else {
            return false;
        };
        if next > self.now {
            self.now = next;
            self.polls_without_progress = 0;
        } else {
            self.polls_without_progress += 1;
            assert!(
                self.polls_without_progress < 100,
                "the driver would spin: {:?} {:?}",
                self.a,
                self.b
            );
        }
        self.deliver();
        true
    }

    /// Polls both and puts what they send onto the line, without moving the clock.
    pub(super) fn turn(&mut self) {
        for side in [Side::A, Side::B] {
            let now = self.now;
            self.stack(side).poll(now);
            while let Some(packet) = self.stack(side).poll_transmit() {
                self.polls_without_progress = 0;
                self.launch(side, packet);
            }
        }
    }

    fn launch(&mut self, from: Side, packet: PacketBuf) {
        assert!(packet.len() <= 1280);
        self.carried += 1;
        let is_reset = packet.len() >= 40 && packet[0] == 0x45 && packet[9] == 6 && packet[33] & 0x04 != 0;
        self.resets += u64::from(is_reset);
        if self.cut || self.random.next_u64() % 1000 < self.weather.loss {
            return;
        }
        let copies = if self.random.next_u64() % 1000 < self.weather.duplication {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let jitter = self.weather.jitter.as_micros() as u64;
            let extra = if jitter == 0 {
                0
            } else {
                self.random.next_u64() % jitter
            };
            self.count += 1;
            let at = self.now + self.weather.delay + Duration::from_micros(extra);
            self.flying.insert((at, self.count), (from, packet.clone()));
        }
    }

    fn deliver(&mut self) {
        let (mut to_a, mut to_b) = (Vec::new(), Vec::new());
        while let Some(entry) = self.flying.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            match entry.remove() {
                (Side::A, packet) => to_b.push(packet),
                (Side::B, packet) => to_a.push(packet),
            }
        }
        for (stack, packets) in [(&mut self.a, to_a), (&mut self.b, to_b)] {
            let now = self.now;
            if !packets.is_empty() {
                self.polls_without_progress = 0;
            }
            if !self.joins {
                for packet in packets {
                    stack.handle_packet(&packet, false, now);
                }
                continue;
            }
            let largest = &mut self.largest;
            let mut sink = |joined: &mut [u8]| {
                let (header, packet) = joined.split_at_mut(VnetHeader::LEN);
                let verified = VnetHeader::parse(header).unwrap().needs_checksum();
                *largest = packet.len().max(*largest);
                stack.handle_packet(packet, verified, now);
            };
            for packet in packets {
                self.joiner.push(&packet, &mut sink);
            }
            self.joiner.flush(&mut sink);
        }
    }

    /// Steps until nothing is left to happen, for at most `limit` of invented time.
    pub(super) fn run_for(&mut self, limit: Duration) {
        let end = self.now + limit;
        loop {
            self.turn();
            let deadlines = [
                self.a.poll_timeout(),
                self.b.poll_timeout(),
                self.flying.keys().next().map(|(at, _)| *at),
            ];
            match deadlines.into_iter().flatten().min() {
                Some(next) if next <= end => {
                    self.step();
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// Steps until `done`, which may work with the sockets; panics when nothing happens any more.
    pub(super) fn run_until<T>(&mut self, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        loop {
            if let Some(result) = done(self) {
                return result;
            }
            let mut idle_turns = 0;
            while !self.step() {
                if let Some(result) = done(self) {
                    return result;
                }
                idle_turns += 1;
                assert!(
                    idle_turns < 10_000,
                    "nothing left to happen after {:?}: {:?} {:?}",
                    self.now - self.start,
                    self.a,
                    self.b
                );
            }
            assert!(self.now - self.start < Duration::from_secs(86_400), "a day went by");
        }
    }

    /// A connects to a listener of B.
    pub(super) fn connect(&mut self, listener: ListenerId, remote: SocketAddr) -> (ConnectionId, ConnectionId) {
        let dialled = self.a.tcp_connect(None, remote).unwrap();
        let accepted = self.run_until(|link| match link.b.poll_accept(listener, &noop()) {
            Poll::Ready(accepted) => accepted,
            Poll::Pending => None,
        });
        self.opened(dialled).unwrap();
        (dialled, accepted)
    }

    /// Waits for the outcome of a connect of A's.
    pub(super) fn opened(&mut self, id: ConnectionId) -> Result<(), SocketError> {
        self.run_until(|link| match link.a.poll_connected(id, &noop()) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        })
    }

    /// Reads what is there: bytes, or the end, or the error.
    pub(super) fn read(&mut self, side: Side, id: ConnectionId) -> Poll<std::io::Result<Vec<u8>>> {
        let mut buffer = vec![0; 64 * 1024];
        self.stack(side)
            .poll_read(id, &noop(), &mut buffer)
            .map_ok(|count| buffer[..count].to_vec())
    }

    pub(super) fn write(&mut self, side: Side, id: ConnectionId, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.stack(side).poll_write(id, &noop(), bytes)
    }

    /// Reads until the end of the stream.
    pub(super) fn read_to_end(&mut self, side: Side, id: ConnectionId) -> std::io::Result<Vec<u8>> {
        let mut all = Vec::new();
        self.run_until(|link| {
            loop {
                match link.read(side, id) {
                    Poll::Ready(Ok(bytes)) if bytes.is_empty() => return Some(Ok(())),
                    Poll::Ready(Ok(bytes)) => all.extend(bytes),
                    Poll::Ready(Err(error)) => return Some(Err(error)),
                    Poll::Pending => return None,
                }
            }
        })?;
        Ok(all)
    }
}
