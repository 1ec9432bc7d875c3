//! The engine's part of [`MeshStatus`](crate::MeshStatus): peers, paths, counters.

use std::net::{IpAddr, SocketAddr};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use sandd_control_client::netmap::NodeId;

use super::{Engine, Underlay};
use crate::disco::Nat;
use crate::metrics::Counters;
use crate::path::agent::Route;
use crate::path::candidate::{Candidate, Origin};
use crate::status::{PeerCandidate, PeerPath, PeerStatus};

impl Engine {
    /// Every peer as it stands, by name.
    pub(crate) fn peer_status(&self, now: Instant) -> Vec<PeerStatus> {
        let mut all: Vec<_> = self
            .peers
            .iter()
            .map(|(id, peer)| {
                let route = peer.path.route();
                let path = self.path_of(*id);
                let via = peer.relayed.as_ref().filter(|_| route == Route::Relay);
                let suspect = via
                    .and_then(|client| client.route())
                    .is_some_and(|(_, suspect)| suspect);
                let rtt = peer.path.rtt().or_else(|| via.and_then(|client| client.rtt()));
                let age =
                    |at: Instant| u64::try_from(now.saturating_duration_since(at).as_millis()).unwrap_or(u64::MAX);
                PeerStatus {
                    name: peer.node.name.clone(),
                    hostname: peer.node.hostname.clone(),
                    addresses: peer.node.ips().collect(),
                    node_key: peer.node.key.to_string(),
                    tags: peer.node.tags.clone(),
                    online: peer.node.online,
                    expired: peer.node.expired,
                    wireguard_only: peer.node.wireguard_only,
                    path,
                    path_for_ms: peer.path_since.map(age),
                    suspect: suspect || matches!(route, Route::Both(_)),
                    rtt_ms: rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
                    session: peer.tunnel.as_ref().is_some_and(|tunnel| tunnel.has_session()),
                    session_age_secs: peer
                        .tunnel
                        .as_ref()
                        .and_then(|tunnel| tunnel.session_since())
                        .map(|since| now.saturating_duration_since(since).as_secs()),
                    tx_bytes: peer.tx_bytes,
                    rx_bytes: peer.rx_bytes,
                    last_received_ms: peer.last_received.map(age),
                    last_seen: peer.node.last_seen.and_then(seconds),
                    home_region: peer.node.home_derp.map(|region| region.0),
                    mapping_varies: peer.features.and_then(|theirs| match theirs.nat() {
                        Nat::Unknown => None,
                        Nat::Easy => Some(false),
                        Nat::Hard => Some(true),
                    }),
                    mtu: peer.told_mtu,
                    candidates: peer
                        .path
                        .candidates()
                        .map(|(addr, known)| candidate(addr, known, now))
                        .collect(),
                }
            })
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The path packets to a mesh address take now.
    pub(crate) fn path_to(&self, ip: IpAddr) -> PeerPath {
        if self.own_ips.contains(&ip) {
            return PeerPath::Local;
        }
        let Some(id) = self.routes.lookup(ip) else {
            return PeerPath::Unknown;
        };
        self.path_of(id)
    }

    /// The path packets to a peer take now.
    pub(super) fn path_of(&self, id: NodeId) -> PeerPath {
        let Some(peer) = self.peers.get(&id) else {
            return PeerPath::Unknown;
        };
        match (peer.path.route(), self.via_of(id), self.relay_of(id)) {
            (Route::Direct(addr) | Route::Both(addr), ..) => PeerPath::Direct(addr),
            (Route::Relay, Some((via, _)), _) => self.name_via(id, via),
            (Route::Relay, None, Some(Underlay::Derp { region, .. })) => PeerPath::Relayed(region.0),
            (Route::Relay, None, _) => PeerPath::Unknown,
        }
    }

    /// Packet counters.
    pub(crate) fn counters(&self) -> Counters {
        self.counters.clone()
    }
}

/// Seconds since 1970.
pub(crate) fn seconds(at: SystemTime) -> Option<u64> {
    Some(at.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

fn candidate(address: SocketAddr, known: &Candidate, now: Instant) -> PeerCandidate {
    let age = |at: Instant| u64::try_from(now.saturating_duration_since(at).as_millis()).unwrap_or(u64::MAX);
    let origin = match known.origin {
        Origin::Netmap => "coordinator",
        Origin::CallMeMaybe => "peer",
        Origin::Heard => "heard",
    };
    PeerCandidate {
        address,
        origin: origin.to_owned(),
        pinged_ms: known.last_ping.map(age),
        answered_ms: known.last_pong.map(age),
        rtt_ms: known.rtt().map(|rtt| rtt.as_secs_f64() * 1e3),
    }
}
