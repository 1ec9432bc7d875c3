//! Disco in and out: boxes are opened and sealed here, the peers' path machines decide.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use sandd_control_client::keys::DiscoPublicKey;
use sandd_control_client::netmap::NodeId;

use super::peer::Disco;
use super::{Engine, Output, Underlay};
use crate::disco::{self, DiscoBox, Features, Message};
use crate::event::MeshEvent;
use crate::metrics::DropReason;
use crate::path::agent::{PathAction, TxId};
use crate::path::mtu::MtuProbe;
use crate::status::PeerPath;
use crate::wg::tunnel::{HEADER, TAG};

/// The address that stands for "over the relay of region N" in a pong.
const RELAY_MAGIC: Ipv4Addr = Ipv4Addr::new(127, 3, 3, 40);

impl Engine {
    pub(super) fn handle_disco(&mut self, from: Underlay, datagram: &[u8], now: Instant) {
        let Some(sender) = disco::sender(datagram) else {
            return self.counters.drop_packet(DropReason::UnknownDatagram);
        };
        // Before any cryptography: a key of nobody we know gets silence.
        let Some(id) = self.by_disco.get(&sender).copied() else {
            return self.counters.drop_packet(DropReason::UnknownPeer);
        };
        if let Underlay::Derp { key, .. } = from
            && self.peers.get(&id).is_none_or(|peer| peer.node.key != key)
        {
            return self.counters.drop_packet(DropReason::UnknownPeer);
        }
        let Some(message) = self.disco_box(id).and_then(|sealed| sealed.open(datagram).ok()) else {
            return self.counters.drop_packet(DropReason::Unopened);
        };
        self.handle_disco_message(id, from, message, now);
        self.after_peer(id, now);
    }

    fn handle_disco_message(&mut self, id: NodeId, from: Underlay, message: Message, now: Instant) {
        let ours = Some(self.features());
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if let Message::Ping { ours: Some(theirs), .. } | Message::Pong { ours: Some(theirs), .. } = message {
            peer.features = Some(theirs);
            if !peer.ours {
                peer.ours = true;
                peer.mtu.set_path(peer.path.best(), now);
            }
        }
        match (message, from) {
            (Message::Ping { node_key, .. }, _) if node_key.is_some_and(|key| key != peer.node.key) => {
                self.counters.drop_packet(DropReason::UnknownPeer);
            }
            (Message::Ping { tx, .. }, Underlay::Udp(addr)) => {
                peer.path.handle_ping(addr, now);
                self.send_disco(id, from, &Message::Pong { tx, src: addr, ours });
            }
            (Message::Ping { tx, .. }, Underlay::Derp { region, .. }) => {
                let src = SocketAddr::from((RELAY_MAGIC, region.0));
                self.send_disco(id, from, &Message::Pong { tx, src, ours });
            }
            (Message::Pong { tx, .. }, Underlay::Udp(_)) if peer.mtu.handle_pong(&tx, now) => self.tell_mtu(id),
            (Message::Pong { tx, src, .. }, Underlay::Udp(by)) => {
                let proven = peer.path.handle_pong(tx, now);
                self.outputs.extend(proven.map(|_| Output::Observed { by, seen: src }));
            }
            // Accepted over the relay alone, where the relay has checked who sends (S-16).
            (Message::CallMeMaybe { endpoints }, Underlay::Derp { .. }) => {
                peer.path.handle_call_me_maybe(&endpoints, now);
            }
            (Message::Guess { public }, Underlay::Derp { .. }) => self.handle_guess(id, public, now),
            (Message::Ping { tx, .. }, Underlay::PeerRelay(via)) => self.handle_relayed_ping(id, via, tx, now),
            (Message::Pong { tx, .. }, Underlay::PeerRelay(via)) => {
                if let Some(client) = &mut peer.relayed {
                    client.handle_pong(&tx, via, now);
                }
            }
            (message, Underlay::Derp { .. }) => self.handle_relay_message(id, message, now),
            // What a relay server says comes with the control flag, and the rest must come over DERP.
            _ => {}
        }
    }

    /// Carries out what the path machine of a peer wants.
    pub(super) fn run_path(&mut self, id: NodeId, now: Instant) {
        if let Some(probe) = self
            .peers
            .get_mut(&id)
            .and_then(|peer| peer.mtu.poll_probe(peer.path.last_proof(), now, super::new_tx))
        {
            self.send_mtu_probe(id, &probe);
        }
        while let Some(action) = self.peers.get_mut(&id).and_then(|peer| peer.path.poll_action()) {
            match action {
                PathAction::Ping { to, tx } => {
                    let ping = self.disco_ping(tx);
                    self.send_disco(id, Underlay::Udp(to), &ping);
                }
                PathAction::CallMeMaybe => {
                    if let Some(relay) = self.relay_of(id) {
                        let call = Message::CallMeMaybe {
                            endpoints: self.endpoints.clone(),
                        };
                        self.send_disco(id, relay, &call);
                    }
                }
                PathAction::Withdraw => self.withdraw(id),
                PathAction::Ask => self.ask(id, now),
                PathAction::Stuck => self.stuck(id, now),
                PathAction::Suspected => self.outputs.push_back(Output::Suspected),
                PathAction::Changed(best) => self.path_changed(id, best, now),
            }
        }
    }

    /// A stock peer drops what the last call named and this one does not, and leaves the path at once if it was among that.
    fn withdraw(&mut self, id: NodeId) {
        if self.peers.get(&id).is_some_and(|peer| !peer.ours)
            && let Some(relay) = self.relay_of(id)
        {
            let nothing = Message::CallMeMaybe { endpoints: Vec::new() };
            self.send_disco(id, relay, &nothing);
        }
    }

    fn path_changed(&mut self, id: NodeId, best: Option<SocketAddr>, now: Instant) {
        let path = best.map_or_else(|| self.path_of(id), PeerPath::Direct);
        if let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.ours) {
            peer.mtu.set_path(best, now);
        }
        self.tell_path(id, path, now);
        self.tell_mtu(id);
        // Traffic that only arrives keeps no handshake alive: make sure that there is a session to move.
        let lacks_session = self
            .peers
            .get(&id)
            .and_then(|peer| peer.tunnel.as_ref())
            .is_some_and(|tunnel| tunnel.handshaking() && !tunnel.has_session());
        if best.is_some() && lacks_session {
            self.initiate(id, now);
        }
    }

    /// Another way to a peer is in use, for those who watch.
    pub(super) fn tell_path(&mut self, id: NodeId, path: PeerPath, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.path_since = Some(now);
        let event = MeshEvent::PathChanged {
            name: peer.node.name.clone(),
            key: peer.node.key,
            path,
        };
        self.outputs.push_back(Output::Event(event));
    }

    /// A ping of ours, without padding.
    pub(super) fn disco_ping(&self, tx: TxId) -> Message {
        Message::Ping {
            tx,
            node_key: Some(self.identity.key),
            padding: 0,
            ours: Some(self.features()),
        }
    }

    /// A ping whose datagram is as large as that of a full packet of the size in question.
    fn send_mtu_probe(&mut self, id: NodeId, probe: &MtuProbe) {
        let mut ping = self.disco_ping(probe.tx);
        let sender = self.disco_public;
        let Some(sealed) = self.disco_box(id) else { return };
        let bare = sealed.seal(&sender, &ping).len();
        if let Message::Ping { padding, ours, .. } = &mut ping {
            let marker = ours.map_or(0, |_| Features::LEN);
            *padding = (probe.inner + HEADER + TAG).saturating_sub(bare) + marker;
        }
        let datagram = sealed.seal(&sender, &ping);
        self.queue.push(Underlay::Udp(probe.to), &datagram);
    }

    pub(super) fn tell_mtu(&mut self, id: NodeId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        self.outputs.extend(peer.tell_mtu(peer.mtu.inner()));
    }

    pub(super) fn send_disco(&mut self, id: NodeId, to: Underlay, message: &Message) {
        let sender = self.disco_public;
        let Some(payload) = self.disco_box(id).map(|sealed| sealed.seal(&sender, message)) else {
            return;
        };
        if let Underlay::PeerRelay(via) = to {
            let wrapped = [&via.disco_header(false)[..], &payload].concat();
            return self.queue.push(Underlay::Udp(via.addr), &wrapped);
        }
        self.queue.push(to, &payload);
    }

    pub(super) fn disco_box(&mut self, id: NodeId) -> Option<&DiscoBox> {
        let disco = self.peers.get_mut(&id)?.disco.as_mut()?;
        let own = &self.disco_key;
        Some(
            disco
                .sealed
                .get_or_insert_with(|| Box::new(DiscoBox::new(own, &disco.key))),
        )
    }

    /// A peer told its disco key inside the tunnel: newer than what the coordinator has said so far.
    pub(super) fn learn_disco_key(&mut self, id: NodeId, key: DiscoPublicKey, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.disco.as_ref().is_some_and(|known| known.key == key) || self.by_disco.contains_key(&key) {
            return;
        }
        let outdated = peer.node.disco_key.map(Box::new);
        self.replace_disco_key(
            id,
            Some(Disco {
                key,
                outdated,
                sealed: None,
            }),
        );
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.path.restart_discovery(now);
        }
    }

    /// What the coordinator says of a peer's disco key, unless the tunnel has told us better. True when it changed.
    pub(super) fn set_disco_key(&mut self, id: NodeId, told: Option<DiscoPublicKey>) -> bool {
        let Some(peer) = self.peers.get(&id) else { return false };
        let keep = match &peer.disco {
            Some(known) => {
                Some(known.key) == told || (known.outdated.is_some() && known.outdated.as_deref() == told.as_ref())
            }
            None => told.is_none(),
        };
        if keep || told.is_some_and(|key| self.by_disco.get(&key).is_some_and(|other| *other != id)) {
            return false;
        }
        self.replace_disco_key(
            id,
            told.map(|key| Disco {
                key,
                outdated: None,
                sealed: None,
            }),
        );
        true
    }

    fn replace_disco_key(&mut self, id: NodeId, disco: Option<Disco>) {
        // What was agreed with a relay was agreed for the old key.
        self.forget_relayed(id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if let Some(old) = peer.disco.take() {
            self.by_disco.remove(&old.key);
        }
        if let Some(new) = &disco {
            self.by_disco.insert(new.key, id);
        }
        peer.disco = disco;
    }
}
