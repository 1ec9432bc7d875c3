//! Overlay packet to sealed datagram: filter, route, seal, choose the way.

use std::time::Instant;

use boringtun::x25519::PublicKey;
use sandd_control_client::netmap::NodeId;

use super::{Engine, Output, Underlay};
use crate::event::MeshEvent;
use crate::filter::Verdict;
use crate::metrics::DropReason;
use crate::packet::ip::IpPacket;
use crate::packet::{PacketBatch, PacketBuf, tsmp};
use crate::path::agent::Route;
use crate::wg::tunnel::Tunnel;

impl Engine {
    /// Packets of the device, towards the mesh.
    pub(crate) fn handle_overlay(&mut self, packets: PacketBatch, now: Instant) {
        for packet in packets {
            self.send_overlay(packet, now);
        }
    }

    pub(super) fn send_overlay(&mut self, packet: PacketBuf, now: Instant) {
        let Ok(view) = IpPacket::parse(&packet) else {
            return self.counters.drop_packet(DropReason::Malformed);
        };
        let destination = view.dst();
        if self.own_ips.contains(&destination) {
            // Talking to oneself never leaves the node.
            return match self.pings.take_reply(&view, None, now) {
                Some(outcome) => self.outputs.push_back(Output::Ponged(outcome)),
                None => self.outputs.push_back(Output::Deliver(packet)),
            };
        }
        if self.filter.outbound(&view, now) != Verdict::Accept {
            return self.counters.drop_packet(DropReason::Filtered);
        }
        let Some(id) = self.routes.lookup(destination) else {
            return self.counters.drop_packet(DropReason::NoRoute);
        };
        self.send_to_peer(id, packet, now);
    }

    pub(super) fn send_to_peer(&mut self, id: NodeId, packet: PacketBuf, now: Instant) {
        if !self.ensure_tunnel(id, now) {
            return self.counters.drop_packet(DropReason::UnknownPeer);
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(tunnel) = &mut peer.tunnel else { return };
        peer.tx_bytes += packet.len() as u64;
        self.counters.packets_out += 1;
        peer.path.handle_sent(now);
        tunnel.seal(packet, now, &mut self.sealed);
        self.after_peer(id, now);
    }

    /// Starts or repeats the handshake with a peer.
    pub(super) fn initiate(&mut self, id: NodeId, now: Instant) {
        if !self.ensure_tunnel(id, now) {
            return;
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.path.handle_sent(now);
        if let Some(tunnel) = &mut peer.tunnel {
            self.sealed.extend(tunnel.initiate(now));
        }
        self.after_peer(id, now);
    }

    /// Makes the tunnel of a usable peer on first use.
    pub(super) fn ensure_tunnel(&mut self, id: NodeId, now: Instant) -> bool {
        let Some(peer) = self.peers.get_mut(&id) else {
            return false;
        };
        if !peer.usable() {
            return false;
        }
        if peer.tunnel.is_none() {
            let index = loop {
                let mut bytes = [0u8; 4];
                getrandom::fill(&mut bytes[1..]).expect("the operating system provides randomness");
                let index = u32::from_be_bytes(bytes);
                if !self.by_index.contains_key(&index) {
                    break index;
                }
            };
            let public = PublicKey::from(*peer.node.key.as_bytes());
            let tunnel = Tunnel::new(
                self.identity.secret.clone(),
                public,
                index,
                std::sync::Arc::clone(&self.identity.limiter),
                now,
            );
            peer.tunnel = Some(Box::new(tunnel));
            self.by_index.insert(index, id);
        }
        true
    }

    /// Sends what the tunnel of a peer left in `sealed`, on the way its path says.
    pub(super) fn send_sealed(&mut self, id: NodeId) {
        if self.sealed.is_empty() {
            return;
        }
        let mut sealed = std::mem::take(&mut self.sealed);
        for payload in sealed.drain(..) {
            self.send_on_path(id, payload);
        }
        self.sealed = sealed;
    }

    fn send_on_path(&mut self, id: NodeId, payload: Vec<u8>) {
        let Some(peer) = self.peers.get(&id) else { return };
        let route = peer.path.route();
        let relay = self.relay_of(id);
        let handshake = payload.first().is_some_and(|kind| *kind == 1);
        let guesses = if handshake && route == Route::Relay {
            peer.path.likely()
        } else {
            Vec::new()
        };
        let mut sent = false;
        for guess in guesses {
            sent = true;
            self.transmit(Underlay::Udp(guess), payload.clone());
        }
        match (route, relay) {
            (Route::Relay, Some(relay)) => self.transmit(relay, payload),
            (Route::Relay, None) => {
                if !sent {
                    self.counters.drop_packet(DropReason::NoPath);
                }
            }
            (Route::Direct(addr), _) | (Route::Both(addr), None) => self.transmit(Underlay::Udp(addr), payload),
            (Route::Both(addr), Some(relay)) => {
                self.transmit(Underlay::Udp(addr), payload.clone());
                self.transmit(relay, payload);
            }
        }
    }

    pub(super) fn transmit(&mut self, to: Underlay, payload: Vec<u8>) {
        match to {
            Underlay::Udp(_) => self.counters.direct_out += 1,
            Underlay::Derp { .. } => self.counters.relay_out += 1,
        }
        self.outputs.push_back(Output::Transmit { to, payload });
    }

    /// The relay that carries packets to a peer: its home, unless only another one has heard of it.
    pub(super) fn relay_of(&self, id: NodeId) -> Option<Underlay> {
        let peer = self.peers.get(&id)?;
        let home = peer.node.home_derp;
        let region = match (home, peer.learned_region) {
            (Some(home), Some(learned)) if !self.connected.contains(&home) => {
                if self.connected.contains(&learned) {
                    learned
                } else {
                    home
                }
            }
            (Some(home), _) => home,
            (None, learned) => learned?,
        };
        Some(Underlay::Derp {
            region,
            key: peer.node.key,
        })
    }

    /// A session has come up: what waited goes out, the disco key is told inside, discovery starts over.
    pub(super) fn session_established(&mut self, id: NodeId, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let event = MeshEvent::PeerConnected {
            name: peer.node.name.clone(),
            key: peer.node.key,
        };
        let pair = self
            .own_ips
            .iter()
            .find_map(|own| Some((*own, peer.address(own.is_ipv6())?)));
        let Some(tunnel) = &mut peer.tunnel else { return };
        // First, so that the peer knows the key before the first ping and call-me-maybe arrive.
        let advert = pair.and_then(|(own, theirs)| tsmp::encode_disco_advertisement(own, theirs, &self.disco_public));
        if let Some(advert) = advert {
            tunnel.seal(PacketBuf::copied_from(&advert), now, &mut self.sealed);
        }
        tunnel.flush(now, &mut self.sealed);
        peer.path.handle_sent(now);
        peer.path.restart_discovery(now);
        self.outputs.push_back(Output::Event(event));
    }
}
