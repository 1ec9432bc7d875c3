//! [`Control`]: the coordinator model. It hears what nodes say of themselves and, some time later, tells all others, several
//! changes at once, as Headscale's batches do.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use sandd_control_client::keys::{DiscoPublicKey, NodePublicKey};
use sandd_control_client::netmap::{
    DerpMap, DerpNode, DerpRegion, FilterDst, FilterRule, FilterSrc, IpRange, NetmapDelta, NetmapUpdate, NetworkMap,
    Node, NodeId, PeerMap, RegionId, UserId,
};

use super::rng::Rng;
use super::topology::STUN;

/// What is told at one time: everybody, as known then.
pub(super) type Members = Arc<Vec<Arc<Node>>>;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Control {
    members: Vec<Node>,
    pub(super) up: bool,
    /// From hearing to telling.
    pub(super) delay: Duration,
    /// A batch is being gathered.
    pub(super) gathering: bool,
    /// Changed endpoints are told; Headscale 0.29 keeps some to itself.
    tells_endpoints: bool,
}

/// The mesh address of a host.
pub(super) fn mesh_ip(host: usize) -> Ipv4Addr {
    Ipv4Addr::new(100, 64, 0, u8::try_from(host + 1).unwrap_or(u8::MAX))
}

/// What a node tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) disco: DiscoPublicKey,
    pub(super) endpoints: Vec<SocketAddr>,
    pub(super) home: Option<RegionId>,
}

impl Control {
    pub(super) fn new(rng: &mut Rng) -> Self {
        Self {
            members: Vec::new(),
            up: true,
            delay: if rng.per_mille(500) {
                Duration::from_millis(800)
            } else {
                rng.millis(10, 1_500)
            },
            gathering: false,
            tells_endpoints: rng.per_mille(600),
        }
    }

    pub(super) fn admit(&mut self, key: NodePublicKey) {
        let host = self.members.len();
        let address = IpNet::from(IpAddr::V4(mesh_ip(host)));
        self.members.push(Node {
            id: NodeId(i64::try_from(host + 1).unwrap_or(i64::MAX)),
            stable_id: host.to_string(),
            name: format!("host-{host}.sandd.local"),
            user: UserId(1),
            key,
            key_expiry: None,
            expired: false,
            machine: None,
            disco_key: None,
            addresses: vec![address],
            allowed_ips: vec![address],
            endpoints: Vec::new(),
            home_derp: None,
            os: "linux".to_owned(),
            hostname: format!("host-{host}"),
            tags: Vec::new(),
            online: Some(true),
            last_seen: None,
            wireguard_only: false,
            jailed: false,
            cap_map: BTreeMap::new(),
            machine_authorized: true,
        });
    }

    /// A node says something of itself. True when others are to hear of it.
    pub(super) fn hear(&mut self, host: usize, statement: &Statement) -> bool {
        let tells_endpoints = self.tells_endpoints;
        let Some(member) = self.members.get_mut(host) else {
            return false;
        };
        let rest = member.disco_key != Some(statement.disco) || member.home_derp != statement.home;
        let moved = member.endpoints != statement.endpoints;
        member.disco_key = Some(statement.disco);
        member.home_derp = statement.home;
        member.endpoints.clone_from(&statement.endpoints);
        rest || (moved && tells_endpoints)
    }

    /// Everybody as known now; who has never said anything is not there yet.
    pub(super) fn members(&self) -> Members {
        Arc::new(self.members.iter().cloned().map(Arc::new).collect())
    }

    /// The member of this host, as it is told to itself.
    pub(super) fn myself(members: &Members, host: usize) -> Option<Arc<Node>> {
        members.get(host).cloned()
    }
}

/// The map of one host, and what in it is new to somebody who has `before`.
pub(super) fn update_for(host: usize, members: &Members, before: &NetworkMap, relays: &Arc<DerpMap>) -> NetmapUpdate {
    let others = members
        .iter()
        .enumerate()
        .filter(|(at, node)| *at != host && node.disco_key.is_some());
    let peers: PeerMap = others.map(|(_, node)| Arc::clone(node)).collect();
    let differs = |(id, node): (NodeId, &Arc<Node>)| (before.peers.get(&id) != Some(node)).then_some(id);
    let first = before.self_node.is_none();
    let delta = NetmapDelta {
        full: first,
        upserted: peers.iter().filter_map(differs).collect(),
        removed: before.peers.keys().filter(|id| !peers.contains_key(id)).collect(),
        self_node: first,
        filter: first,
        derp_map: first,
        ..NetmapDelta::default()
    };
    let map = NetworkMap {
        self_node: Control::myself(members, host),
        peers,
        derp_map: Arc::clone(relays),
        filter: Arc::new(vec![allow_all()]),
        ..NetworkMap::default()
    };
    NetmapUpdate {
        map: Arc::new(map),
        delta,
        cached: false,
    }
}

/// Two regions with one server each.
pub(super) fn relays() -> Arc<DerpMap> {
    let region = |number: u16, ip: [u8; 4], port: u16| DerpRegion {
        id: RegionId(number),
        code: format!("r{number}"),
        name: format!("Region {number}"),
        no_measure_no_home: false,
        avoid: false,
        nodes: vec![DerpNode {
            name: format!("{number}a"),
            host_name: format!("r{number}.example"),
            cert_name: String::new(),
            ipv4: Ipv4Addr::from(ip).to_string(),
            ipv6: "none".to_owned(),
            derp_port: 443,
            stun_port: Some(port),
            stun_only: false,
            insecure_for_tests: false,
            stun_test_ip: String::new(),
        }],
    };
    let regions = (1..).zip(STUN).map(|(number, (ip, port))| {
        let region = region(number, ip, port);
        (region.id, Arc::new(region))
    });
    Arc::new(DerpMap {
        regions: regions.collect(),
        home_scores: BTreeMap::new(),
    })
}

fn allow_all() -> FilterRule {
    let v4 = IpRange {
        first: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        last: IpAddr::V4(Ipv4Addr::BROADCAST),
    };
    let v6 = IpRange {
        first: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        last: IpAddr::V6(Ipv6Addr::from(u128::MAX)),
    };
    FilterRule {
        src: vec![FilterSrc::Range(v4), FilterSrc::Range(v6)],
        dst: [v4, v6]
            .into_iter()
            .map(|range| FilterDst {
                range,
                first_port: 0,
                last_port: u16::MAX,
            })
            .collect(),
        protocols: vec![17],
        grants: Vec::new(),
    }
}
