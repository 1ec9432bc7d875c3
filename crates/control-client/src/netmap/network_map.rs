//! [`NetworkMap`] and what it is made of: the self node, the peers, relays, filter rules, names.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::PeerMap;
use crate::keys::{DiscoPublicKey, MachinePublicKey, NodePublicKey};

/// The coordinator's number for a node; the key of every delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub i64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The coordinator's number for a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UserId(pub i64);

/// A DERP region's number; never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RegionId(pub u16);

impl fmt::Display for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The whole of what the coordinator told this node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NetworkMap {
    /// This node; absent only before the first message of a coordinator.
    pub self_node: Option<Arc<Node>>,
    /// Peers by id.
    pub peers: PeerMap,
    /// Relays.
    pub derp_map: Arc<DerpMap>,
    /// Inbound packet rules, all named sets in name order. Empty means: nothing that needs a rule is let in.
    pub filter: Arc<Vec<FilterRule>>,
    /// Names.
    pub dns: Arc<DnsConfig>,
    /// Tailnet name as the coordinator gives it (Headscale: the host of its server URL).
    pub domain: String,
    /// Users by id.
    pub users: Arc<BTreeMap<UserId, Arc<UserProfile>>>,
    /// Problems that the coordinator wants shown; empty when healthy.
    pub health: Vec<String>,
    /// The coordinator says that tailnet lock is on: we do not have it, so there are no peers (S-11).
    pub lock_enabled: bool,
}

/// One node, ourselves or a peer.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Coordinator's number.
    pub id: NodeId,
    /// Opaque stable id.
    pub stable_id: String,
    /// Full name in lower case without the trailing dot, such as `worker-1.sandd.local`.
    pub name: String,
    /// Owner.
    pub user: UserId,
    /// WireGuard key.
    pub key: NodePublicKey,
    /// When the key ends, if ever.
    pub key_expiry: Option<SystemTime>,
    /// True when the coordinator or the clock says that the key has ended.
    pub expired: bool,
    /// Machine key, where told.
    pub machine: Option<MachinePublicKey>,
    /// Disco key, absent until the node's first map request.
    pub disco_key: Option<DiscoPublicKey>,
    /// Its own addresses, normally one /32 and one /128; one family alone is legal.
    pub addresses: Vec<IpNet>,
    /// What may be sent to and received from it: its addresses and approved routes.
    pub allowed_ips: Vec<IpNet>,
    /// Underlay addresses it may be reached at.
    pub endpoints: Vec<SocketAddr>,
    /// Region it listens on; absent means that it cannot be reached by relay.
    pub home_derp: Option<RegionId>,
    /// Operating system name as the node told it.
    pub os: String,
    /// Host name as the node told it.
    pub hostname: String,
    /// Tags such as `tag:server`.
    pub tags: Vec<String>,
    /// Whether it is connected to the coordinator; unknown when absent.
    pub online: Option<bool>,
    /// When it was last connected, while it is not.
    pub last_seen: Option<SystemTime>,
    /// Plain WireGuard peer without disco and DERP.
    pub wireguard_only: bool,
    /// May not open flows to us.
    pub jailed: bool,
    /// Capabilities by name with raw JSON values.
    pub cap_map: BTreeMap<String, Vec<serde_json::Value>>,
    /// May this node be used at all (device approval).
    pub machine_authorized: bool,
}

impl Node {
    /// First label of the name, such as `worker-1`.
    #[must_use]
    pub fn short_name(&self) -> &str {
        self.name.split('.').next().unwrap_or(&self.name)
    }

    /// The node's own addresses without prefix lengths.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().map(IpNet::addr)
    }
}

/// All relays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DerpMap {
    /// Regions by id.
    pub regions: BTreeMap<RegionId, Arc<DerpRegion>>,
    /// Factors on a region's latency before comparing (only those above 0).
    pub home_scores: BTreeMap<RegionId, f64>,
}

/// Relays that know one another.
#[derive(Debug, Clone, PartialEq)]
pub struct DerpRegion {
    /// Number.
    pub id: RegionId,
    /// Short code such as `fra`.
    pub code: String,
    /// Name for people.
    pub name: String,
    /// Never measured, never a home.
    pub no_measure_no_home: bool,
    /// Do not probe unless it is the home.
    pub avoid: bool,
    /// Nodes in order of priority.
    pub nodes: Vec<DerpNode>,
}

/// One relay server. Fields keep the wire's meaning (`protocol` notes in docs/PROTOCOLS.md).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DerpNode {
    /// Name within the region.
    pub name: String,
    /// Host name: TLS SNI, Host header, DNS name.
    pub host_name: String,
    /// Expected certificate name, or `sha256-raw:<hex>`; empty = host name.
    pub cert_name: String,
    /// IPv4 literal, `none`, or empty for DNS.
    pub ipv4: String,
    /// IPv6 literal, `none`, or empty for DNS.
    pub ipv6: String,
    /// DERP port; 443 when the wire says 0.
    pub derp_port: u16,
    /// STUN port; absent when there is none.
    pub stun_port: Option<u16>,
    /// Only STUN, never dialled.
    pub stun_only: bool,
    /// No TLS verification (laboratories).
    pub insecure_for_tests: bool,
    /// Address for STUN in laboratories.
    pub stun_test_ip: String,
}

/// An inclusive range of addresses of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct IpRange {
    /// First address.
    pub first: IpAddr,
    /// Last address, same family, not below the first.
    pub last: IpAddr,
}

impl IpRange {
    /// True when the address lies in the range.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.first, self.last, ip) {
            (IpAddr::V4(first), IpAddr::V4(last), IpAddr::V4(ip)) => first <= ip && ip <= last,
            (IpAddr::V6(first), IpAddr::V6(last), IpAddr::V6(ip)) => first <= ip && ip <= last,
            _ => false,
        }
    }
}

/// Who a rule lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilterSrc {
    /// Addresses in this range.
    Range(IpRange),
    /// Peers that hold this capability (`cap:NAME`).
    Capability(String),
}

/// Where a rule lets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilterDst {
    /// Destination addresses.
    pub range: IpRange,
    /// First port.
    pub first_port: u16,
    /// Last port, inclusive.
    pub last_port: u16,
}

/// One inbound rule. `*` has been expanded to both families.
#[derive(Debug, Clone, PartialEq)]
pub struct FilterRule {
    /// Sources.
    pub src: Vec<FilterSrc>,
    /// Destinations; empty for a rule that only grants capabilities.
    pub dst: Vec<FilterDst>,
    /// IP protocol numbers; the default set (6, 17, 1, 58) is already filled in.
    pub protocols: Vec<u8>,
    /// Application capabilities; they open no ports.
    pub grants: Vec<CapGrant>,
}

/// Application capabilities granted to the sources of a rule.
#[derive(Debug, Clone, PartialEq)]
pub struct CapGrant {
    /// Destinations.
    pub dsts: Vec<IpNet>,
    /// Capabilities by name.
    pub caps: BTreeMap<String, Vec<serde_json::Value>>,
}

/// Names of the tailnet.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DnsConfig {
    /// Peer names are served (MagicDNS is on).
    pub magic_dns: bool,
    /// Search domains, the MagicDNS domain first.
    pub domains: Vec<String>,
    /// Further records.
    pub extra_records: Vec<DnsRecord>,
    /// The message as it came, for a resolver that needs all of it.
    pub raw: serde_json::Value,
}

/// One extra record with an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsRecord {
    /// Full name in lower case without trailing dot.
    pub name: String,
    /// Address.
    pub value: IpAddr,
}

/// A user as peers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserProfile {
    /// Number.
    pub id: UserId,
    /// Login name.
    pub login_name: String,
    /// Name for people.
    pub display_name: String,
}
