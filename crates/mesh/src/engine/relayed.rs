//! Peers reached over another peer's relay: disco and Geneve in and out, the machines of `peer_relay::client` decide.
//!
//! Also the first half of serving: who asks for an endpoint and may have one. The server itself runs beside the engine.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use sandd_control_client::keys::DiscoPublicKey;
use sandd_control_client::netmap::{NetmapDelta, NodeId};

use super::peer::Peer;
use super::{Engine, Output, Overlay, Underlay, new_tx};
use crate::disco::{self, DiscoBox, GeneveHeader, Message, RelayEndpoint, TxId};
use crate::metrics::DropReason;
use crate::path::agent::Route;
use crate::peer_relay::client::{ClientAction, RelayClient};
use crate::peer_relay::grant::{self, NO_CLIENT, NO_SERVER, RELAY, RELAY_TARGET};
use crate::peer_relay::{GeneveRun, Via};
use crate::status::PeerPath;

/// A client that may asks our relay server for an endpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RelayRequest {
    /// Its disco key.
    pub(crate) asking: DiscoPublicKey,
    /// Those of the pair.
    pub(crate) clients: [DiscoPublicKey; 2],
    generation: u32,
}

/// What the engine remembers of relays among peers.
#[derive(Default)]
pub(super) struct Relays {
    /// Peers whose relay we may use.
    servers: Vec<NodeId>,
    /// Handshakes under way: the server's key and the endpoint's number, who is to be reached there, and our box with the
    /// server.
    expected: HashMap<(DiscoPublicKey, u32), (NodeId, DiscoBox)>,
    /// A server of ours runs.
    serving: bool,
}

/// A WireGuard packet to `peer` goes out: without a direct path, a relay among the peers is worth looking for.
pub(super) fn note_sent(peer: &mut Peer, relays: &Relays, own: DiscoPublicKey, now: Instant) {
    if peer.path.route() != Route::Relay || (peer.relayed.is_none() && relays.servers.is_empty()) {
        return;
    }
    if let Some(client) = client_of(peer, own, now) {
        client.handle_sent(now);
    }
}

/// A packet of the peer opened.
pub(super) fn note_opened(client: &mut RelayClient, from: Underlay, now: Instant) {
    match from {
        Underlay::PeerRelay(via) => client.handle_opened(Some(via), now),
        Underlay::Derp { .. } => client.handle_opened(None, now),
        Underlay::Udp(_) => {}
    }
}

/// The machine of a peer that can be reached so, for the disco key that it has now.
fn client_of(peer: &mut Peer, own: DiscoPublicKey, now: Instant) -> Option<&mut RelayClient> {
    let remote = peer.disco.as_ref().map(|disco| disco.key)?;
    if peer.relayed.as_ref().is_none_or(|client| client.remote() != remote) {
        peer.relayed = Some(Box::new(RelayClient::new(own, remote, new_tx, now)));
    }
    peer.relayed.as_deref_mut()
}

impl Engine {
    /// Whether a relay server of ours runs: requests for endpoints come out as [`Output::AllocateRelay`].
    pub(crate) fn set_relay_serving(&mut self, serving: bool) {
        self.relays.serving = serving;
    }

    /// After a new map: whose relay we may use.
    pub(super) fn find_relay_servers(&mut self, delta: &NetmapDelta) {
        let unchanged = !delta.filter && !delta.self_node && delta.removed.is_empty() && delta.upserted.is_empty();
        if unchanged {
            return;
        }
        self.relays.servers.clear();
        let rules = self.map.filter.iter();
        let rules: Vec<_> = rules
            .filter(|rule| grant::grants(rule, RELAY_TARGET, &self.own_ips))
            .cloned()
            .collect();
        if rules.is_empty() || self.lacks(NO_CLIENT) {
            return;
        }
        let held = |peer: &Peer| grant::holds(&peer.node, RELAY_TARGET, &self.own_ips, &rules);
        let servers = self.peers.iter().filter(|(_, peer)| held(peer) && peer.disco.is_some());
        self.relays.servers = servers.map(|(id, _)| *id).collect();
    }

    /// The coordinator has taken something away from this node.
    fn lacks(&self, attribute: &str) -> bool {
        let node = self.map.self_node.as_ref();
        node.is_some_and(|node| node.cap_map.contains_key(attribute))
    }

    /// A peer is gone, or another one under the same number.
    pub(super) fn forget_relayed(&mut self, id: NodeId) {
        self.relays.expected.retain(|_, (of, _)| *of != id);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.relayed = None;
        }
    }

    /// The way over a peer's relay to this peer, and whether it is under suspicion.
    pub(super) fn via_of(&self, id: NodeId) -> Option<(Via, bool)> {
        self.peers.get(&id)?.relayed.as_ref()?.route()
    }

    /// Packets that came with a Geneve header, all the same one.
    pub(super) fn handle_geneve(
        &mut self,
        run: &GeneveRun,
        ecn: u8,
        datagrams: &mut [u8],
        stride: usize,
        now: Instant,
        overlay: &mut impl Overlay,
    ) {
        if run.control {
            for packet in datagrams.chunks(stride) {
                self.handle_relay_control(run.via, &packet[GeneveHeader::LEN..], now);
            }
            return;
        }
        let mut end = 0;
        for start in (0..datagrams.len()).step_by(stride) {
            let next = (start + stride).min(datagrams.len());
            datagrams.copy_within(start + GeneveHeader::LEN..next, end);
            end += next - start - GeneveHeader::LEN;
        }
        let from = Underlay::PeerRelay(run.via);
        self.handle_datagrams(
            from,
            ecn,
            &mut datagrams[..end],
            stride - GeneveHeader::LEN,
            now,
            overlay,
        );
    }

    /// What a relay server itself says.
    fn handle_relay_control(&mut self, from: Via, packet: &[u8], now: Instant) {
        let server = disco::sender(packet);
        let Some((server, (id, sealed))) =
            server.and_then(|server| Some((server, self.relays.expected.get(&(server, from.vni))?)))
        else {
            return self.counters.drop_packet(DropReason::UnknownPeer);
        };
        let id = *id;
        match sealed.open(packet) {
            Ok(Message::BindChallenge(told)) if told.vni == from.vni => {
                if let Some(client) = self.peers.get_mut(&id).and_then(|peer| peer.relayed.as_mut()) {
                    client.handle_challenge(&server, from.addr, &told, now);
                }
                self.after_peer(id, now);
            }
            Ok(_) | Err(_) => self.counters.drop_packet(DropReason::Unopened),
        }
    }

    /// A peer pings us over a relay: it gets its answer, and the machine hears that the peer is there.
    pub(super) fn handle_relayed_ping(&mut self, id: NodeId, from: Via, tx: TxId, now: Instant) {
        let pong = Message::Pong {
            tx,
            src: from.addr,
            ours: Some(self.features()),
        };
        self.send_disco(id, Underlay::PeerRelay(from), &pong);
        if let Some(client) = self.peers.get_mut(&id).and_then(|peer| peer.relayed.as_mut()) {
            client.handle_ping(from, now);
        }
    }

    /// One of the three messages by which endpoints are asked for, given and told, come over the relay of a region.
    pub(super) fn handle_relay_message(&mut self, id: NodeId, message: Message, now: Instant) {
        let own = self.disco_public;
        if let Message::CallMeMaybeVia(Some(endpoint)) = &message
            && !self.lacks(NO_CLIENT)
            && let Some(client) = self.peers.get_mut(&id).and_then(|peer| client_of(peer, own, now))
        {
            client.handle_call(endpoint, now);
        } else if let Message::AllocateRequest(Some((clients, generation))) = message {
            self.handle_relay_request(id, clients, generation);
        } else if let Message::AllocateResponse(Some((generation, endpoint))) = message {
            let other = endpoint.clients.iter().find(|key| **key != own);
            let Some(of) = other.and_then(|key| self.by_disco.get(key)).copied() else {
                return;
            };
            if let Some(client) = self.peers.get_mut(&of).and_then(|peer| peer.relayed.as_mut()) {
                client.handle_allocated(id, generation, &endpoint, now);
            }
            self.after_peer(of, now);
        }
    }

    /// Only who holds the capability gets an answer (S-16).
    fn handle_relay_request(&mut self, id: NodeId, clients: [DiscoPublicKey; 2], generation: u32) {
        let Some(peer) = self.peers.get(&id) else { return };
        let allowed = self.relays.serving
            && !self.lacks(NO_SERVER)
            && grant::holds(&peer.node, RELAY, &self.own_ips, &self.map.filter);
        let Some(asking) = peer.disco.as_ref().map(|disco| disco.key).filter(|_| allowed) else {
            return self.counters.drop_packet(DropReason::Filtered);
        };
        let request = RelayRequest {
            asking,
            clients,
            generation,
        };
        self.outputs.push_back(Output::AllocateRelay(request));
    }

    /// Our relay server has an endpoint for a client that asked.
    pub(crate) fn answer_relay_request(&mut self, request: &RelayRequest, endpoint: RelayEndpoint) {
        let Some(id) = self.by_disco.get(&request.asking).copied() else {
            return;
        };
        if let Some(relay) = self.relay_of(id) {
            let response = Message::AllocateResponse(Some((request.generation, endpoint)));
            self.send_disco(id, relay, &response);
        }
    }

    /// Carries out what the machine of a peer wants.
    pub(super) fn run_relayed(&mut self, id: NodeId, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(client) = &mut peer.relayed else { return };
        if client.wants_discovery(now) && peer.path.route() == Route::Relay {
            client.discover(self.relays.servers.iter().copied().filter(|server| *server != id), now);
        }
        loop {
            let Some(client) = self.peers.get_mut(&id).and_then(|peer| peer.relayed.as_mut()) else {
                return;
            };
            let pair = client.pair();
            let Some(action) = client.poll_action() else { break };
            self.act_for(id, pair, action, now);
        }
        let peer = self.peers.get_mut(&id);
        if let Some(peer) = peer.filter(|peer| peer.relayed.as_ref().is_some_and(|client| client.is_idle(now))) {
            peer.relayed = None;
        }
    }

    fn act_for(&mut self, id: NodeId, pair: [DiscoPublicKey; 2], action: ClientAction, now: Instant) {
        match action {
            ClientAction::Allocate { server, generation } => {
                if let Some(relay) = self.relay_of(server) {
                    let request = Message::AllocateRequest(Some((pair, generation)));
                    self.send_disco(server, relay, &request);
                }
            }
            ClientAction::Tell(endpoint) => {
                if let Some(relay) = self.relay_of(id) {
                    self.send_disco(id, relay, &Message::CallMeMaybeVia(Some(endpoint)));
                }
            }
            ClientAction::Expect(server, vni) => {
                let sealed = DiscoBox::new(&self.disco_key, &server);
                // One pair's endpoint is not another's, whatever a peer says of it.
                self.relays.expected.entry((server, vni)).or_insert((id, sealed));
            }
            ClientAction::Forget(server, vni) => {
                let expected = &mut self.relays.expected;
                if expected.get(&(server, vni)).is_some_and(|(owner, _)| *owner == id) {
                    expected.remove(&(server, vni));
                }
            }
            ClientAction::Control { server, to, message } => {
                if let Some((_, sealed)) = self.relays.expected.get(&(server, to.vni)) {
                    let mut datagram = to.disco_header(true).to_vec();
                    datagram.extend(sealed.seal(&self.disco_public, &message));
                    self.queue.push(Underlay::Udp(to.addr), &datagram);
                }
            }
            ClientAction::Ping { to, tx } => {
                let ping = self.disco_ping(tx);
                self.send_disco(id, Underlay::PeerRelay(to), &ping);
            }
            ClientAction::Changed => self.relayed_changed(id, now),
        }
    }

    fn relayed_changed(&mut self, id: NodeId, now: Instant) {
        if self
            .peers
            .get(&id)
            .is_some_and(|peer| peer.path.route() == Route::Relay)
        {
            self.tell_path(id, self.path_of(id), now);
        }
    }

    /// How a way over a peer's relay is called.
    pub(super) fn name_via(&self, id: NodeId, via: Via) -> PeerPath {
        let client = self.peers.get(&id).and_then(|peer| peer.relayed.as_ref());
        let asked = client.and_then(|client| client.server());
        let at = |addr: SocketAddr| {
            let servers = self.relays.servers.iter();
            let there = |id: &&NodeId| {
                let peer = self.peers.get(id);
                peer.is_some_and(|peer| peer.node.endpoints.iter().any(|known| known.ip() == addr.ip()))
            };
            servers.copied().find(|id| there(&id))
        };
        let server = asked.or_else(|| at(via.addr)).and_then(|id| self.peers.get(&id));
        PeerPath::PeerRelayed {
            by: server.map(|peer| peer.node.name.clone()),
            addr: via.addr,
            vni: via.vni,
        }
    }
}
