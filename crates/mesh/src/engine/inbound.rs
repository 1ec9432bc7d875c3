//! Datagram to overlay packet: demultiplex, open, check the source, filter.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::{Packet, Tunn};
use sandd_control_client::keys::NodePublicKey;
use sandd_control_client::netmap::{NodeId, RegionId};

use super::{Engine, MAX_KNOCKS, Output, Underlay};
use crate::disco;
use crate::filter::{PeerContext, Verdict};
use crate::metrics::DropReason;
use crate::packet::ip::IpPacket;
use crate::packet::{PacketBuf, tsmp};
use crate::wg::guard::Admission;
use crate::wg::message::{MessageKind, classify};
use crate::wg::tunnel::Opened;

impl Engine {
    /// A UDP datagram that is not STUN.
    pub(crate) fn handle_udp(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        if disco::looks_like(datagram) {
            self.handle_disco(Underlay::Udp(from), datagram, now);
        } else {
            self.handle_wireguard(Underlay::Udp(from), datagram, now);
        }
    }

    /// A packet that a relay delivered. `key` is what the relay says; WireGuard or disco must prove it.
    pub(crate) fn handle_derp(&mut self, region: RegionId, key: NodePublicKey, packet: &[u8], now: Instant) {
        let Some(id) = self.by_key.get(&key).copied() else {
            self.remember_knock(key, region, now);
            return self.counters.drop_packet(DropReason::UnknownPeer);
        };
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.learned_region = Some(region);
        }
        let from = Underlay::Derp { region, key };
        if disco::looks_like(packet) {
            self.handle_disco(from, packet, now);
        } else {
            self.handle_wireguard(from, packet, now);
        }
    }

    fn remember_knock(&mut self, key: NodePublicKey, region: RegionId, now: Instant) {
        self.knocks.retain(|(known, _, _)| *known != key);
        if self.knocks.len() >= MAX_KNOCKS {
            self.knocks.pop_front();
        }
        self.knocks.push_back((key, region, now));
    }

    fn handle_wireguard(&mut self, from: Underlay, datagram: &[u8], now: Instant) {
        let Some(kind) = classify(datagram) else {
            return self.counters.drop_packet(DropReason::UnknownDatagram);
        };
        let source = source_for_limits(from);
        if matches!(kind, MessageKind::Initiation | MessageKind::Response { .. }) {
            match self.identity.guard.admit(source, datagram, now) {
                Admission::Admit => {}
                Admission::Cookie(reply) => return self.transmit(from, reply),
                Admission::Refuse => return self.counters.drop_packet(DropReason::HandshakeRefused),
            }
        }
        let id = match kind {
            MessageKind::Initiation => self.initiator_of(datagram),
            MessageKind::Response { receiver } | MessageKind::Cookie { receiver } | MessageKind::Data { receiver } => {
                self.by_index.get(&(receiver >> 8)).copied()
            }
        };
        let Some(id) = id.filter(|id| self.ensure_tunnel(*id, now)) else {
            return self.counters.drop_packet(DropReason::UnknownPeer);
        };
        self.open_for(id, from, kind, datagram, now);
        self.after_peer(id, now);
    }

    fn open_for(&mut self, id: NodeId, from: Underlay, kind: MessageKind, datagram: &[u8], now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(tunnel) = &mut peer.tunnel else { return };
        let Ok(opened) = tunnel.open(Some(source_for_limits(from)), datagram, now, &mut self.sealed) else {
            return self.counters.drop_packet(DropReason::Unopened);
        };
        let established = tunnel.take_established();
        peer.last_received = Some(now);
        // Only what a session carried moves a path; a handshake could be sent on by somebody in between.
        if matches!(kind, MessageKind::Data { .. } | MessageKind::Response { .. }) {
            let direct = match from {
                Underlay::Udp(addr) => Some(addr),
                Underlay::Derp { .. } => None,
            };
            peer.path.handle_opened(direct, now);
        }
        match opened {
            Opened::Reply(reply) => {
                self.transmit(from, reply);
                if let (MessageKind::Initiation, Underlay::Udp(addr), Some(peer)) =
                    (kind, from, self.peers.get_mut(&id))
                {
                    peer.path.handle_ping(addr, now);
                }
            }
            Opened::Packet(packet) => self.deliver(id, packet, from, now),
            Opened::Nothing => {}
        }
        if established {
            self.session_established(id, now);
        }
    }

    fn initiator_of(&self, datagram: &[u8]) -> Option<NodeId> {
        let Ok(Packet::HandshakeInit(init)) = Tunn::parse_incoming_packet(datagram) else {
            return None;
        };
        let half = parse_handshake_anon(&self.identity.secret, &self.identity.public, &init).ok()?;
        self.by_key
            .get(&NodePublicKey::from_bytes(half.peer_static_public))
            .copied()
    }

    fn deliver(&mut self, id: NodeId, packet: PacketBuf, from: Underlay, now: Instant) {
        let Ok(view) = IpPacket::parse(&packet) else {
            return self.counters.drop_packet(DropReason::Malformed);
        };
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if self.routes.lookup(view.src()) != Some(id) {
            return self.counters.drop_packet(DropReason::ForeignSource);
        }
        if let Some(key) = tsmp::parse_disco_advertisement(&view) {
            return self.learn_disco_key(id, key, now);
        }
        if view.protocol() == tsmp::PROTOCOL {
            return;
        }
        peer.rx_bytes += packet.len() as u64;
        let context = PeerContext {
            jailed: peer.node.jailed,
            capabilities: &peer.node.cap_map,
        };
        if self.filter.inbound(&view, &context, now) != Verdict::Accept {
            return self.counters.drop_packet(DropReason::Filtered);
        }
        self.counters.packets_in += 1;
        if let Some(outcome) = self.pings.take_reply(&view, Some(from), now) {
            return self.outputs.push_back(Output::Ponged(outcome));
        }
        self.outputs.push_back(Output::Deliver(packet));
    }
}

/// What limits and cookies count by: the UDP source, or one constant for each key behind a relay.
fn source_for_limits(from: Underlay) -> IpAddr {
    match from {
        Underlay::Udp(addr) => addr.ip(),
        Underlay::Derp { key, .. } => {
            let mut bytes = [0u8; 16];
            bytes.copy_from_slice(&key.as_bytes()[..16]);
            bytes[0] = 0xfd;
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
    }
}
