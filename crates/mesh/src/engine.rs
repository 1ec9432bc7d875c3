//! [`Engine`]: the pure node. It holds peers, tunnels, paths, routes and rules; it owns no socket and reads no clock.
//!
//! The shell (`io/driver.rs`) feeds it: datagrams ([`Engine::handle_udp`]), relay packets ([`Engine::handle_derp`]),
//! overlay packets ([`Engine::handle_overlay`]), network maps ([`Engine::handle_netmap`]), the clock
//! ([`Engine::handle_timeout`]). After each it sends [`Engine::queue`], drains [`Engine::poll_output`] and asks
//! [`Engine::poll_timeout`].
//!
//! ```text
//!  overlay packet -> outbound -> filter (remember the reply) -> route -> tunnel (seal) -> path -> datagram
//!  datagram -> demux -> guard -> tunnel (open) -> source check -> filter -> overlay packet
//! ```

mod disco;
mod guess;
mod identity;
mod inbound;
mod job;
mod knocks;
mod netmap;
mod open_queue;
mod outbound;
mod peer;
mod ping;
mod relayed;
mod report;
mod send_queue;
mod snapshot;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use sandd_control_client::keys::{DiscoPrivateKey, DiscoPublicKey, NodePrivateKey, NodePublicKey};
use sandd_control_client::netmap::{NetworkMap, NodeId, RegionId};

use crate::event::MeshEvent;
use crate::filter::PacketFilter;
use crate::magic_dns::NameTable;
use crate::metrics::Counters;
use crate::packet::PacketBuf;
use crate::path::agent::TxId;
use crate::peer_relay::Via;
use crate::route::{DeviceRoutes, RouteTable};
use crate::wg::Clock;
use crate::wg::index::IndexTable;
use crate::wg::tunnel::{HEADER, TAG};
use guess::Guessing;
pub(crate) use guess::OpenGuess;
use identity::Identity;
pub(crate) use inbound::Overlay;
pub(crate) use job::{Job, JobQueue};
use knocks::Knocks;
pub(crate) use open_queue::{OpenQueue, Opening};
use peer::Peer;
pub(crate) use ping::PingOutcome;
pub(crate) use relayed::RelayRequest;
pub(crate) use report::seconds;
pub(crate) use send_queue::{Run, SendBatch, SendQueue};
pub(crate) use snapshot::Snapshot;

/// Where a datagram goes, or came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Underlay {
    /// A UDP address.
    Udp(SocketAddr),
    /// A peer behind the relay of another one.
    PeerRelay(Via),
    /// The node with this key, over the relay of this region.
    Derp { region: RegionId, key: NodePublicKey },
}

/// What the shell is to do.
#[derive(Debug)]
pub(crate) enum Output {
    /// Hand this packet to the device.
    Deliver(PacketBuf),
    /// Tell those who watch.
    Event(MeshEvent),
    /// An echo request of `Engine::ping` was answered.
    Ponged(PingOutcome),
    /// The largest packet for these addresses has changed.
    PeerMtu { addresses: Vec<IpAddr>, mtu: usize },
    /// The peer at `by` told how it sees us: our own mapping as another destination than a STUN server sees it.
    Observed { by: SocketAddr, seen: SocketAddr },
    /// A direct path owes an answer: our own mapping may be another one now.
    Suspected,
    /// Somebody is a member that our map does not have: ask for the whole map.
    MapOutdated,
    /// Open sockets for port guessing.
    OpenGuess(OpenGuess),
    /// Close those that are left.
    CloseGuess,
    /// A peer may have an endpoint of our relay server and asks for one: `Engine::answer_relay_request` takes it.
    AllocateRelay(RelayRequest),
}

/// See the module's text.
pub(crate) struct Engine {
    identity: Identity,
    disco_key: DiscoPrivateKey,
    disco_public: DiscoPublicKey,
    map: Arc<NetworkMap>,
    peers: BTreeMap<NodeId, Box<Peer>>,
    by_key: HashMap<NodePublicKey, NodeId>,
    by_disco: HashMap<DiscoPublicKey, NodeId>,
    indices: IndexTable<NodeId>,
    routes: RouteTable<NodeId>,
    device_routes: DeviceRoutes,
    /// Peers by the direct address in use.
    by_path: BTreeSet<(SocketAddr, NodeId)>,
    names: Arc<NameTable>,
    filter: PacketFilter,
    own_ips: Vec<IpAddr>,
    /// Largest overlay packet: padding does not go beyond it.
    mtu: usize,
    endpoints: Vec<SocketAddr>,
    connected: BTreeSet<RegionId>,
    knocks: Knocks,
    pings: ping::Pings,
    guessing: Guessing,
    relays: relayed::Relays,
    deadlines: BTreeSet<(Instant, NodeId)>,
    outputs: VecDeque<Output>,
    queue: SendQueue,
    /// Runs may be sealed later, by other threads.
    lanes: bool,
    /// Handshake messages of the tunnel at work, until its path is asked.
    sealed: Vec<Vec<u8>>,
    mirrored: Vec<u8>,
    counters: Counters,
}

impl Engine {
    /// A node without peers, whose device carries packets of at most `mtu` bytes. `clock` tells the time of day.
    pub(crate) fn new(node_key: &NodePrivateKey, disco_key: DiscoPrivateKey, mtu: usize, clock: Clock) -> Self {
        Self {
            identity: Identity::new(node_key, clock),
            disco_public: disco_key.public(),
            disco_key,
            map: Arc::default(),
            peers: BTreeMap::new(),
            by_key: HashMap::new(),
            by_disco: HashMap::new(),
            indices: IndexTable::new(),
            routes: RouteTable::new(),
            device_routes: DeviceRoutes::default(),
            by_path: BTreeSet::new(),
            names: Arc::default(),
            filter: PacketFilter::new(),
            own_ips: Vec::new(),
            mtu,
            endpoints: Vec::new(),
            connected: BTreeSet::new(),
            knocks: Knocks::default(),
            pings: ping::Pings::new(),
            guessing: Guessing::new(),
            relays: relayed::Relays::default(),
            deadlines: BTreeSet::new(),
            outputs: VecDeque::new(),
            queue: SendQueue::default(),
            lanes: false,
            sealed: Vec::new(),
            mirrored: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// From now on long runs are only prepared where they were sealed before: [`SendQueue`] hands them over to whoever has
    /// other threads for that, and seals at the front what nobody has taken.
    pub(crate) fn use_lanes(&mut self) {
        self.lanes = true;
    }

    /// The datagrams that wait to leave, to be sent before [`Self::poll_output`] is asked.
    pub(crate) fn queue(&mut self) -> &mut SendQueue {
        &mut self.queue
    }

    /// Datagrams that a full queue has cost.
    pub(crate) fn queue_dropped(&self) -> u64 {
        self.queue.dropped()
    }

    /// The next thing to do.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Self::handle_timeout`] is wanted next.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let peers = self.deadlines.first().map(|(at, _)| *at);
        let guesses = self.guessing.poll_timeout();
        [
            peers,
            self.pings.poll_timeout(),
            self.identity.guard.poll_timeout(),
            guesses,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        for outcome in self.pings.expire(now) {
            self.outputs.push_back(Output::Ponged(outcome));
        }
        while let Some((from, datagram)) = self.identity.guard.next(now) {
            self.handle_admitted(from, &datagram, now);
        }
        if self.guessing.poll_timeout().is_some_and(|at| at <= now) {
            self.run_guesses(now);
        }
        // Each peer once: whatever it asks for next, even at once, waits for the next call.
        let due: Vec<_> = self
            .deadlines
            .iter()
            .take_while(|(at, _)| *at <= now)
            .copied()
            .collect();
        for (at, id) in due {
            self.deadlines.remove(&(at, id));
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            peer.scheduled = None;
            if let Some(tunnel) = &mut peer.tunnel {
                tunnel.handle_timeout(now, &mut self.sealed);
            }
            peer.path.handle_timeout(now);
            if let Some(client) = &mut peer.relayed {
                client.handle_timeout(now);
            }
            self.after_peer(id, now);
        }
    }

    /// The node key was replaced: all sessions end, every peer is greeted anew.
    pub(crate) fn set_node_key(&mut self, node_key: &NodePrivateKey) {
        self.identity = Identity::new(node_key, self.identity.clock);
        self.indices.clear();
        for peer in self.peers.values_mut() {
            peer.tunnel = None;
        }
    }

    /// Our own public node key.
    pub(crate) fn node_public(&self) -> NodePublicKey {
        self.identity.key
    }

    /// Names and addresses as the map has them.
    pub(crate) fn names(&self) -> Arc<NameTable> {
        Arc::clone(&self.names)
    }

    /// The map in force.
    pub(crate) fn map(&self) -> Arc<NetworkMap> {
        Arc::clone(&self.map)
    }

    /// Our mesh addresses.
    pub(crate) fn own_ips(&self) -> &[IpAddr] {
        &self.own_ips
    }

    /// What a kernel device must send to the mesh; nothing when that is what it was at the last call.
    pub(crate) fn take_device_routes(&mut self) -> Option<Vec<IpNet>> {
        self.device_routes.take_changed().then(|| self.device_routes.all())
    }

    /// The device has refused some of them: the next call gives them again.
    pub(crate) fn mark_device_routes(&mut self) {
        self.device_routes.mark_changed();
    }

    /// True while a WireGuard session with anybody stands.
    pub(crate) fn has_sessions(&self) -> bool {
        self.peers
            .values()
            .any(|peer| peer.tunnel.as_ref().is_some_and(|tunnel| tunnel.has_session()))
    }

    /// A relay connection came up or went down.
    pub(crate) fn handle_relay(&mut self, region: RegionId, connected: bool, now: Instant) {
        if connected {
            self.connected.insert(region);
        } else {
            self.connected.remove(&region);
            for peer in self
                .peers
                .values_mut()
                .filter(|peer| peer.learned_region == Some(region))
            {
                peer.learned_region = None;
            }
            return;
        }
        // What was sent while there was no connection may be lost: handshakes under way are sent again.
        let waiting: Vec<_> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.tunnel.as_ref().is_some_and(|tunnel| tunnel.handshaking()))
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            self.initiate(id, now);
        }
    }

    /// The relay says that a peer is not there.
    pub(crate) fn handle_peer_gone(&mut self, region: RegionId, key: &NodePublicKey) {
        if let Some(peer) = self.by_key.get(key).and_then(|id| self.peers.get_mut(id))
            && peer.learned_region == Some(region)
        {
            peer.learned_region = None;
        }
    }

    /// Our own underlay addresses, as peers are told.
    pub(crate) fn set_endpoints(&mut self, endpoints: Vec<SocketAddr>, now: Instant) {
        if endpoints == self.endpoints {
            return;
        }
        self.endpoints = endpoints;
        for id in self.with_session() {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.path.restart_discovery(now);
            }
            self.after_peer(id, now);
        }
    }

    /// Our own network has changed: direct paths are doubted until they answer again, relays carry copies meanwhile.
    /// `endpoints` are ours where they are others than before.
    pub(crate) fn handle_network_change(&mut self, endpoints: Option<Vec<SocketAddr>>, now: Instant) {
        if let Some(endpoints) = endpoints {
            self.endpoints = endpoints;
        }
        for id in self.with_session() {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.path.handle_network_change(now);
                if let Some(client) = &mut peer.relayed {
                    client.handle_network_change(now);
                }
            }
            self.after_peer(id, now);
        }
    }

    /// The machine slept, and its clock with it: peers may have ended sessions that look young to us.
    pub(crate) fn handle_wake(&mut self, now: Instant) {
        for id in self.with_session() {
            self.initiate(id, now);
        }
    }

    fn with_session(&self) -> Vec<NodeId> {
        let has_session = |peer: &Peer| peer.tunnel.as_ref().is_some_and(|tunnel| tunnel.has_session());
        let all = self.peers.iter();
        all.filter(|(_, peer)| has_session(peer)).map(|(id, _)| *id).collect()
    }

    /// The kernel refused a datagram of this many bytes as too large for the path to `to`.
    pub(crate) fn handle_too_big(&mut self, to: SocketAddr, datagram: usize, now: Instant) {
        for id in self.peers_at(to) {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.mtu.handle_too_big(datagram.saturating_sub(HEADER + TAG), now);
            }
            self.tell_mtu(id);
        }
    }

    fn peers_at(&self, addr: SocketAddr) -> Vec<NodeId> {
        let from = (addr, NodeId(i64::MIN));
        let there = self.by_path.range(from..).take_while(|(known, _)| *known == addr);
        there.map(|(_, id)| *id).collect()
    }

    /// The kernel reported that an address cannot be reached.
    pub(crate) fn handle_unreachable(&mut self, to: SocketAddr, now: Instant) {
        for id in self.peers_at(to) {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.path.handle_unreachable(to, now);
            }
            self.after_peer(id, now);
        }
    }

    /// What every change of a peer ends with: sealed messages and path actions go out, its deadline is noted.
    fn after_peer(&mut self, id: NodeId, now: Instant) {
        self.send_sealed(id);
        self.run_path(id, now);
        self.run_relayed(id, now);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if let Some(tunnel) = &mut peer.tunnel {
            tunnel.settle(&mut self.indices, id);
        }
        let best = peer.path.best();
        if peer.listed_at.as_deref() != best.as_ref() {
            let old = std::mem::replace(&mut peer.listed_at, best.map(Box::new));
            old.map(|old| self.by_path.remove(&(*old, id)));
            best.map(|best| self.by_path.insert((best, id)));
        }
        let next = peer.poll_timeout();
        if peer.scheduled != next {
            if let Some(old) = peer.scheduled.take() {
                self.deadlines.remove(&(old, id));
            }
            if let Some(at) = next {
                self.deadlines.insert((at, id));
            }
            peer.scheduled = next;
        }
    }
}

/// A transaction id from the system's random source.
pub(crate) fn new_tx() -> TxId {
    let mut tx = [0u8; 12];
    crate::random::fill(&mut tx);
    tx
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("peers", &self.peers.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
