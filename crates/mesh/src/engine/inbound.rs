//! Datagram to overlay packet: demultiplex, open, check the source, filter.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use sandd_aead::Key;
use sandd_control_client::keys::NodePublicKey;
use sandd_control_client::netmap::{NodeId, RegionId};

use super::job::BULK;
use super::{Engine, Output, Underlay, relayed};
use crate::disco;
use crate::filter::{PeerContext, Verdict};
use crate::metrics::DropReason;
use crate::packet::ecn::combine;
use crate::packet::ip::{IpPacket, Transport};
use crate::packet::tsmp;
use crate::path::agent::Route;
use crate::peer_relay::{Via, geneve_run};
use crate::wg::Initiator;
use crate::wg::guard::Admission;
use crate::wg::message::{MessageKind, classify};
use crate::wg::tunnel::{HEADER, TAG, Tunnel};

/// Datagrams opened together.
const MAX_RUN: usize = 64;

/// Takes the overlay packets that a tunnel opened and the filter let in, in order.
pub(crate) trait Overlay {
    /// One IP packet. It may be changed, and is gone afterwards.
    fn deliver(&mut self, packet: &mut [u8]);
}

impl Engine {
    /// Datagrams of one source that are not STUN: `stride` bytes each, the last may be shorter. `ecn` are the two bits
    /// of their outer headers.
    pub(crate) fn handle_udp(
        &mut self,
        from: SocketAddr,
        ecn: u8,
        datagrams: &mut [u8],
        stride: usize,
        now: Instant,
        overlay: &mut impl Overlay,
    ) {
        self.handle_datagrams(Underlay::Udp(from), ecn, datagrams, stride, now, overlay);
    }

    /// The key and the slots of datagrams that are all for one session and worth being opened by another thread.
    pub(super) fn opening(&mut self, datagrams: &[u8], stride: usize, now: Instant) -> Option<(Key, u64)> {
        if datagrams.len() <= stride.saturating_mul(BULK - 1) {
            return None;
        }
        let (run, receiver) = data_run(datagrams, stride);
        let owner = self.indices.owner(receiver.filter(|_| run == datagrams.len())?)?;
        let tunnel = self.peers.get_mut(&owner)?.tunnel.as_mut()?;
        tunnel.opening(datagrams, stride, now)
    }

    /// As [`Self::handle_udp`], for datagrams that were opened meanwhile: of which [`Self::opening`] gave the key.
    pub(super) fn handle_opened(
        &mut self,
        (from, ecn): (SocketAddr, u8),
        datagrams: &mut [u8],
        stride: usize,
        opened: (&Key, u64),
        now: Instant,
        overlay: &mut impl Overlay,
    ) {
        let (_, receiver) = data_run(datagrams, stride);
        let from = Underlay::Udp(from);
        self.handle_run(
            (from, ecn, receiver.unwrap_or_default()),
            datagrams,
            stride,
            now,
            overlay,
            |tunnel, slots, sealed| tunnel.accept_slots(slots, stride, opened, now, sealed),
        );
    }

    /// A packet that a relay delivered. `key` is what the relay says; WireGuard or disco must prove it.
    pub(crate) fn handle_derp(
        &mut self,
        region: RegionId,
        key: NodePublicKey,
        datagrams: &mut [u8],
        stride: usize,
        now: Instant,
        overlay: &mut impl Overlay,
    ) {
        let Some(id) = self.by_key.get(&key).copied() else {
            if self.knocks.note(key, region, now) {
                self.outputs.push_back(Output::MapOutdated);
            }
            return self.counters.drop_packet(DropReason::UnknownPeer);
        };
        match self.peers.get_mut(&id) {
            Some(peer) if !peer.node.wireguard_only => peer.learned_region = Some(region),
            // It has no relay: somebody else speaks for it there.
            Some(_) | None => return self.counters.drop_packet(DropReason::UnknownPeer),
        }
        self.handle_datagrams(Underlay::Derp { region, key }, 0, datagrams, stride, now, overlay);
    }

    pub(super) fn handle_datagrams(
        &mut self,
        from: Underlay,
        ecn: u8,
        datagrams: &mut [u8],
        stride: usize,
        now: Instant,
        overlay: &mut impl Overlay,
    ) {
        let stride = stride.max(1);
        let mut rest = datagrams;
        while !rest.is_empty() {
            if let Underlay::Udp(addr) = from
                && let Some(run) = geneve_run(addr, rest, stride)
            {
                let (these, others) = rest.split_at_mut(run.len);
                rest = others;
                self.handle_geneve(&run, ecn, these, stride, now, overlay);
                continue;
            }
            let (run, receiver) = data_run(rest, stride);
            let (these, others) = rest.split_at_mut(run);
            rest = others;
            if let Some(receiver) = receiver {
                self.handle_run(
                    (from, ecn, receiver),
                    these,
                    stride,
                    now,
                    overlay,
                    |tunnel, slots, sealed| tunnel.open_slots(slots, stride, now, sealed),
                );
            } else if disco::looks_like(these) {
                self.handle_disco(from, these, now);
            } else {
                self.handle_handshake(from, these, now);
            }
        }
    }

    /// Data messages for one session: opened together, judged one by one.
    fn handle_run(
        &mut self,
        (from, ecn, receiver): (Underlay, u8, u32),
        slots: &mut [u8],
        stride: usize,
        now: Instant,
        overlay: &mut impl Overlay,
        open: impl FnOnce(&mut Tunnel, &mut [u8], &mut Vec<Vec<u8>>) -> u64,
    ) {
        let count = slots.len().div_ceil(stride);
        let Some(id) = self.indices.owner(receiver) else {
            return self.counters.drop_packets(DropReason::UnknownPeer, count);
        };
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(tunnel) = &mut peer.tunnel else { return };
        let opened = open(tunnel, slots, &mut self.sealed);
        let (established, completed) = (tunnel.take_established(), tunnel.take_completed());
        self.counters
            .drop_packets(DropReason::Unopened, count - opened.count_ones() as usize);
        if opened != 0 {
            peer.last_received = Some(now);
            let direct = match from {
                Underlay::Udp(addr) => Some(addr),
                Underlay::PeerRelay(_) | Underlay::Derp { .. } => None,
            };
            if let Some(client) = &mut peer.relayed {
                relayed::note_opened(client, from, now);
            }
            peer.path.handle_opened(direct, now);
            let mut judged = Judged::default();
            for (_, slot) in slots
                .chunks_mut(stride)
                .enumerate()
                .filter(|(at, _)| opened & (1 << at) != 0)
            {
                let end = slot.len() - TAG;
                self.deliver(id, from, ecn, &mut slot[HEADER..end], now, &mut judged, overlay);
            }
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.rx_bytes += judged.bytes;
            }
        }
        if established {
            self.session_established(id, now);
        } else if completed {
            self.tell_disco_key(id, now);
        }
        self.after_peer(id, now);
    }

    fn handle_handshake(&mut self, from: Underlay, datagram: &[u8], now: Instant) {
        match classify(datagram) {
            Some(MessageKind::Initiation) => {}
            // An answer to nothing costs nothing.
            Some(MessageKind::Response { receiver } | MessageKind::Cookie { receiver })
                if self.indices.owner(receiver).is_none() =>
            {
                return self.counters.drop_packet(DropReason::UnknownPeer);
            }
            Some(MessageKind::Response { .. }) => {}
            Some(MessageKind::Cookie { .. }) => return self.handle_admitted(from, datagram, now),
            Some(MessageKind::Data { .. }) | None => {
                return self.counters.drop_packet(DropReason::UnknownDatagram);
            }
        }
        match self.identity.guard.admit(from, source_for_limits(from), datagram, now) {
            Admission::Admit => self.handle_admitted(from, datagram, now),
            Admission::Cookie(reply) => self.transmit(from, &reply),
            Admission::Queued => {}
            Admission::Refuse => self.counters.drop_packet(DropReason::HandshakeRefused),
        }
    }

    /// A handshake message that may cost something.
    pub(super) fn handle_admitted(&mut self, from: Underlay, datagram: &[u8], now: Instant) {
        let Some(kind) = classify(datagram) else { return };
        let (id, initiator) = match kind {
            MessageKind::Initiation => match self.identity.read_initiation(datagram) {
                Some((key, initiator)) => (self.by_key.get(&key).copied(), Some(initiator)),
                None => (None, None),
            },
            MessageKind::Response { receiver } | MessageKind::Cookie { receiver } | MessageKind::Data { receiver } => {
                (self.indices.owner(receiver), None)
            }
        };
        let Some(id) = id.filter(|id| self.ensure_tunnel(*id, now)) else {
            return self.counters.drop_packet(DropReason::UnknownPeer);
        };
        self.handshake_of(id, from, kind, initiator.as_ref(), datagram, now);
        self.after_peer(id, now);
    }

    /// Hands a handshake message to its tunnel: an initiation as far as it has been read, another one as it came.
    fn handshake_of(
        &mut self,
        id: NodeId,
        from: Underlay,
        kind: MessageKind,
        initiator: Option<&Initiator>,
        datagram: &[u8],
        now: Instant,
    ) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(tunnel) = &mut peer.tunnel else { return };
        let mut replies = Vec::new();
        let taken = match initiator {
            Some(initiator) => tunnel.respond(initiator, now, &mut replies),
            None => tunnel.handle_answer(datagram, now, &mut replies),
        };
        if taken.is_err() {
            return self.counters.drop_packet(DropReason::Unopened);
        }
        let (established, completed) = (tunnel.take_established(), tunnel.take_completed());
        peer.last_received = Some(now);
        if let Underlay::Udp(addr) = from {
            match kind {
                // Only what a session carried moves a path; an initiation could be sent on by somebody in between.
                MessageKind::Response { .. } => peer.path.handle_opened(Some(addr), now),
                MessageKind::Initiation => peer.path.handle_ping(addr, now),
                MessageKind::Cookie { .. } | MessageKind::Data { .. } => {}
            }
        } else if matches!(kind, MessageKind::Response { .. }) {
            peer.path.handle_opened(None, now);
        }
        // A way that has led here need not lead back: until it is proven, the relay has the answer as well.
        let proven = matches!(from, Underlay::Udp(addr) if peer.path.route() == Route::Direct(addr));
        let second = self.relay_of(id).filter(|relay| !proven && *relay != from);
        for reply in replies {
            self.transmit(from, &reply);
            if let (Some(relay), MessageKind::Initiation) = (second, kind) {
                self.transmit(relay, &reply);
            }
        }
        if established {
            self.session_established(id, now);
        } else if completed {
            self.tell_disco_key(id, now);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "all that is known of an opened packet")]
    fn deliver(
        &mut self,
        id: NodeId,
        from: Underlay,
        ecn: u8,
        body: &mut [u8],
        now: Instant,
        judged: &mut Judged,
        overlay: &mut impl Overlay,
    ) {
        // Nothing but padding is a keepalive.
        if body.first().is_none_or(|first| *first == 0) {
            return;
        }
        let Ok(view) = IpPacket::parse(body) else {
            return self.counters.drop_packet(DropReason::Malformed);
        };
        let len = view.total_len();
        let flow = Admitted::of(&view);
        if judged.last.is_none() || judged.last != flow {
            let Some(peer) = self.peers.get(&id) else { return };
            if self.routes.lookup(view.src()) != Some(id) {
                return self.counters.drop_packet(DropReason::ForeignSource);
            }
            if let Some(key) = tsmp::parse_disco_advertisement(&view) {
                return self.learn_disco_key(id, key, now);
            }
            if view.protocol() == tsmp::PROTOCOL {
                if let Some(answer) = tsmp::answer_ping(&view) {
                    self.seal_single(id, &answer, now);
                }
                return;
            }
            let context = PeerContext {
                jailed: peer.node.jailed,
                capabilities: &peer.node.cap_map,
            };
            if self.filter.inbound(&view, &context, now) != Verdict::Accept {
                return self.counters.drop_packet(DropReason::Filtered);
            }
            judged.last = flow;
            if let Some(mut outcome) = self.pings.take_reply(&view, Some(from), now) {
                if let (Underlay::PeerRelay(via), Some((_, path))) = (from, &mut outcome.reply) {
                    *path = self.name_via(id, via);
                }
                self.counters.packets_in += 1;
                return self.outputs.push_back(Output::Ponged(outcome));
            }
        }
        judged.bytes += len as u64;
        let packet = &mut body[..len];
        if !combine(packet, ecn) {
            return self.counters.drop_packet(DropReason::Congested);
        }
        self.counters.packets_in += 1;
        overlay.deliver(packet);
    }
}

/// What is known of a run so far.
#[derive(Default)]
struct Judged {
    last: Option<Admitted>,
    /// Of the packets let in.
    bytes: u64,
}

/// A flow whose last packet was let in: what follows in the same run needs no second judgement. Only for what a filter
/// judges by addresses and ports alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Admitted {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    ports: (u16, u16),
}

impl Admitted {
    fn of(packet: &IpPacket<'_>) -> Option<Self> {
        let ports = match packet.transport() {
            Transport::Tcp { src, dst, opens: false } | Transport::Ports { src, dst } => (src, dst),
            Transport::Tcp { .. }
            | Transport::EchoRequest { .. }
            | Transport::EchoReply { .. }
            | Transport::IcmpError { .. }
            | Transport::Other
            | Transport::LaterFragment => return None,
        };
        Some(Self {
            src: packet.src(),
            dst: packet.dst(),
            protocol: packet.protocol(),
            ports,
        })
    }
}

/// The bytes in front that are data messages for one receiver, with its index; else the bytes of the first datagram.
fn data_run(datagrams: &[u8], stride: usize) -> (usize, Option<u32>) {
    let receiver = |datagram: &[u8]| match classify(datagram) {
        Some(MessageKind::Data { receiver }) => Some(receiver),
        Some(MessageKind::Initiation | MessageKind::Response { .. } | MessageKind::Cookie { .. }) | None => None,
    };
    let first = &datagrams[..stride.min(datagrams.len())];
    let Some(index) = receiver(first) else {
        return (first.len(), None);
    };
    let run = datagrams
        .chunks(stride)
        .take(MAX_RUN)
        .take_while(|datagram| receiver(datagram) == Some(index))
        .map(<[u8]>::len)
        .sum();
    (run, Some(index))
}

/// What limits and cookies go by: the UDP source, or one constant for each key behind a relay.
fn source_for_limits(from: Underlay) -> SocketAddr {
    match from {
        Underlay::Udp(addr) | Underlay::PeerRelay(Via { addr, .. }) => addr,
        Underlay::Derp { key, .. } => {
            let mut bytes = [0u8; 16];
            bytes.copy_from_slice(&key.as_bytes()[..16]);
            bytes[0] = 0xfd;
            SocketAddr::new(IpAddr::V6(Ipv6Addr::from(bytes)), 0)
        }
    }
}
