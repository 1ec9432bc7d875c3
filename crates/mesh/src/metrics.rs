//! Counters an embedder can read, and [`DropReason`]: why a packet went no further.

use serde::{Deserialize, Serialize};

/// Where a packet stopped. A dropped packet is no error; it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// Neither STUN, disco nor WireGuard.
    UnknownDatagram,
    /// A node key or index that is not in the map.
    UnknownPeer,
    /// Forged, replayed or expired.
    Unopened,
    /// A handshake beyond the limits.
    HandshakeRefused,
    /// Inner packet that is not well-formed.
    Malformed,
    /// Inner source that does not belong to the sender.
    ForeignSource,
    /// No rule lets it in.
    Filtered,
    /// No peer has this destination.
    NoRoute,
    /// No path to the peer.
    NoPath,
    /// A full queue.
    QueueFull,
    /// A router marked congestion on the way, and the sender of the packet does not understand marks.
    Congested,
    /// More than the path to the peer carries; the sender was told.
    TooBig,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Plain counts since the node started.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }
    };
}

counters! {
    /// Overlay packets sealed.
    packets_out,
    /// Overlay packets opened and let in.
    packets_in,
    /// Sealed datagrams sent straight.
    direct_out,
    /// Sealed datagrams sent over another peer's relay.
    peer_relay_out,
    /// Sealed datagrams sent over a relay.
    relay_out,
    /// See [`DropReason::UnknownDatagram`].
    dropped_unknown_datagram,
    /// See [`DropReason::UnknownPeer`].
    dropped_unknown_peer,
    /// See [`DropReason::Unopened`].
    dropped_unopened,
    /// See [`DropReason::HandshakeRefused`].
    dropped_handshake_refused,
    /// See [`DropReason::Malformed`].
    dropped_malformed,
    /// See [`DropReason::ForeignSource`].
    dropped_foreign_source,
    /// See [`DropReason::Filtered`].
    dropped_filtered,
    /// See [`DropReason::NoRoute`].
    dropped_no_route,
    /// See [`DropReason::NoPath`].
    dropped_no_path,
    /// See [`DropReason::QueueFull`].
    dropped_queue_full,
    /// See [`DropReason::Congested`].
    dropped_congested,
    /// See [`DropReason::TooBig`].
    dropped_too_big,
}

impl Counters {
    pub(crate) fn drop_packet(&mut self, reason: DropReason) {
        self.drop_packets(reason, 1);
    }

    pub(crate) fn drop_packets(&mut self, reason: DropReason, count: usize) {
        let counter = match reason {
            DropReason::UnknownDatagram => &mut self.dropped_unknown_datagram,
            DropReason::UnknownPeer => &mut self.dropped_unknown_peer,
            DropReason::Unopened => &mut self.dropped_unopened,
            DropReason::HandshakeRefused => &mut self.dropped_handshake_refused,
            DropReason::Malformed => &mut self.dropped_malformed,
            DropReason::ForeignSource => &mut self.dropped_foreign_source,
            DropReason::Filtered => &mut self.dropped_filtered,
            DropReason::NoRoute => &mut self.dropped_no_route,
            DropReason::NoPath => &mut self.dropped_no_path,
            DropReason::QueueFull => &mut self.dropped_queue_full,
            DropReason::Congested => &mut self.dropped_congested,
            DropReason::TooBig => &mut self.dropped_too_big,
        };
        *counter += count as u64;
    }
}
