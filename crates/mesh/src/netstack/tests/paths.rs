//! Real paths: a rate, a delay, a queue that drops at its tail, and loss by chance.

use std::collections::VecDeque;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::super::ports::Random;
use super::super::{ConnectionId, Stack, StackConfig};
use super::link::{CALM, Link, noop, v4};
use crate::packet::PacketBuf;

const PORT: u16 = 8765;
/// Packets that arrive this close together are taken in one turn.
const TURN: Duration = Duration::from_micros(100);

/// One direction of a path.
struct Direction {
    /// Packets that wait on the own machine until somebody reads them.
    ring: VecDeque<PacketBuf>,
    room: usize,
    /// How often the reader looks; zero: there is no ring.
    pause: Duration,
    read_at: Instant,
    overrun: u64,
    rate: u64,
    delay: Duration,
    queue: Duration,
    /// Of a hundred thousand.
    loss: u64,
    random: Random,
    busy_until: Instant,
    flying: VecDeque<(Instant, PacketBuf)>,
    dropped: u64,
}

impl Direction {
    fn send(&mut self, now: Instant, packet: PacketBuf) {
        if self.pause.is_zero() {
            return self.launch(now, packet);
        }
        if self.ring.is_empty() {
            self.read_at = self.read_at.max(now);
        }
        if self.ring.len() < self.room {
            self.ring.push_back(packet);
        } else {
            self.overrun += 1;
        }
    }

    /// The reader's turn, when it has come.
    fn read(&mut self, now: Instant) {
        if self.ring.is_empty() || self.read_at > now {
            return;
        }
        while let Some(packet) = self.ring.pop_front() {
            self.launch(now, packet);
        }
        self.read_at = now + self.pause;
    }

    fn next(&self) -> Option<Instant> {
        let read = (!self.ring.is_empty()).then_some(self.read_at);
        let arrival = self.flying.front().map(|(at, _)| *at + TURN);
        [read, arrival].into_iter().flatten().min()
    }

    fn launch(&mut self, now: Instant, packet: PacketBuf) {
        let begins = self.busy_until.max(now);
        let lost = self.random.next_u64() % 100_000 < self.loss;
        if lost || begins - now > self.queue {
            self.dropped += u64::from(!lost);
            return;
        }
        self.busy_until = begins + Duration::from_nanos(packet.len() as u64 * 8_000_000_000 / self.rate);
        self.flying.push_back((self.busy_until + self.delay, packet));
    }
}

struct Path {
    stacks: [Stack; 2],
    directions: [Direction; 2],
    now: Instant,
}

/// 100 Mbit/s and 20 ms there and back.
fn path(queue: Duration, loss: u64, seed: u64) -> Path {
    let now = Instant::now();
    let stack = |host: u8| {
        let mut config = StackConfig::new(1280);
        config.seed = [host; 16];
        let mut stack = Stack::new(config, now);
        stack.set_addresses(&[v4(host)]);
        stack
    };
    let direction = |seed| Direction {
        ring: VecDeque::new(),
        room: usize::MAX,
        pause: Duration::ZERO,
        read_at: now,
        overrun: 0,
        rate: 100_000_000,
        delay: Duration::from_millis(10),
        queue,
        loss,
        random: Random::seeded(seed),
        busy_until: now,
        flying: VecDeque::new(),
        dropped: 0,
    };
    Path {
        stacks: [stack(1), stack(2)],
        directions: [direction(seed), direction(seed + 1)],
        now,
    }
}

impl Path {
    fn travel(&mut self) {
        let mut next: Option<Instant> = None;
        for (stack, direction) in self.stacks.iter_mut().zip(&mut self.directions) {
            stack.poll(self.now);
            while let Some(packet) = stack.poll_transmit() {
                direction.send(self.now, packet);
            }
            next = [next, stack.poll_timeout(), direction.next()]
                .into_iter()
                .flatten()
                .min();
        }
        self.now = next.map_or(self.now, |next| next.max(self.now));
        for (side, direction) in self.directions.iter_mut().enumerate() {
            direction.read(self.now);
            while let Some((_, packet)) = direction.flying.pop_front_if(|(at, _)| *at <= self.now) {
                self.stacks[1 - side].handle_packet(&packet, false, self.now);
            }
        }
    }

    fn connect(&mut self) -> (ConnectionId, ConnectionId) {
        let (listener, _) = self.stacks[1].tcp_listen(PORT, 4).unwrap();
        let dialled = self.stacks[0].tcp_connect(None, (v4(2), PORT).into()).unwrap();
        loop {
            self.travel();
            if let Poll::Ready(Some(accepted)) = self.stacks[1].poll_accept(listener, &noop()) {
                return (dialled, accepted);
            }
        }
    }

    /// Mbit/s of one stream, and how many packets found the queue full.
    fn stream(&mut self, duration: Duration) -> (f64, u64) {
        let (sender, receiver) = self.connect();
        let (chunk, mut buffer) = (vec![7; 64 * 1024], vec![0; 64 * 1024]);
        let (began, mut received) = (self.now, 0_usize);
        while self.now - began < duration {
            while let Poll::Ready(Ok(_)) = self.stacks[0].poll_write(sender, &noop(), &chunk) {}
            self.travel();
            while let Poll::Ready(Ok(count)) = self.stacks[1].poll_read(receiver, &noop(), &mut buffer) {
                received += count;
            }
        }
        (
            received as f64 * 8e-6 / duration.as_secs_f64(),
            self.directions[0].dropped,
        )
    }
}

#[test]
fn a_path_without_loss_is_filled() {
    let (rate, dropped) = path(Duration::from_millis(20), 0, 1).stream(Duration::from_secs(2));
    assert!(rate > 85.0, "{rate} Mbit/s");
    // Of more than 15,000.
    assert!(dropped < 400, "{dropped}");
}

#[test]
fn a_short_queue_still_lets_most_through() {
    let (rate, _) = path(Duration::from_millis(5), 0, 1).stream(Duration::from_secs(3));
    assert!(rate > 70.0, "{rate} Mbit/s");
}

/// A TUN interface holds 500 packets, and its reader has a core to itself only now and then: what a window allows must not
/// come in one burst.
#[test]
fn a_short_ring_on_the_own_machine_is_not_overrun() {
    let mut path = path(Duration::from_millis(20), 0, 1);
    for direction in &mut path.directions {
        direction.rate = 1_000_000_000;
        direction.room = 500;
    }
    path.directions[0].pause = Duration::from_millis(1);
    // Acknowledgements come in bunches.
    path.directions[1].pause = Duration::from_millis(6);
    let (rate, dropped) = path.stream(Duration::from_secs(2));
    let overrun = path.directions[0].overrun;
    assert!(
        rate > 800.0,
        "{rate} Mbit/s, {overrun} fell at the ring, {dropped} behind it"
    );
}

/// RFC 9438 §5.2: the Reno-friendly region, 1.22 segments of 1,240 over the root of the loss each 20 ms.
#[test]
fn losses_cost_what_cubic_says_and_not_a_round_trip_each() {
    for (loss, least) in [(10, 50.0), (100, 15.0), (1000, 4.0)] {
        let rates = [1, 20, 300].map(|seed| {
            path(Duration::from_millis(20), loss, seed)
                .stream(Duration::from_secs(3))
                .0
        });
        let mean = rates.iter().sum::<f64>() / rates.len() as f64;
        assert!(mean > least, "{rates:?} Mbit/s at {loss} of 100,000");
    }
}

/// Octets that the buffers of a stack may hold, and those that they have memory for.
fn buffers(stack: &Stack) -> (usize, usize) {
    let sizes = stack
        .connections
        .values()
        .map(|connection| connection.socket().buffer_sizes());
    sizes.fold((0, 0), |(limits, stored), (limit, have)| {
        (limits + limit, stored + have)
    })
}

#[test]
fn buffers_grow_with_the_path_and_are_given_back() {
    let mut path = path(Duration::from_millis(20), 0, 1);
    let (sender, receiver) = path.connect();
    assert_eq!(buffers(&path.stacks[0]), (2 * StackConfig::FIRST_BUFFER, 0));
    let (chunk, mut buffer) = (vec![7; 64 * 1024], vec![0; 64 * 1024]);
    let began = path.now;
    while path.now - began < Duration::from_secs(2) {
        while let Poll::Ready(Ok(_)) = path.stacks[0].poll_write(sender, &noop(), &chunk) {}
        path.travel();
        while let Poll::Ready(Ok(_)) = path.stacks[1].poll_read(receiver, &noop(), &mut buffer) {}
    }
    let (sending, receiving) = (buffers(&path.stacks[0]), buffers(&path.stacks[1]));
    assert!(
        sending.0 > 500_000 && receiving.0 > 400_000,
        "{sending:?} {receiving:?}"
    );
    assert!(
        sending.0 < 13 << 20 && receiving.0 < 13 << 20,
        "{sending:?} {receiving:?}"
    );
    assert!(receiving.1 <= receiving.0, "{receiving:?}");
    while path.now - began < Duration::from_secs(20) && path.stacks.iter().any(|stack| stack.poll_timeout().is_some()) {
        path.travel();
        while let Poll::Ready(Ok(_)) = path.stacks[1].poll_read(receiver, &noop(), &mut buffer) {}
    }
    for stack in &path.stacks {
        assert_eq!(buffers(stack), (2 * StackConfig::FIRST_BUFFER, 0));
        assert_eq!(stack.poll_timeout(), None);
    }
}

#[test]
fn all_connections_share_one_budget() {
    let mut link = Link::with(CALM, |config| config.buffer_budget = 1 << 20);
    let (listener, _) = link.b.tcp_listen(PORT, 16).unwrap();
    let pairs: Vec<_> = (0..8).map(|_| link.connect(listener, (v4(2), PORT).into())).collect();
    let (chunk, mut buffer) = (vec![7; 64 * 1024], vec![0; 64 * 1024]);
    for _ in 0..400 {
        for (sender, receiver) in &pairs {
            let _ = link.a.poll_write(*sender, &noop(), &chunk);
            while let Poll::Ready(Ok(_)) = link.b.poll_read(*receiver, &noop(), &mut buffer) {}
        }
        link.step();
    }
    for stack in [&link.a, &link.b] {
        let (limits, _) = buffers(stack);
        assert!(limits <= 8 * 2 * StackConfig::FIRST_BUFFER + (1 << 20), "{limits}");
    }
}
