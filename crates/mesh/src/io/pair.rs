//! [`Pair`]: two engines and a wire in memory between them, with lanes as a node has them: what tests and benches of lanes
//! need of a node, and nothing of the kernel.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ipnet::IpNet;
use sandd_control_client::keys::{DiscoPrivateKey, NodePrivateKey};
use sandd_control_client::netmap::{
    FilterDst, FilterRule, FilterSrc, IpRange, NetmapDelta, NetmapUpdate, NetworkMap, Node, NodeId, UserId,
};

use super::lanes::Lanes;
use crate::engine::{Engine, Job, OpenQueue, Opening, Overlay, Underlay};
use crate::packet::join::Joiner;
use crate::packet::vnet::{GSO_TCPV4, NEEDS_CSUM, VnetHeader};
use crate::wg::Clock;

/// TCP payload of each packet.
pub const SEGMENT: usize = 1_240;
/// Packets of a super-packet.
pub const SEGMENTS: usize = 45;
/// IPv4 and TCP headers.
pub const HEADERS: usize = 40;
/// Receives of a node before it looks at its device.
const TURN: usize = 16;

/// See the module's text. The first end sends, the second receives.
#[derive(Debug)]
pub struct Pair {
    sender: End,
    receiver: End,
    now: Instant,
    packet: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct End {
    pub(crate) engine: Engine,
    pub(crate) lanes: Option<Lanes>,
    pub(crate) opens: OpenQueue,
    node: Node,
    pub(crate) addr: SocketAddr,
    /// What has arrived: buffers with datagrams of one size, how many bytes, and that size.
    pub(crate) arrived: VecDeque<(Vec<u8>, usize, usize)>,
    spare: Vec<Vec<u8>>,
}

/// A device that shows each packet.
pub(crate) struct Seen<F>(pub(crate) F);

impl<F: FnMut(&[u8])> Overlay for Seen<F> {
    fn deliver(&mut self, packet: &mut [u8]) {
        (self.0)(packet);
    }
}

/// The device of the receiver: joins, and shows each packet before.
struct Sink<F> {
    joiner: Joiner,
    see: F,
}

impl<F: FnMut(&[u8])> Overlay for Sink<F> {
    fn deliver(&mut self, packet: &mut [u8]) {
        (self.see)(packet);
        self.joiner.push(packet, &mut |_| {});
    }
}

impl Pair {
    /// Two nodes that have met and hold a direct path, each with so many lanes.
    #[must_use]
    pub fn new(lanes: usize) -> Self {
        Self::with(lanes, Job::run)
    }

    /// Jobs of lanes are done by `run`.
    pub(crate) fn with(lanes: usize, run: fn(&mut Job)) -> Self {
        let now = Instant::now();
        let (mut sender, mut receiver) = (end(1, lanes, run, now), end(2, lanes, run, now));
        meet(&mut sender, &receiver, now);
        meet(&mut receiver, &sender, now);
        let packet = super_packet(&sender.node, &receiver.node);
        let mut pair = Self {
            sender,
            receiver,
            now,
            packet,
        };
        pair.send(1);
        for _ in 0..100 {
            pair.pass(Duration::from_millis(50));
        }
        pair
    }

    /// Time goes by: what is due is done, and all that waits is carried.
    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        for end in [&mut self.sender, &mut self.receiver] {
            if end.engine.poll_timeout().is_some_and(|at| at <= self.now) {
                end.engine.handle_timeout(self.now);
            }
        }
        self.carry(|_| {});
    }

    /// The sender takes so many super-packets from its device and sends them; they have arrived then.
    pub fn send(&mut self, count: usize) {
        let header = VnetHeader {
            flags: NEEDS_CSUM,
            gso_type: GSO_TCPV4,
            hdr_len: 40,
            gso_size: SEGMENT as u16,
            csum_start: 20,
            csum_offset: 16,
        };
        let Self {
            sender,
            receiver,
            now,
            packet,
        } = self;
        for _ in 0..count {
            sender.engine.handle_overlay(&header, packet, *now);
            next_sequence(packet);
            match &mut sender.lanes {
                Some(lanes) => lanes.advance(sender.engine.queue(), false, |queue| {
                    while queue.len() > 1 && arrive(queue, receiver) {}
                }),
                None => while arrive(sender.engine.queue(), receiver) {},
            }
        }
        flush(sender, receiver);
    }

    /// The receiver takes what has arrived, and shows every packet that it delivers.
    pub fn receive(&mut self, see: impl FnMut(&[u8])) {
        let mut sink = Sink {
            joiner: Joiner::new(),
            see,
        };
        take(&mut self.receiver, self.sender.addr, self.now, &mut sink);
    }

    /// Brings over what waits on either side, until nothing does.
    pub fn carry(&mut self, mut see: impl FnMut(&[u8])) {
        loop {
            flush(&mut self.sender, &mut self.receiver);
            self.receive(&mut see);
            flush(&mut self.receiver, &mut self.sender);
            if self.sender.arrived.is_empty() {
                return;
            }
            take(&mut self.sender, self.receiver.addr, self.now, &mut Seen(|_: &[u8]| {}));
        }
    }

    /// The age of the sender's session.
    #[must_use]
    pub fn session_age(&self) -> Option<u64> {
        self.sender.engine.peer_status(self.now).first()?.session_age_secs
    }

    /// As on a system that starts no more threads.
    #[cfg(test)]
    pub(crate) fn refuse_threads(&mut self) {
        for end in [&mut self.sender, &mut self.receiver] {
            end.lanes.iter_mut().for_each(Lanes::refuse_threads);
        }
    }

    /// For tests that play a lane themselves: the receiver, and the time.
    #[cfg(test)]
    pub(crate) fn receiver(&mut self) -> (&mut End, SocketAddr, Instant) {
        (&mut self.receiver, self.sender.addr, self.now)
    }
}

/// What a node without lanes and one with them do with what its sockets have.
fn take(end: &mut End, from: SocketAddr, now: Instant, overlay: &mut impl Overlay) {
    let End {
        engine,
        lanes,
        opens: queue,
        arrived,
        spare,
        ..
    } = end;
    while !arrived.is_empty() {
        for _ in 0..TURN {
            let Some((mut buffer, len, stride)) = arrived.pop_front() else {
                break;
            };
            match lanes {
                Some(lanes) => {
                    queue.push((from, 0), &mut buffer, 0..len, stride);
                    let mut opening = Opening { queue, engine, now };
                    lanes.advance(&mut opening, false, |opening| opening.deliver(overlay));
                }
                None => engine.handle_udp(from, 0, &mut buffer[..len], stride, now, overlay),
            }
            spare.push(buffer);
        }
        if let Some(lanes) = lanes {
            let mut opening = Opening { queue, engine, now };
            lanes.advance(&mut opening, true, |opening| opening.deliver(overlay));
        }
    }
    while engine.poll_output().is_some() {}
}

fn flush(from: &mut End, to: &mut End) {
    if let Some(lanes) = &mut from.lanes {
        lanes.advance(from.engine.queue(), true, |queue| while arrive(queue, to) {});
    }
    while arrive(from.engine.queue(), to) {}
    while from.engine.poll_output().is_some() {}
}

/// Carries one batch over the wire; false when none is ready.
fn arrive(queue: &mut crate::engine::SendQueue, to: &mut End) -> bool {
    let Some(batch) = queue.front() else { return false };
    if matches!(batch.to(), Underlay::Udp(_)) {
        let mut buffer = to.spare.pop().unwrap_or_else(|| vec![0; 65_536]);
        let len = batch.contents().len();
        buffer[..len].copy_from_slice(batch.contents());
        to.arrived.push_back((buffer, len, batch.stride()));
    }
    queue.pop();
    true
}

fn end(number: u8, lanes: usize, run: fn(&mut Job), now: Instant) -> End {
    let (key, disco) = (NodePrivateKey::generate(), DiscoPrivateKey::generate());
    let addr = SocketAddr::from(([192, 0, 2, number], 41_641));
    let address = IpNet::from(IpAddr::from(Ipv4Addr::new(100, 64, 0, number)));
    let node = Node {
        id: NodeId(number.into()),
        stable_id: number.to_string(),
        name: format!("end-{number}.sandd.local"),
        user: UserId(1),
        key: key.public(),
        key_expiry: None,
        expired: false,
        machine: None,
        disco_key: Some(disco.public()),
        addresses: vec![address],
        allowed_ips: vec![address],
        endpoints: vec![addr],
        home_derp: None,
        os: "linux".to_owned(),
        hostname: format!("end-{number}"),
        tags: Vec::new(),
        online: Some(true),
        last_seen: None,
        wireguard_only: false,
        jailed: false,
        cap_map: BTreeMap::new(),
        machine_authorized: true,
    };
    let mut engine = Engine::new(&key, disco, 1_280, Clock::new(SystemTime::now(), now));
    let lanes = Lanes::with(lanes, run);
    if lanes.is_some() {
        engine.use_lanes();
    }
    End {
        engine,
        lanes,
        opens: OpenQueue::default(),
        node,
        addr,
        arrived: VecDeque::new(),
        spare: Vec::new(),
    }
}

/// Tells an end of the other one, and that everything is allowed.
fn meet(own: &mut End, other: &End, now: Instant) {
    let all = IpRange {
        first: Ipv4Addr::UNSPECIFIED.into(),
        last: Ipv4Addr::BROADCAST.into(),
    };
    let rule = FilterRule {
        src: vec![FilterSrc::Range(all)],
        dst: vec![FilterDst {
            range: all,
            first_port: 0,
            last_port: u16::MAX,
        }],
        protocols: vec![6],
        grants: Vec::new(),
    };
    let map = NetworkMap {
        self_node: Some(Arc::new(own.node.clone())),
        peers: std::iter::once(Arc::new(other.node.clone())).collect(),
        filter: Arc::new(vec![rule]),
        ..NetworkMap::default()
    };
    let update = NetmapUpdate {
        map: Arc::new(map),
        delta: NetmapDelta {
            full: true,
            upserted: vec![other.node.id],
            self_node: true,
            filter: true,
            ..NetmapDelta::default()
        },
        cached: false,
    };
    own.engine.handle_netmap(&update, now);
    own.engine.set_endpoints(vec![own.addr], now);
}

/// TCP as a kernel device gives it: partial checksum, to be cut into 45 segments.
fn super_packet(from: &Node, to: &Node) -> Vec<u8> {
    let mut packet = vec![0u8; HEADERS + SEGMENT * SEGMENTS];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(HEADERS as u16 + (SEGMENT * SEGMENTS) as u16).to_be_bytes());
    packet[6] = 0x40;
    packet[8] = 64;
    packet[9] = 6;
    for (at, node) in [(12, from), (16, to)] {
        if let Some(IpAddr::V4(address)) = node.ips().next() {
            packet[at..at + 4].copy_from_slice(&address.octets());
        }
    }
    packet[20..24].copy_from_slice(&[0xc0, 0x00, 0x13, 0x89]);
    packet[32] = 5 << 4;
    packet[33] = 0x10;
    packet[34] = 0xff;
    packet
}

/// The sequence number of a TCP packet without IP options.
#[must_use]
pub fn sequence(packet: &[u8]) -> u32 {
    packet[24..28].iter().fold(0, |all, byte| all << 8 | u32::from(*byte))
}

fn next_sequence(packet: &mut [u8]) {
    let next = sequence(packet).wrapping_add((SEGMENT * SEGMENTS) as u32);
    packet[24..28].copy_from_slice(&next.to_be_bytes());
}
