//! What a node says of itself when asked: [`MeshStatus`] and its parts, serialisable for machines.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::metrics::Counters;

/// The way packets to a peer take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerPath {
    /// Straight to this underlay address.
    Direct(SocketAddr),
    /// Over another peer's UDP relay.
    PeerRelayed {
        /// That peer's full name, where it is known.
        by: Option<String>,
        /// Where its relay listens.
        addr: SocketAddr,
        /// Number of the pair there.
        vni: u32,
    },
    /// Over the relay of this region.
    Relayed(u16),
    /// There is none: no relay is known and no address answered.
    Unknown,
    /// The node itself: nothing leaves it.
    Local,
}

impl std::fmt::Display for PeerPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Direct(addr) => write!(f, "direct {addr}"),
            Self::PeerRelayed {
                by: Some(name), addr, ..
            } => write!(f, "relayed by peer {name} at {addr}"),
            Self::PeerRelayed { by: None, addr, .. } => write!(f, "relayed by a peer at {addr}"),
            Self::Relayed(region) => write!(f, "relayed by region {region}"),
            Self::Unknown => f.write_str("no path yet"),
            Self::Local => f.write_str("this node itself"),
        }
    }
}

/// How things stand with the coordinator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlStatus {
    /// `connecting`, `connected`, `disconnected`, `login-required`, `stopped`, `logged-out`.
    pub state: String,
    /// The last problem, in words, with what to do.
    pub error: Option<String>,
    /// Where a person logs the node in.
    pub login_url: Option<String>,
}

/// The node as a whole.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MeshStatus {
    /// Full name on the mesh.
    pub name: Option<String>,
    /// Mesh addresses.
    pub addresses: Vec<IpAddr>,
    /// Public key.
    pub node_key: String,
    /// `userspace`, or the TUN device's name.
    pub device: String,
    /// Coordinator.
    pub control: ControlStatus,
    /// Home region and whether its relay is connected.
    pub home_region: Option<u16>,
    /// True while the home relay is connected.
    pub relay_connected: bool,
    /// Underlay addresses that peers are told.
    pub endpoints: Vec<SocketAddr>,
    /// UDP port.
    pub port: u16,
    /// URL of the coordinator.
    #[serde(default)]
    pub coordinator: String,
    /// What is wrong with the home relay, in words.
    #[serde(default)]
    pub relay_trouble: Option<String>,
    /// UDP gets out and back; unknown until measured.
    #[serde(default)]
    pub udp: Option<bool>,
    /// The NAT gives each destination another port.
    #[serde(default)]
    pub mapping_varies: Option<bool>,
    /// The address that the router maps to us on request.
    #[serde(default)]
    pub port_mapped: Option<SocketAddr>,
    /// When this node's key ends, if ever; seconds since 1970.
    #[serde(default)]
    pub key_expiry: Option<u64>,
    /// What the coordinator wants shown.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The relay server of this node, when it runs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_relay: Option<PeerRelayStatus>,
    /// Peers by name.
    pub peers: Vec<PeerStatus>,
    /// Packet counters.
    pub counters: Counters,
}

/// A relay server for pairs of peers that cannot reach each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRelayStatus {
    /// Its UDP port.
    pub port: u16,
    /// Where peers are told to find it.
    pub addresses: Vec<SocketAddr>,
    /// Pairs that have asked.
    pub endpoints: usize,
    /// Pairs that it carries.
    pub bound: usize,
    /// Packets carried since it started.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets that belonged to no pair it carries.
    pub dropped: u64,
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Full name.
    pub name: String,
    /// Host name as it told.
    pub hostname: String,
    /// Mesh addresses.
    pub addresses: Vec<IpAddr>,
    /// Public key.
    pub node_key: String,
    /// Tags.
    pub tags: Vec<String>,
    /// Connected to the coordinator, as far as that says.
    pub online: Option<bool>,
    /// Its key has ended: nothing is sent to it.
    pub expired: bool,
    /// It speaks WireGuard and nothing else: no probes, no relay.
    #[serde(default)]
    pub wireguard_only: bool,
    /// Path in use.
    pub path: PeerPath,
    /// Milliseconds since this path is in use.
    pub path_for_ms: Option<u64>,
    /// The direct path owes an answer; the relay is used beside it.
    pub suspect: bool,
    /// Round trip on the direct path in milliseconds.
    pub rtt_ms: Option<f64>,
    /// A WireGuard session stands.
    pub session: bool,
    /// Seconds since its handshake.
    pub session_age_secs: Option<u64>,
    /// Bytes of overlay packets sent and received.
    pub tx_bytes: u64,
    /// See `tx_bytes`.
    pub rx_bytes: u64,
    /// Milliseconds since the last authenticated packet of it.
    pub last_received_ms: Option<u64>,
    /// When it was last connected to the coordinator, while it is not; seconds since 1970.
    #[serde(default)]
    pub last_seen: Option<u64>,
    /// Its home region.
    #[serde(default)]
    pub home_region: Option<u16>,
    /// Its NAT gives each destination another port, as it told itself.
    #[serde(default)]
    pub mapping_varies: Option<bool>,
    /// Largest packet that its path has proven to carry.
    #[serde(default)]
    pub mtu: usize,
    /// Where it may be reached.
    #[serde(default)]
    pub candidates: Vec<PeerCandidate>,
}

/// Who stands behind a mesh address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoIs {
    /// Coordinator's number.
    pub node_id: i64,
    /// Public key: the identity.
    pub node_key: String,
    /// Full name.
    pub name: String,
    /// First label.
    pub short_name: String,
    /// Owner's login name, where told.
    pub user: Option<String>,
    /// Tags.
    pub tags: Vec<String>,
    /// All its addresses.
    pub addresses: Vec<IpAddr>,
}

/// An answered ping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PingReply {
    /// Peer's full name.
    pub name: String,
    /// Address pinged.
    pub address: IpAddr,
    /// Round trip through the tunnel in milliseconds.
    pub rtt_ms: f64,
    /// Path on which the answer came.
    pub path: PeerPath,
}

/// What the network around this node allows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NetReport {
    /// A STUN server answered: UDP gets out and back.
    pub udp: bool,
    /// The same over IPv4.
    #[serde(default)]
    pub ipv4: bool,
    /// The same over IPv6.
    #[serde(default)]
    pub ipv6: bool,
    /// Our addresses as the outside sees them.
    pub public_addresses: Vec<SocketAddr>,
    /// The NAT gives each destination another port ("hard NAT"): direct paths need the other side's help.
    pub mapping_varies: Option<bool>,
    /// The address that the router maps to us on request.
    #[serde(default)]
    pub port_mapped: Option<SocketAddr>,
    /// What stands between us and the relays, in words: a login page, an intercepting proxy.
    #[serde(default)]
    pub obstacle: Option<String>,
    /// Home region.
    pub home_region: Option<u16>,
    /// True while its relay is connected.
    pub relay_connected: bool,
    /// What is wrong with it, in words.
    #[serde(default)]
    pub relay_trouble: Option<String>,
    /// Every region of the relay map.
    pub regions: Vec<RegionLatency>,
}

/// One region and how far it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegionLatency {
    /// Number.
    pub region: u16,
    /// Name.
    pub name: String,
    /// Round trip to its STUN server in milliseconds, or to its relay over TLS; absent when none answered.
    pub latency_ms: Option<f64>,
    /// The round trip was measured over TLS, since no STUN server answers.
    #[serde(default)]
    pub over_tls: bool,
}

/// An underlay address at which a peer may be reached, and what it answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerCandidate {
    /// The address.
    pub address: SocketAddr,
    /// Who named it: `coordinator`, `peer`, or `heard` when it was only seen.
    pub origin: String,
    /// Milliseconds since it was last pinged.
    pub pinged_ms: Option<u64>,
    /// Milliseconds since it last answered.
    pub answered_ms: Option<u64>,
    /// Round trip in milliseconds.
    pub rtt_ms: Option<f64>,
}
