//! [`RelayClient`]: the machine of one peer that is reached over another peer's relay.
//!
//! ```text
//!  wanted -- ask servers (08) --> endpoint (09, or 07 of the peer) -- bind, ping --> usable
//!                                                                                      |  ^
//!                                        two answers missing, or idle for 6.5 s        v  | any proof
//!                                                     gone <-- six more missing --  suspect: DERP carries copies
//! ```
//!
//! In go what was sent and what arrived, each with `now`; out come [`ClientAction`]s and the [`Via`] in use. A suspect way
//! is bound anew: mostly our own NAT has given us another address, which the server must be told. Limits of S-16 hold.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sandd_control_client::keys::DiscoPublicKey;
use sandd_control_client::netmap::NodeId;

use super::{MAX_VNI, Via, plausible, sorted_pair};
use crate::disco::{Message, RelayEndpoint, RelayHandshake, TxId};

mod bound;
mod handshake;

use bound::{Bound, Verdict};
use handshake::Handshake;

/// A direct path gets so much time before servers are asked.
const GRACE: Duration = Duration::from_millis(500);
/// Servers are asked at most so often.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(30);
/// Servers asked at a time.
pub(crate) const MAX_SERVERS: usize = 4;
/// A request is repeated once, for relays lose packets between their streams, and then given up.
const ALLOCATION_RETRY: Duration = Duration::from_secs(3);
const ALLOCATION_LIFETIME: Duration = Duration::from_secs(10);
/// Handshakes under way.
const MAX_HANDSHAKES: usize = 4;
/// Handshakes begun in half a minute.
const MAX_BEGUN: u32 = 12;
/// Addresses of a server that are tried.
const MAX_ADDRESSES: usize = 16;
/// Traffic counts as present for this long.
const BUSY_FOR: Duration = Duration::from_secs(10);
/// A client without traffic and without a way is of no use after this.
const IDLE_AFTER: Duration = Duration::from_secs(90);

/// What the engine is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ClientAction {
    /// Ask this server, over the relay of its region, for an endpoint.
    Allocate { server: NodeId, generation: u32 },
    /// Tell the peer, over the relay of its region, where to meet.
    Tell(RelayEndpoint),
    /// Control packets of this server for this endpoint are for this peer from now on,
    Expect(DiscoPublicKey, u32),
    /// and now no more.
    Forget(DiscoPublicKey, u32),
    /// A message to the server itself.
    Control {
        server: DiscoPublicKey,
        to: Via,
        message: Message,
    },
    /// A ping to the peer over the server.
    Ping { to: Via, tx: TxId },
    /// Another way is in use, or none.
    Changed,
}

#[derive(Debug)]
struct Allocation {
    server: NodeId,
    generation: u32,
    asked: Instant,
    repeated: bool,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct RelayClient {
    remote: DiscoPublicKey,
    pair: [DiscoPublicKey; 2],
    new_tx: fn() -> TxId,
    generation: u32,
    made: Instant,
    last_sent: Option<Instant>,
    last_discovery: Option<Instant>,
    /// When it is seen whether servers are to be asked for the first time.
    look: Option<Instant>,
    allocations: Vec<Allocation>,
    handshakes: Vec<Handshake>,
    /// Start of the running half minute and the handshakes begun in it.
    begun: Option<(Instant, u32)>,
    bound: Option<Box<Bound>>,
    actions: VecDeque<ClientAction>,
}

impl RelayClient {
    /// A peer with the disco key `remote`, ours being `own`, that no relay reaches yet. `new_tx` draws transaction ids.
    pub(crate) fn new(own: DiscoPublicKey, remote: DiscoPublicKey, new_tx: fn() -> TxId, now: Instant) -> Self {
        let [a, b, c, d, ..] = new_tx();
        Self {
            remote,
            pair: sorted_pair(own, remote),
            new_tx,
            generation: u32::from_be_bytes([a, b, c, d]),
            made: now,
            last_sent: None,
            last_discovery: None,
            look: None,
            allocations: Vec::new(),
            handshakes: Vec::new(),
            begun: None,
            bound: None,
            actions: VecDeque::new(),
        }
    }

    /// The disco key of the peer that this is about.
    pub(crate) fn remote(&self) -> DiscoPublicKey {
        self.remote
    }

    /// The way that data takes, and whether it is under suspicion.
    pub(crate) fn route(&self) -> Option<(Via, bool)> {
        self.bound.as_ref().map(|bound| (bound.via(), bound.is_suspect()))
    }

    /// Round trip on the way in use.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.bound.as_ref().map(|bound| bound.rtt())
    }

    /// The server of the way in use, when it was we who asked it.
    pub(crate) fn server(&self) -> Option<NodeId> {
        self.bound.as_ref().and_then(|bound| bound.server())
    }

    /// The next thing to do.
    pub(crate) fn poll_action(&mut self) -> Option<ClientAction> {
        self.actions.pop_front()
    }

    /// Nothing is under way and nothing has been sent for long: it may be dropped.
    pub(crate) fn is_idle(&self, now: Instant) -> bool {
        let since = self.last_sent.unwrap_or(self.made).max(self.made);
        self.bound.is_none()
            && self.handshakes.is_empty()
            && self.allocations.is_empty()
            && now.saturating_duration_since(since) > IDLE_AFTER
    }

    /// A WireGuard packet to the peer goes out, and there is no direct path for it.
    pub(crate) fn handle_sent(&mut self, now: Instant) {
        if self.last_sent.is_none() {
            self.look = Some(self.made + GRACE);
        }
        self.last_sent = Some(now);
        let stale = self.bound.as_mut().is_some_and(|bound| bound.handle_sent(now));
        if stale {
            self.suspect(now);
        }
    }

    /// The two keys that name the pair.
    pub(crate) fn pair(&self) -> [DiscoPublicKey; 2] {
        self.pair
    }

    /// True when servers are to be asked: there is traffic, no way is good, and it is time again.
    pub(crate) fn wants_discovery(&self, now: Instant) -> bool {
        let good = self.bound.as_ref().is_some_and(|bound| !bound.is_suspect());
        let due = self
            .last_discovery
            .is_none_or(|last| now.saturating_duration_since(last) >= DISCOVERY_INTERVAL);
        let patient = now.saturating_duration_since(self.made) >= GRACE;
        !good && due && patient && self.busy(now) && self.allocations.is_empty()
    }

    /// Asks these servers.
    pub(crate) fn discover(&mut self, servers: impl IntoIterator<Item = NodeId>, now: Instant) {
        self.last_discovery = Some(now);
        for server in servers.into_iter().take(MAX_SERVERS) {
            let generation = self.next_generation();
            self.allocations.push(Allocation {
                server,
                generation,
                asked: now,
                repeated: false,
            });
            self.actions.push_back(ClientAction::Allocate { server, generation });
        }
    }

    /// A server has given us an endpoint.
    pub(crate) fn handle_allocated(&mut self, server: NodeId, generation: u32, endpoint: &RelayEndpoint, now: Instant) {
        let asked = |one: &Allocation| one.server == server && one.generation == generation;
        let Some(at) = self.allocations.iter().position(asked) else {
            return;
        };
        self.allocations.swap_remove(at);
        if self.concerns_us(endpoint) {
            self.actions.push_back(ClientAction::Tell(endpoint.clone()));
            self.begin(endpoint, Some(server), now);
        }
    }

    /// The peer has named an endpoint over the relay of a region.
    pub(crate) fn handle_call(&mut self, endpoint: &RelayEndpoint, now: Instant) {
        if self.concerns_us(endpoint) {
            self.begin(endpoint, None, now);
        }
    }

    fn concerns_us(&self, endpoint: &RelayEndpoint) -> bool {
        let [a, b] = endpoint.clients;
        sorted_pair(a, b) == self.pair && (1..=MAX_VNI).contains(&endpoint.vni) && !self.pair.contains(&endpoint.server)
    }

    fn begin(&mut self, endpoint: &RelayEndpoint, server: Option<NodeId>, now: Instant) {
        let same_server = |known: &RelayEndpoint| known.server == endpoint.server;
        if let Some(at) = self.handshakes.iter().position(|one| same_server(&one.endpoint)) {
            let known = &mut self.handshakes[at];
            if endpoint.lamport_id <= known.endpoint.lamport_id && !known.is_unheard() {
                known.server = known.server.or(server);
                return;
            }
            self.end_handshake(at);
        }
        if let Some(bound) = &mut self.bound
            && same_server(bound.endpoint())
            && bound.endpoint().lamport_id == endpoint.lamport_id
            && !bound.is_suspect()
        {
            return bound.learn_server(server);
        }
        self.start_handshake(endpoint, server, now);
    }

    fn start_handshake(&mut self, endpoint: &RelayEndpoint, server: Option<NodeId>, now: Instant) {
        let (since, count) = self
            .begun
            .filter(|(since, _)| now.saturating_duration_since(*since) < DISCOVERY_INTERVAL)
            .unwrap_or((now, 0));
        if self.handshakes.len() >= MAX_HANDSHAKES || count >= MAX_BEGUN {
            return;
        }
        let mut endpoint = endpoint.clone();
        endpoint.addresses.retain(|addr| plausible(*addr));
        endpoint.addresses.truncate(MAX_ADDRESSES);
        if endpoint.addresses.is_empty() {
            return;
        }
        self.begun = Some((since, count + 1));
        let generation = self.next_generation();
        self.actions
            .push_back(ClientAction::Expect(endpoint.server, endpoint.vni));
        let mut handshake = Handshake::new(endpoint, server, self.remote, generation, now);
        handshake.run(self.new_tx, now, &mut self.actions);
        self.handshakes.push(handshake);
    }

    fn end_handshake(&mut self, at: usize) -> Handshake {
        let handshake = self.handshakes.swap_remove(at);
        let RelayEndpoint { server, vni, .. } = &handshake.endpoint;
        self.actions.push_back(ClientAction::Forget(*server, *vni));
        handshake
    }

    /// A server challenges us from `from`.
    pub(crate) fn handle_challenge(
        &mut self,
        server: &DiscoPublicKey,
        from: SocketAddr,
        told: &RelayHandshake,
        now: Instant,
    ) {
        let asked = |one: &&mut Handshake| one.endpoint.server == *server && one.endpoint.vni == told.vni;
        if let Some(handshake) = self.handshakes.iter_mut().find(asked) {
            handshake.handle_challenge(from, told, self.new_tx, now, &mut self.actions);
        }
    }

    /// The peer pings us over a server; the engine has answered it.
    pub(crate) fn handle_ping(&mut self, from: Via, now: Instant) {
        if let Some(handshake) = self.handshakes.iter_mut().find(|one| one.is_at(from)) {
            handshake.ping_back(self.new_tx, now, &mut self.actions);
        }
    }

    /// A pong came over a server.
    pub(crate) fn handle_pong(&mut self, tx: &TxId, from: Via, now: Instant) {
        if let Some(bound) = &mut self.bound
            && bound.handle_pong(tx, from, now)
        {
            return;
        }
        let answered = self.handshakes.iter().enumerate().find_map(|(at, one)| {
            let rtt = one.rtt_of(tx, now).filter(|_| one.is_at(from))?;
            Some((at, rtt))
        });
        let Some((at, rtt)) = answered else { return };
        let handshake = self.end_handshake(at);
        let better = self.bound.as_ref().is_none_or(|bound| {
            bound.is_suspect() || bound.endpoint().server == handshake.endpoint.server || rtt * 5 < bound.rtt() * 4
        });
        if better {
            let changed = self.route().map(|(via, _)| via) != Some(from);
            let mut bound = Bound::new(handshake.endpoint, handshake.server, from, rtt, now);
            bound.continue_traffic(self.last_sent, now);
            self.bound = Some(Box::new(bound));
            if changed {
                self.actions.push_back(ClientAction::Changed);
            }
        }
    }

    /// A WireGuard packet of the peer, come over a server or, without one, over DERP, opened.
    pub(crate) fn handle_opened(&mut self, from: Option<Via>, now: Instant) {
        match (&mut self.bound, from) {
            (Some(bound), Some(from)) => bound.handle_opened(from, now),
            (Some(bound), None) => bound.doubt(self.new_tx, now, &mut self.actions),
            (None, _) => {}
        }
    }

    /// We have other addresses now: the server must be told.
    pub(crate) fn handle_network_change(&mut self, now: Instant) {
        if self.busy(now) {
            self.suspect(now);
        }
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.look = self.look.filter(|at| *at > now);
        self.repeat_allocations(now);
        while let Some(at) = self.handshakes.iter().position(|one| one.has_ended(now)) {
            self.end_handshake(at);
        }
        for handshake in &mut self.handshakes {
            handshake.run(self.new_tx, now, &mut self.actions);
        }
        let busy = self.busy(now);
        let Some(bound) = &mut self.bound else { return };
        match bound.run(busy, self.new_tx, now, &mut self.actions) {
            Verdict::Fine => {}
            Verdict::Doubtful => self.suspect(now),
            Verdict::Dead => {
                self.bound = None;
                self.actions.push_back(ClientAction::Changed);
            }
        }
    }

    fn repeat_allocations(&mut self, now: Instant) {
        let age = |one: &Allocation| now.saturating_duration_since(one.asked);
        self.allocations.retain(|one| age(one) < ALLOCATION_LIFETIME);
        for one in &mut self.allocations {
            if !one.repeated && now.saturating_duration_since(one.asked) >= ALLOCATION_RETRY {
                one.repeated = true;
                let (server, generation) = (one.server, one.generation);
                self.actions.push_back(ClientAction::Allocate { server, generation });
            }
        }
    }

    /// When [`Self::handle_timeout`] is wanted next.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let allocations = self.allocations.iter().map(|one| {
            one.asked
                + if one.repeated {
                    ALLOCATION_LIFETIME
                } else {
                    ALLOCATION_RETRY
                }
        });
        let handshakes = self.handshakes.iter().map(Handshake::poll_timeout);
        let bound = self.bound.as_ref().map(|bound| bound.poll_timeout());
        let idle = self.last_sent.unwrap_or(self.made).max(self.made) + IDLE_AFTER + Duration::from_millis(1);
        allocations
            .chain(handshakes)
            .chain(bound)
            .chain(self.look)
            .min()
            .or(Some(idle))
    }

    fn suspect(&mut self, now: Instant) {
        let Some(bound) = &mut self.bound else { return };
        bound.suspect(self.new_tx, now, &mut self.actions);
        let (endpoint, server) = (bound.endpoint().clone(), bound.server());
        let under_way = self.handshakes.iter().any(|one| one.endpoint.server == endpoint.server);
        if !under_way {
            self.start_handshake(&endpoint, server, now);
        }
    }

    fn busy(&self, now: Instant) -> bool {
        self.last_sent
            .is_some_and(|sent| now.saturating_duration_since(sent) < BUSY_FOR)
    }

    /// Never 0, which stands for none.
    fn next_generation(&mut self) -> u32 {
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.generation
    }
}

#[cfg(test)]
mod tests;
