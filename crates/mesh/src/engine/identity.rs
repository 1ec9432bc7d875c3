//! [`Identity`]: the node key with what follows from it, computed once and replaced as a whole by a rotation.

use std::sync::Arc;

use sandd_control_client::keys::{NodePrivateKey, NodePublicKey};

use super::Underlay;
use crate::wg::guard::HandshakeGuard;
use crate::wg::{self, Clock, Packet, StaticSecret};

pub(super) struct Identity {
    /// The key as handshakes use it.
    pub(super) wireguard: Arc<wg::Identity>,
    /// The public key as peers and disco name it.
    pub(super) key: NodePublicKey,
    pub(super) guard: HandshakeGuard<Underlay>,
    pub(super) clock: Clock,
}

impl Identity {
    pub(super) fn new(node_key: &NodePrivateKey, clock: Clock) -> Self {
        let wireguard = wg::Identity::new(StaticSecret::from(*node_key.to_bytes()), clock);
        Self {
            key: NodePublicKey::from_bytes(wireguard.public().to_bytes()),
            guard: HandshakeGuard::new(wireguard.public()),
            wireguard: Arc::new(wireguard),
            clock,
        }
    }

    /// Who sent an initiation, by what it says.
    pub(super) fn read_initiation(&self, datagram: &[u8]) -> Option<(NodePublicKey, wg::Initiator)> {
        let Ok(Packet::HandshakeInit(init)) = Packet::parse(datagram) else {
            return None;
        };
        let initiator = self.wireguard.read_initiation(&init).ok()?;
        Some((
            NodePublicKey::from_bytes(initiator.static_public().to_bytes()),
            initiator,
        ))
    }
}
