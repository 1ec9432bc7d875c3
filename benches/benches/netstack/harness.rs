//! What lies between two stacks: nothing, the splitter and the joiner, or a path that delays and loses.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use sandd_mesh::netstack::Stack;
use sandd_mesh::packet::join::Joiner;
use sandd_mesh::packet::split::Splitter;
use sandd_mesh::packet::vnet::VnetHeader;

/// Packets that arrive this close together are taken in one turn, as a busy driver does.
const TURN: Duration = Duration::from_micros(50);

/// Brings packets from one stack to another at once.
pub(crate) struct Carry {
    splits: bool,
    joiner: Option<Joiner>,
    slot: Vec<u8>,
}

impl Carry {
    pub(crate) fn whole() -> Self {
        Self {
            splits: false,
            joiner: None,
            slot: vec![0; 65_536],
        }
    }

    pub(crate) fn split() -> Self {
        Self {
            splits: true,
            ..Self::whole()
        }
    }

    pub(crate) fn joined() -> Self {
        Self {
            joiner: Some(Joiner::new()),
            ..Self::split()
        }
    }

    pub(crate) fn over(&mut self, from: &mut Stack, to: &mut Stack, now: Instant) {
        while let Some((offload, packet)) = from.poll_transmit_super() {
            if !self.splits {
                to.handle_packet(&packet, offload.needs_checksum(), now);
                from.recycle(packet);
                continue;
            }
            let splitter = Splitter::new(&offload, &packet).expect("the stack's own packet");
            for index in 0..splitter.count() {
                let segment = &mut self.slot[..splitter.len_of(index)];
                splitter.write(index, segment);
                match &mut self.joiner {
                    Some(joiner) => joiner.push(segment, &mut |joined| take(to, joined, now)),
                    None => to.handle_packet(segment, false, now),
                }
            }
            from.recycle(packet);
        }
        if let Some(joiner) = &mut self.joiner {
            joiner.flush(&mut |joined| take(to, joined, now));
        }
    }
}

fn take(stack: &mut Stack, joined: &[u8], now: Instant) {
    let (header, packet) = joined.split_at(VnetHeader::LEN);
    let verified = VnetHeader::parse(header).is_some_and(|header| header.needs_checksum());
    stack.handle_packet(packet, verified, now);
}

/// One direction of a path: a rate, a delay, a queue that drops at its tail, and loss by chance.
pub(crate) struct Bottleneck {
    rate: u64,
    delay: Duration,
    buffer: Duration,
    loss: f64,
    state: u64,
    busy_until: Instant,
    flying: VecDeque<(Instant, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
    joiner: Joiner,
}

impl Bottleneck {
    pub(crate) fn new(rate: u64, delay: Duration, buffer: Duration, loss: f64, seed: u64, now: Instant) -> Self {
        Self {
            rate,
            delay,
            buffer,
            loss,
            state: seed,
            busy_until: now,
            flying: VecDeque::new(),
            spare: Vec::new(),
            joiner: Joiner::new(),
        }
    }

    fn chance(&mut self) -> f64 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(crate) fn send(&mut self, now: Instant, packet: &[u8]) {
        let begins = self.busy_until.max(now);
        if begins - now > self.buffer || self.chance() < self.loss {
            return;
        }
        self.busy_until = begins + Duration::from_nanos(packet.len() as u64 * 8_000_000_000 / self.rate);
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(packet);
        self.flying.push_back((self.busy_until + self.delay, copy));
    }

    /// When the next turn of the receiver is.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.flying.front().map(|(at, _)| *at + TURN)
    }

    pub(crate) fn deliver(&mut self, to: &mut Stack, now: Instant) {
        while let Some((_, packet)) = self.flying.pop_front_if(|(at, _)| *at <= now) {
            self.joiner.push(&packet, &mut |joined| take(to, joined, now));
            self.spare.push(packet);
        }
        self.joiner.flush(&mut |joined| take(to, joined, now));
    }
}

/// Resident set of this process.
pub(crate) fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}
