//! [`Identity`]: the node key with what follows from it, computed once and replaced as a whole by a rotation.

use std::sync::Arc;

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::x25519::{PublicKey, StaticSecret};
use sandd_control_client::keys::{NodePrivateKey, NodePublicKey};

use crate::wg::guard::HandshakeGuard;

pub(super) struct Identity {
    pub(super) secret: StaticSecret,
    pub(super) public: PublicKey,
    /// The public key as peers and disco name it.
    pub(super) key: NodePublicKey,
    /// Shared by all tunnels and never reached: the guard in front has judged already.
    pub(super) limiter: Arc<RateLimiter>,
    pub(super) guard: HandshakeGuard,
}

impl Identity {
    pub(super) fn new(node_key: &NodePrivateKey) -> Self {
        let secret = StaticSecret::from(*node_key.to_bytes());
        let public = PublicKey::from(&secret);
        Self {
            key: NodePublicKey::from_bytes(public.to_bytes()),
            limiter: Arc::new(RateLimiter::new(&public, u64::MAX)),
            guard: HandshakeGuard::new(&public),
            secret,
            public,
        }
    }
}
