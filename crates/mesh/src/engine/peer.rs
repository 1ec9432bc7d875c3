//! [`Peer`]: one entry of the netmap with its tunnel, its path and its counters.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use sandd_control_client::keys::DiscoPublicKey;
use sandd_control_client::netmap::{Node, RegionId};

use super::Output;
use crate::disco::{DiscoBox, Features};
use crate::path::agent::PathAgent;
use crate::path::mtu::{BASE, PathMtu};
use crate::peer_relay::client::RelayClient;
use crate::wg::tunnel::Tunnel;

/// See the module's text. A peer without traffic holds no tunnel and no box: 200 of them cost next to nothing.
pub(crate) struct Peer {
    pub(crate) node: Arc<Node>,
    pub(crate) tunnel: Option<Box<Tunnel>>,
    pub(crate) path: PathAgent,
    /// While it is reached over another peer's relay, or might be.
    pub(crate) relayed: Option<Box<RelayClient>>,
    pub(crate) mtu: PathMtu,
    /// What the device was told last.
    pub(crate) told_mtu: usize,
    /// It said inside a disco box that it is a node of this kind, too.
    pub(crate) ours: bool,
    /// What it said of itself with that, last.
    pub(crate) features: Option<Features>,
    pub(crate) disco: Option<Disco>,
    /// Region a packet of it came from last, while that relay is connected.
    pub(crate) learned_region: Option<RegionId>,
    pub(crate) tx_bytes: u64,
    pub(crate) rx_bytes: u64,
    pub(crate) last_received: Option<Instant>,
    pub(crate) path_since: Option<Instant>,
    /// The address under which it stands in the engine's table of paths.
    pub(crate) listed_at: Option<Box<SocketAddr>>,
    /// The deadline under which it stands in the engine's table.
    pub(crate) scheduled: Option<Instant>,
}

/// The disco key in force and where it came from.
pub(crate) struct Disco {
    pub(crate) key: DiscoPublicKey,
    /// What the coordinator said when the key was learned inside the tunnel: an unchanged word of it is older.
    pub(crate) outdated: Option<Box<DiscoPublicKey>>,
    pub(crate) sealed: Option<Box<DiscoBox>>,
}

impl Peer {
    pub(crate) fn new(node: Arc<Node>, path: PathAgent, mtu: PathMtu) -> Self {
        Self {
            node,
            tunnel: None,
            path,
            relayed: None,
            mtu,
            told_mtu: BASE,
            ours: false,
            features: None,
            disco: None,
            learned_region: None,
            tx_bytes: 0,
            rx_bytes: 0,
            last_received: None,
            path_since: None,
            listed_at: None,
            scheduled: None,
        }
    }

    /// An address of the peer of this family.
    pub(crate) fn address(&self, v6: bool) -> Option<IpAddr> {
        self.node.ips().find(|ip| ip.is_ipv6() == v6)
    }

    /// What the device is to hear when packets of another size than it knows pass to these addresses.
    pub(crate) fn tell_mtu(&mut self, mtu: usize) -> Option<Output> {
        (self.told_mtu != mtu).then(|| {
            self.told_mtu = mtu;
            let addresses = self.node.ips().collect();
            Output::PeerMtu { addresses, mtu }
        })
    }

    /// Its key may be used.
    pub(crate) fn usable(&self) -> bool {
        !self.node.expired
    }

    /// The earliest deadline of tunnel, path and its size.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let tunnel = self.tunnel.as_ref().and_then(|tunnel| tunnel.poll_timeout());
        let relayed = self.relayed.as_ref().and_then(|client| client.poll_timeout());
        [tunnel, self.path.poll_timeout(), relayed, self.mtu.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer")
            .field("name", &self.node.name)
            .field("key", &self.node.key)
            .finish_non_exhaustive()
    }
}
