//! Overlay packet to sealed datagram: filter, route, seal, choose the way.

use std::net::IpAddr;
use std::time::Instant;

use sandd_control_client::netmap::NodeId;

use super::job::BULK;
use super::send_queue::Run;
use super::{Engine, Output, Underlay, relayed};
use crate::event::MeshEvent;
use crate::filter::Verdict;
use crate::metrics::DropReason;
use crate::packet::ip::IpPacket;
use crate::packet::split::Splitter;
use crate::packet::vnet::VnetHeader;
use crate::packet::{PacketBuf, ecn, too_big, tsmp};
use crate::path::agent::{Route, Spread};
use crate::path::mtu::BASE;
use crate::wg::PublicKey;
use crate::wg::tunnel::{HEADER, PeerConfig, TAG, Tunnel};

impl Engine {
    /// A packet of the device towards the mesh, or a super-packet: many segments of one flow that are judged once and cut
    /// apart where they are sealed.
    pub(crate) fn handle_overlay(&mut self, header: &VnetHeader, packet: &[u8], now: Instant) {
        let Ok(view) = IpPacket::parse(packet) else {
            return self.counters.drop_packet(DropReason::Malformed);
        };
        let destination = view.dst();
        if self.own_ips.contains(&destination) {
            return self.deliver_to_self(header, packet, now);
        }
        if self.filter.outbound(&view, now) != Verdict::Accept {
            return self.counters.drop_packet(DropReason::Filtered);
        }
        let Some(id) = self.routes.lookup(destination) else {
            return self.counters.drop_packet(DropReason::NoRoute);
        };
        let Ok(splitter) = Splitter::new(header, packet) else {
            return self.counters.drop_packet(DropReason::Malformed);
        };
        if let Some(mtu) = self.limit_to(id)
            && splitter.len_of(0) > mtu
        {
            return self.answer_too_big(packet, destination, mtu, splitter.count());
        }
        self.send_to_peer(id, &splitter, ecn::of(packet), now);
    }

    /// What the path to a peer carries: over a peer's relay what every network carries. DERP takes any size.
    fn limit_to(&self, id: NodeId) -> Option<usize> {
        let peer = self.peers.get(&id)?;
        match peer.path.route() {
            Route::Relay => peer.relayed.as_ref()?.route().map(|_| BASE),
            Route::Direct(_) | Route::Both(_) => Some(peer.mtu.inner()),
        }
    }

    /// Tells the sender how much passes: what the device knew of the path is out of date. In the name of the destination,
    /// since a kernel takes nothing from outside that comes from its own address.
    fn answer_too_big(&mut self, packet: &[u8], destination: IpAddr, mtu: usize, count: usize) {
        self.counters.drop_packets(DropReason::TooBig, count);
        if let Some(answer) = too_big::answer(packet, mtu, destination) {
            self.outputs.push_back(Output::Deliver(PacketBuf::copied_from(&answer)));
        }
    }

    /// A packet that is complete, checksums too.
    pub(super) fn send_overlay(&mut self, packet: &[u8], now: Instant) {
        self.handle_overlay(&VnetHeader::default(), packet, now);
    }

    /// Talking to oneself never leaves the node.
    fn deliver_to_self(&mut self, header: &VnetHeader, packet: &[u8], now: Instant) {
        let Ok(splitter) = Splitter::new(header, packet) else {
            return self.counters.drop_packet(DropReason::Malformed);
        };
        for copy in splitter.segments() {
            let outcome = IpPacket::parse(&copy)
                .ok()
                .and_then(|view| self.pings.take_reply(&view, None, now));
            self.outputs.push_back(match outcome {
                Some(outcome) => Output::Ponged(outcome),
                None => Output::Deliver(copy),
            });
        }
    }

    fn send_to_peer(&mut self, id: NodeId, packet: &Splitter<'_>, ecn: u8, now: Instant) {
        if !self.ensure_tunnel(id, now) {
            return self.counters.drop_packet(DropReason::UnknownPeer);
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.path.handle_sent(now);
        relayed::note_sent(peer, &self.relays, self.disco_public, now);
        let Some(tunnel) = &mut peer.tunnel else { return };
        if tunnel.ready(now) {
            self.seal(id, packet, ecn, now);
        } else {
            for copy in packet.segments() {
                tunnel.stage(copy, now, &mut self.sealed);
            }
        }
        self.after_peer(id, now);
    }

    /// Cuts, pads and seals straight into the datagrams that leave. The tunnel must be ready.
    pub(super) fn seal(&mut self, id: NodeId, packet: &Splitter<'_>, ecn: u8, now: Instant) {
        let Some((first, mirror)) = self.spread(id, packet, now) else {
            return self.counters.drop_packet(DropReason::NoPath);
        };
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(tunnel) = &mut peer.tunnel else { return };
        let count = packet.count();
        let mtu = self.mtu;
        let mut done = 0;
        while done < count {
            let run = Run {
                to: first,
                ecn,
                stride: sealed_len(packet.len_of(done), mtu),
                count: count - done,
                last: sealed_len(packet.len_of(count - 1), mtu),
            };
            let (slots, taken) = self.queue.reserve(&run);
            for (at, slot) in slots.chunks_mut(run.stride).enumerate() {
                let len = packet.len_of(done + at);
                let (body, rest) = slot[HEADER..].split_at_mut(len);
                packet.write(done + at, body);
                rest.fill(0);
                peer.tx_bytes += len as u64;
            }
            done += taken;
            let key = tunnel.number_slots(slots, run.stride, now, &mut self.sealed);
            if let Some(key) = key.filter(|_| self.lanes && mirror.is_none() && taken >= BULK) {
                self.queue.seal_later(key);
                continue;
            }
            if let Some(key) = key {
                key.seal_slots(slots, run.stride);
            }
            if let Some(mirror) = mirror {
                self.mirrored.clear();
                self.mirrored.extend_from_slice(slots);
                for datagram in self.mirrored.chunks(run.stride) {
                    self.queue.push(mirror, datagram);
                }
                self.counters.relay_out += taken as u64;
            }
        }
        self.counters.packets_out += count as u64;
        self.count_out(first, count);
    }

    /// Where data for a peer goes now, and where a copy of it goes while the path is under suspicion.
    fn ways_to(&self, id: NodeId) -> Option<(Underlay, Option<Underlay>)> {
        let relay = self.relay_of(id);
        match (self.peers.get(&id)?.path.route(), relay) {
            (Route::Relay, relay) => match self.via_of(id) {
                Some((via, false)) => Some((Underlay::PeerRelay(via), None)),
                Some((via, true)) => Some((Underlay::PeerRelay(via), relay)),
                None => relay.map(|relay| (relay, None)),
            },
            (Route::Direct(addr), _) => Some((Underlay::Udp(addr), None)),
            (Route::Both(addr), relay) => Some((Underlay::Udp(addr), relay)),
        }
    }

    /// As [`Self::ways_to`] for this much data: a path under suspicion doubles a little and not a flood.
    fn spread(&mut self, id: NodeId, packet: &Splitter<'_>, now: Instant) -> Option<(Underlay, Option<Underlay>)> {
        let (first, mirror) = self.ways_to(id)?;
        let (Some(relay), Some(peer)) = (mirror, self.peers.get_mut(&id)) else {
            return Some((first, mirror));
        };
        let bytes = (0..packet.count()).map(|at| packet.len_of(at)).sum();
        if let Underlay::PeerRelay(_) = first {
            let copied = peer.path.may_mirror(bytes, now);
            return Some((first, mirror.filter(|_| copied)));
        }
        Some(match peer.path.spread(bytes, now) {
            Spread::Both => (first, mirror),
            Spread::Address => (first, None),
            Spread::Relay => (relay, None),
        })
    }

    /// Asks a peer inside the tunnel whether data arrives.
    pub(super) fn ask(&mut self, id: NodeId, now: Instant) {
        let pair = self.mesh_addresses(id);
        let mut data = tsmp::PingData::default();
        data.copy_from_slice(&super::new_tx()[..8]);
        if let Some(question) = pair.and_then(|(own, theirs)| tsmp::encode_ping(own, theirs, data)) {
            self.seal_single(id, &question, now);
        }
    }

    /// Sends a packet to a peer whatever the routes say.
    #[cfg(test)]
    pub(super) fn send_packet_to(&mut self, id: NodeId, packet: &[u8], now: Instant) {
        if let Ok(splitter) = Splitter::new(&VnetHeader::default(), packet) {
            self.send_to_peer(id, &splitter, ecn::of(packet), now);
        }
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
            let config = PeerConfig {
                public: PublicKey::from(*peer.node.key.as_bytes()),
                preshared: None,
                keepalive: None,
            };
            let mut tunnel = Tunnel::new(&self.identity.wireguard, config, now);
            tunnel.settle(&mut self.indices, id);
            peer.tunnel = Some(Box::new(tunnel));
        }
        true
    }

    /// Sends the handshake messages that the tunnel of a peer left in `sealed`, on the way its path says.
    pub(super) fn send_sealed(&mut self, id: NodeId) {
        if self.sealed.is_empty() {
            return;
        }
        let mut sealed = std::mem::take(&mut self.sealed);
        for message in sealed.drain(..) {
            self.send_on_path(id, &message);
        }
        self.sealed = sealed;
    }

    fn send_on_path(&mut self, id: NodeId, message: &[u8]) {
        let Some(peer) = self.peers.get(&id) else { return };
        let initiation = message.first().is_some_and(|kind| *kind == 1);
        // An initiation also tries the addresses that are likely to work: it may open the way by itself.
        let guesses = if initiation { peer.path.likely() } else { Vec::new() };
        let ways = self.ways_to(id);
        if ways.is_none() && guesses.is_empty() {
            self.counters.drop_packet(DropReason::NoPath);
        }
        for guess in guesses {
            self.transmit(Underlay::Udp(guess), message);
        }
        if let Some((first, mirror)) = ways {
            self.transmit(first, message);
            if let Some(mirror) = mirror {
                self.transmit(mirror, message);
            }
        }
    }

    pub(super) fn transmit(&mut self, to: Underlay, datagram: &[u8]) {
        self.count_out(to, 1);
        self.queue.push(to, datagram);
    }

    fn count_out(&mut self, to: Underlay, count: usize) {
        match to {
            Underlay::Udp(_) => self.counters.direct_out += count as u64,
            Underlay::PeerRelay(_) => self.counters.peer_relay_out += count as u64,
            Underlay::Derp { .. } => self.counters.relay_out += count as u64,
        }
    }

    /// The relay that carries packets to a peer: its home, unless only another one has heard of it.
    pub(super) fn relay_of(&self, id: NodeId) -> Option<Underlay> {
        let peer = self.peers.get(&id)?;
        if peer.node.wireguard_only {
            return None;
        }
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
        let Some(tunnel) = &mut peer.tunnel else { return };
        let staged = tunnel.take_staged();
        peer.path.handle_sent(now);
        // First, so that the peer knows the key before the first ping and call-me-maybe arrive.
        self.tell_disco_key(id, now);
        for packet in staged {
            self.seal_single(id, &packet, now);
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.path.restart_discovery(now);
        self.outputs.push_back(Output::Event(event));
    }

    /// Our disco key, inside the tunnel: also to a peer that has begun anew while our session stood, for what its state
    /// file and the coordinator know of us may be older.
    pub(super) fn tell_disco_key(&mut self, id: NodeId, now: Instant) {
        let advert = self
            .mesh_addresses(id)
            .and_then(|(own, theirs)| tsmp::encode_disco_advertisement(own, theirs, &self.disco_public));
        if let Some(advert) = advert {
            self.seal_single(id, &advert, now);
        }
    }

    /// Our mesh address and that of a peer which understands what nodes tell one another inside the tunnel.
    fn mesh_addresses(&self, id: NodeId) -> Option<(IpAddr, IpAddr)> {
        let peer = self.peers.get(&id).filter(|peer| !peer.node.wireguard_only)?;
        let mut own = self.own_ips.iter();
        own.find_map(|own| Some((*own, peer.address(own.is_ipv6())?)))
    }

    /// One packet of our own; dropped when there is no session to send it on.
    pub(super) fn seal_single(&mut self, id: NodeId, packet: &[u8], now: Instant) {
        let tunnel = self.peers.get_mut(&id).and_then(|peer| peer.tunnel.as_mut());
        if !tunnel.is_some_and(|tunnel| tunnel.ready(now)) {
            return;
        }
        if let Ok(splitter) = Splitter::new(&VnetHeader::default(), packet) {
            self.seal(id, &splitter, ecn::of(packet), now);
        }
    }
}

/// Bytes of the datagram that carries a packet of this length: padded to 16 but not beyond the MTU, with header and tag.
fn sealed_len(packet: usize, mtu: usize) -> usize {
    HEADER + packet.next_multiple_of(16).min(mtu.max(packet)) + TAG
}
