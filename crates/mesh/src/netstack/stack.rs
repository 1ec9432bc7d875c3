//! [`Stack`]: the pure machine. Its socket operations are in `tcp.rs`, `udp.rs` and `echo.rs`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::task::Waker;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, PollResult, SocketSet};
use smoltcp::wire::HardwareAddress;

use super::clock::Clock;
use super::connection::{Connection, Patience};
use super::device::{Feed, QueueDevice};
use super::echo::Echoes;
use super::ingress::{self, FourTuple, Inbound, Kind, SegmentFlags};
use super::listener::Listener;
use super::ports::Random;
use super::schedule::Schedule;
use super::time_wait::TimeWait;
use super::udp::Datagrams;
use super::{ConnectionId, ListenerId, StackConfig, StackMetrics, UdpId};
use crate::packet::PacketBuf;
use crate::packet::split::Splitter;
use crate::packet::vnet::VnetHeader;

/// Segments that one connection may send before the next one gets its turn.
const QUANTUM: usize = 32;
/// Packets to ourselves that one poll may carry around.
const LOOPED_PER_POLL: usize = 4_096;
/// When smoltcp says "at once" and then does nothing, it is asked again after this.
const NOTHING_DONE: Duration = Duration::from_millis(5);

/// A userspace TCP/IP stack without clock, task or lock; see the [module](super) for who calls what.
pub struct Stack {
    pub(super) interface: Interface,
    pub(super) device: QueueDevice,
    nobody: SocketSet<'static>,
    pub(super) clock: Clock,
    pub(super) now: Instant,
    pub(super) config: StackConfig,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) random: Random,
    pub(super) last_id: u64,
    pub(super) connections: BTreeMap<ConnectionId, Connection>,
    pub(super) by_tuple: HashMap<FourTuple, ConnectionId>,
    pub(super) time_wait: TimeWait,
    pub(super) schedule: Schedule,
    /// What all buffers together may hold beyond what they began with.
    granted: usize,
    pub(super) listeners: BTreeMap<ListenerId, Listener>,
    pub(super) listening: BTreeMap<u16, ListenerId>,
    pub(super) datagrams: BTreeMap<UdpId, Datagrams>,
    pub(super) bound: BTreeMap<u16, UdpId>,
    pub(super) echoes: Echoes,
    pub(super) wakeups: Vec<Waker>,
    pub(super) room_waiters: Vec<Waker>,
    /// An owner gave the driver work since the last poll.
    pub(super) driver_due: bool,
    /// The driver was called for it, and has not polled yet.
    pub(super) driver_called: bool,
    pub(super) metrics: StackMetrics,
    /// What a super-packet was cut into for [`poll_transmit`](Self::poll_transmit).
    pieces: VecDeque<PacketBuf>,
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stack")
            .field("addresses", &self.addresses)
            .field("connections", &self.connections.len())
            .field("listening", &self.listening)
            .field("metrics", &self.metrics)
            .finish_non_exhaustive()
    }
}

impl Stack {
    /// A stack without addresses: everything that comes in is dropped until [`set_addresses`](Self::set_addresses).
    #[must_use]
    pub fn new(mut config: StackConfig, now: Instant) -> Self {
        config.bound();
        let clock = Clock::starting_at(now);
        let mut device = QueueDevice::new();
        let seed = u128::from_le_bytes(config.seed);
        let mut inner = Config::new(HardwareAddress::Ip);
        inner.random_seed = seed as u64;
        let mut interface = Interface::new(inner, &mut device, clock.inner(now));
        // smoltcp holds very few addresses; `handle_packets` is the one that compares destinations.
        interface.set_any_ip(true);
        Self {
            interface,
            device,
            nobody: SocketSet::new(Vec::new()),
            clock,
            now,
            config,
            addresses: Vec::new(),
            random: Random::seeded((seed >> 64) as u64),
            last_id: 0,
            connections: BTreeMap::new(),
            by_tuple: HashMap::new(),
            time_wait: TimeWait::default(),
            schedule: Schedule::default(),
            granted: 0,
            listeners: BTreeMap::new(),
            listening: BTreeMap::new(),
            datagrams: BTreeMap::new(),
            bound: BTreeMap::new(),
            echoes: Echoes::default(),
            wakeups: Vec::new(),
            room_waiters: Vec::new(),
            driver_due: false,
            driver_called: false,
            metrics: StackMetrics::default(),
            pieces: VecDeque::new(),
        }
    }

    /// The addresses of this node, at most a few of each family. Connections of an address that stays are not touched;
    /// those of one that goes end with [`SocketError::AddressGone`](super::SocketError::AddressGone).
    pub fn set_addresses(&mut self, addresses: &[IpAddr]) {
        self.addresses = addresses
            .iter()
            .copied()
            .filter(|address| ingress::is_host(*address))
            .collect();
        self.device.set_local(&self.addresses);
        self.end_foreign_connections();
    }

    /// The addresses given last.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// The largest IP packet that this stack sends.
    #[must_use]
    pub const fn mtu(&self) -> usize {
        self.config.mtu
    }

    /// Counters since the start.
    #[must_use]
    pub const fn metrics(&self) -> StackMetrics {
        let mut metrics = self.metrics;
        metrics.dropped_transmit = self.device.dropped();
        metrics
    }

    /// Connections that are more than the memory of one.
    #[must_use]
    pub fn connection_count(&self) -> usize {
        self.connections.len()
    }

    /// Takes packets from the engine, in order. Answers are queued for [`poll_transmit`](Self::poll_transmit).
    pub fn handle_packets(&mut self, packets: impl IntoIterator<Item = PacketBuf>, now: Instant) {
        for packet in packets {
            self.handle_packet(&packet, false, now);
        }
    }

    /// Takes one packet, which may be a super-packet of up to 64 KiB. `verified`: its transport checksum was looked at
    /// before, and the field need not be right any more.
    pub fn handle_packet(&mut self, packet: &[u8], verified: bool, now: Instant) {
        self.advance(now);
        self.metrics.packets_in += 1;
        self.receive(packet, verified, false);
    }

    /// Does all that is due: timers, and what the owners of sockets asked for since the last poll.
    pub fn poll(&mut self, now: Instant) {
        self.advance(now);
        self.driver_due = false;
        self.driver_called = false;
        self.send_echoes();
        self.time_wait.expire(now);
        while let Some(id) = self.schedule.pop_due(now) {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.place.left_deadlines();
                self.schedule.set_ready(id, &mut connection.place);
            }
        }
        // Those that become ready during this loop, and those that used up their quantum, stand behind these.
        let mut turns = self.schedule.ready_len().saturating_add(QUANTUM);
        while turns > 0 && self.device.has_room() {
            let Some(id) = self.schedule.pop_ready() else { break };
            turns -= 1;
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.place.left_ready();
                self.settle(id);
            }
        }
        for _ in 0..LOOPED_PER_POLL {
            let Some(packet) = self.device.pop_looped() else {
                break;
            };
            self.receive(&packet, true, true);
            self.device.recycle(packet);
        }
    }

    /// The next packet for the engine, cut to the MTU and finished.
    pub fn poll_transmit(&mut self) -> Option<PacketBuf> {
        while self.pieces.is_empty() {
            let (offload, packet) = self.poll_transmit_super()?;
            if offload.gso_size == 0 {
                return Some(packet);
            }
            // What the stack makes can be split; were it not so, the peer would ask for it again.
            if let Ok(splitter) = Splitter::new(&offload, &packet) {
                for index in 0..splitter.count() {
                    let mut piece = self.device.buffer(splitter.len_of(index));
                    splitter.write(index, &mut piece);
                    self.pieces.push_back(piece);
                }
            }
            self.device.recycle(packet);
        }
        self.pieces.pop_front()
    }

    /// The next packet for the engine, with what is left to be done to it: to cut it into segments and to compute their
    /// checksums. Give the buffer back by [`recycle`](Self::recycle).
    pub fn poll_transmit_super(&mut self) -> Option<(VnetHeader, PacketBuf)> {
        let outgoing = self.device.pop_transmit()?;
        self.metrics.packets_out += 1;
        if !self.room_waiters.is_empty() && self.device.is_roomy() {
            self.wakeups.append(&mut self.room_waiters);
        }
        Some(outgoing)
    }

    /// Takes the buffer of a sent packet back, for the next one.
    pub fn recycle(&mut self, packet: PacketBuf) {
        self.device.recycle(packet);
    }

    /// When [`poll`](Self::poll) must be called at the latest. `None`: only a packet or an owner's wish gives it work.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let at_once = self.device.has_looped()
            || (self.device.has_room() && (self.schedule.has_ready() || self.echoes.has_unsent()));
        if at_once {
            Some(self.now)
        } else {
            self.schedule.next_deadline()
        }
    }

    /// Time never runs backwards here, whatever the caller says.
    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    fn receive(&mut self, packet: &[u8], verified: bool, looped: bool) {
        let Some(inbound) = ingress::classify(packet, verified) else {
            self.metrics.dropped_malformed += 1;
            return;
        };
        let Inbound {
            len,
            source,
            destination,
            kind,
        } = inbound;
        if !self.addresses.contains(&destination) {
            self.metrics.dropped_foreign += 1;
            return;
        }
        if !ingress::is_host(source) || self.addresses.contains(&source) != looped {
            self.metrics.dropped_source += 1;
            return;
        }
        let Some(packet) = packet.get(..len) else { return };
        match kind {
            Kind::Tcp { tuple, flags } => self.handle_segment(packet, verified, tuple, flags),
            Kind::Udp { tuple, payload } => {
                if !self.handle_datagram(tuple, packet.get(payload).unwrap_or_default()) {
                    self.answer_for_nobody(packet, verified);
                }
            }
            Kind::EchoRequest => self.answer_for_nobody(packet, verified),
            Kind::EchoReply { ident, sequence } => self.handle_echo_reply(source, ident, sequence),
        }
    }

    /// smoltcp answers what finds no socket: RST, port unreachable, or the echo.
    pub(super) fn answer_for_nobody(&mut self, packet: &[u8], verified: bool) {
        let now = self.clock.inner(self.now);
        let mut feed = Feed {
            queues: &mut self.device,
            packet: Some(packet),
            verified,
        };
        self.interface.poll_ingress_single(now, &mut feed, &mut self.nobody);
    }

    /// Feeds a segment to its connection.
    pub(super) fn feed(&mut self, id: ConnectionId, packet: &[u8], verified: bool, flags: SegmentFlags) {
        let Some(connection) = self.connections.get_mut(&id).filter(|connection| !connection.detached) else {
            return;
        };
        let before = connection.socket().state();
        connection.busy = true;
        let now = self.clock.inner(self.now);
        let mut feed = Feed {
            queues: &mut self.device,
            packet: Some(packet),
            verified,
        };
        self.interface
            .poll_ingress_single(now, &mut feed, &mut connection.sockets);
        connection.after_packet(before, flags.resets);
        self.settle(id);
    }

    /// Gives a connection its turn: sends what it may, ends it when it is over, wakes its owner, sets its deadline.
    pub(super) fn settle(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let patience = Patience {
            handshake: self.config.connect_timeout,
            data: self.config.stall_timeout,
        };
        if connection.observe(self.now) {
            self.handshake_ended(id);
        }
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.expire(self.now, patience);
        let now = self.clock.inner(self.now);
        let mut next = None;
        if !connection.detached && !connection.is_past_time_wait(self.now) {
            let mut sent = 0;
            loop {
                next = self.interface.poll_at(now, &connection.sockets);
                if next.is_none_or(|at| at > now) || sent == QUANTUM || !self.device.has_room() {
                    break;
                }
                if self
                    .interface
                    .poll_egress(now, &mut self.device, &mut connection.sockets)
                    == PollResult::None
                {
                    next = self.interface.poll_at(now, &connection.sockets);
                    break;
                }
                sent += 1;
            }
            if next.is_some_and(|at| at <= now) && (sent == QUANTUM || !self.device.has_room()) {
                self.schedule.set_ready(id, &mut connection.place);
                next = None;
            }
            if sent > 0 && connection.is_in_time_wait() && !self.addresses.contains(&connection.tuple.remote.ip()) {
                connection.last_ack = self.device.last_sent().cloned();
            }
        }
        if (connection.orphan || connection.is_past_time_wait(self.now))
            && let Some(answer) = connection.last_ack.take()
        {
            self.time_wait.insert(connection.tuple, answer, self.now);
            self.detach(id);
            return self.conclude(id, None);
        }
        if connection.is_over() || connection.is_past_time_wait(self.now) {
            self.detach(id);
        }
        self.conclude(id, next);
    }

    /// The last part of a turn: wakes and deadlines, or the end of the record.
    fn conclude(&mut self, id: ConnectionId, next: Option<smoltcp::time::Instant>) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.take_wakers(&mut self.wakeups);
        if connection.detached {
            self.schedule.forget(id, &mut connection.place);
            if connection.orphan {
                self.remove(id);
            }
            return;
        }
        connection.keep_lean(self.now);
        let extra = connection.extra();
        self.granted = self.granted.saturating_sub(connection.granted).saturating_add(extra);
        connection.granted = extra;
        // One more may grow as long as all may hold what they have been granted.
        let free = self.config.buffer_budget.saturating_sub(self.granted);
        let whole = self.config.receive_buffer.saturating_add(self.config.send_buffer);
        let limit = if free >= whole {
            usize::MAX
        } else {
            StackConfig::FIRST_BUFFER
        };
        connection.socket_mut().set_buffer_limit(limit);
        let inner = next.map(|at| {
            self.clock
                .outer(at)
                .filter(|at| *at > self.now)
                .unwrap_or(self.now + NOTHING_DONE)
        });
        let deadline = [inner, connection.deadline()].into_iter().flatten().min();
        self.schedule.set_deadline(id, &mut connection.place, deadline);
    }

    /// Forgets a connection.
    pub(super) fn remove(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.remove(&id) {
            self.granted = self.granted.saturating_sub(connection.granted);
        }
    }

    /// The first of our addresses that could reach `remote`.
    pub(super) fn source_for(&self, remote: IpAddr) -> Option<IpAddr> {
        self.addresses
            .iter()
            .copied()
            .find(|address| address.is_ipv4() == remote.is_ipv4())
    }

    /// A name for a new socket.
    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Peers are dialled by one address and port; all else would only waste packets.
    pub(super) fn is_dialable(remote: SocketAddr) -> bool {
        remote.port() != 0 && ingress::is_host(remote.ip())
    }
}
