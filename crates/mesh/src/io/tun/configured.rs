//! What was set on the interface and the routing table, so that only differences are.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Shared, netlink};

/// What every path of IPv6 carries, and every peer takes (RFC 8200, section 5).
const SMALLEST: u32 = 1280;
/// Peers whose own packet size is remembered.
const MAX_PEERS: usize = 65_536;

/// The packet size that a route carries, and the largest one of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PathMtu {
    pub(super) mtu: u32,
    pub(super) ceiling: u32,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Configured {
    addresses: Vec<IpAddr>,
    /// The routes that are set, with their packet sizes.
    routes: BTreeMap<IpNet, Option<PathMtu>>,
    /// The routes that are wanted.
    prefixes: Vec<IpNet>,
    /// Packet sizes beyond the usual one.
    peers: BTreeMap<IpAddr, u32>,
    ceiling: u32,
}

impl Configured {
    pub(super) fn new(ceiling: u32) -> Self {
        Self {
            addresses: Vec::new(),
            routes: BTreeMap::new(),
            prefixes: Vec::new(),
            peers: BTreeMap::new(),
            ceiling,
        }
    }

    pub(super) fn set_addresses(&mut self, shared: &Shared, wanted: &[IpAddr]) -> io::Result<()> {
        let device = shared.queue.device();
        // New ones first: with the last address of a family the system would drop the routes, too.
        for address in wanted {
            if self.addresses.contains(address) {
                continue;
            }
            let added = match address {
                IpAddr::V4(address) => device.add_address_v4(*address, 32_u8),
                IpAddr::V6(address) => device.add_address_v6(*address, 128_u8),
            };
            match (address, added) {
                (_, Ok(())) => self.addresses.push(*address),
                (IpAddr::V4(_), Err(error)) => return Err(about("set address", address, &error)),
                (IpAddr::V6(_), Err(error)) => {
                    tracing::warn!(%address, %error, "no IPv6 on the TUN device: the system does not take it");
                }
            }
        }
        for gone in self.addresses.extract_if(.., |old| !wanted.contains(old)) {
            // The system may have dropped it by itself.
            let _ = device.remove_address(gone);
        }
        let Self { addresses, routes, .. } = self;
        routes.retain(|route, _| has_source(addresses, route));
        // Those that had no source before, and those that failed.
        let prefixes = self.prefixes.clone();
        self.set_routes(shared, prefixes)
    }

    pub(super) fn set_routes(&mut self, shared: &Shared, prefixes: Vec<IpNet>) -> io::Result<()> {
        self.peers
            .retain(|address, _| prefixes.iter().any(|prefix| prefix.contains(address)));
        self.prefixes = prefixes;
        let usual = self.prefixes.iter().map(|prefix| (*prefix, self.usual()));
        let own = self
            .peers
            .iter()
            .map(|(address, mtu)| (IpNet::from(*address), self.carries(*mtu)));
        let wanted: BTreeMap<IpNet, Option<PathMtu>> = usual.chain(own).collect();
        self.routes.retain(|route, _| {
            let stays = wanted.contains_key(route);
            if !stays {
                // A route goes with its interface or address, so it may be gone already.
                let _ = netlink::remove(shared.index, *route);
            }
            stays
        });
        let mut result = Ok(());
        for (route, mtu) in wanted {
            result = result.and(self.route(shared, route, mtu));
        }
        result
    }

    pub(super) fn set_peer_mtu(&mut self, shared: &Shared, address: IpAddr, mtu: u32) -> io::Result<()> {
        let mtu = mtu.min(self.ceiling);
        let route = IpNet::from(address);
        if mtu > SMALLEST {
            if !self.prefixes.iter().any(|prefix| prefix.contains(&address)) || self.peers.len() >= MAX_PEERS {
                return Ok(());
            }
            self.peers.insert(address, mtu);
            return self.route(shared, route, self.carries(mtu));
        }
        self.peers.remove(&address);
        if self.prefixes.contains(&route) {
            self.route(shared, route, self.usual())
        } else if self.routes.remove(&route).is_some() {
            netlink::remove(shared.index, route).map_err(|error| about("remove route", &route, &error))
        } else {
            Ok(())
        }
    }

    fn route(&mut self, shared: &Shared, route: IpNet, mtu: Option<PathMtu>) -> io::Result<()> {
        if has_source(&self.addresses, &route) && self.routes.get(&route) != Some(&mtu) {
            netlink::add(shared.index, route, mtu).map_err(|error| about("set route", &route, &error))?;
            self.routes.insert(route, mtu);
        }
        Ok(())
    }

    /// Nothing is said where the interface itself takes no more.
    fn usual(&self) -> Option<PathMtu> {
        (self.ceiling > SMALLEST).then(|| self.path(SMALLEST))
    }

    fn carries(&self, mtu: u32) -> Option<PathMtu> {
        Some(self.path(mtu))
    }

    fn path(&self, mtu: u32) -> PathMtu {
        PathMtu {
            mtu,
            ceiling: self.ceiling,
        }
    }
}

fn has_source(addresses: &[IpAddr], route: &IpNet) -> bool {
    addresses
        .iter()
        .any(|address| address.is_ipv4() == route.addr().is_ipv4())
}

fn about(what: &str, which: &dyn std::fmt::Display, error: &io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("cannot {what} {which} on the TUN device: {error}"),
    )
}
