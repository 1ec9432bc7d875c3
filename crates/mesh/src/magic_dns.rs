//! [`NameTable`]: names of the mesh to addresses and back, from the network map alone.
//!
//! A name is looked up in lower case, with or without its trailing dot, full (`worker-1.sandd.local`) or short
//! (`worker-1`). The system's resolver is never asked for a mesh name.

use std::collections::HashMap;
use std::net::IpAddr;

use sandd_control_client::netmap::{NetworkMap, Node, NodeId};

/// See the module's text. Made anew for each map that changes a name.
#[derive(Debug, Default)]
pub struct NameTable {
    full: HashMap<String, Vec<IpAddr>>,
    short: HashMap<String, Vec<IpAddr>>,
    nodes: HashMap<IpAddr, NodeId>,
}

impl NameTable {
    /// Reads the names of a map: this node, its peers and the extra records.
    #[must_use]
    pub fn new(map: &NetworkMap) -> Self {
        let mut table = Self::default();
        let domain = map
            .self_node
            .as_ref()
            .and_then(|node| node.name.split_once('.'))
            .map(|(_, rest)| rest.to_owned());
        for node in map.peers.values().chain(map.self_node.as_ref()) {
            table.add(node, domain.as_deref());
        }
        for record in &map.dns.extra_records {
            table.full.entry(normal(&record.name)).or_default().push(record.value);
        }
        table
    }

    /// Addresses of a name, IPv4 first.
    #[must_use]
    pub fn addresses(&self, name: &str) -> Option<&[IpAddr]> {
        let name = normal(name);
        let found = self.full.get(&name).or_else(|| self.short.get(&name))?;
        Some(found)
    }

    /// The node that has this address.
    #[must_use]
    pub fn node_of(&self, ip: IpAddr) -> Option<NodeId> {
        self.nodes.get(&ip).copied()
    }

    fn add(&mut self, node: &Node, domain: Option<&str>) {
        let mut ips: Vec<_> = node.ips().collect();
        ips.sort();
        for ip in &ips {
            self.nodes.insert(*ip, node.id);
        }
        let full = normal(&node.name);
        // Short names belong to this node's own domain; a shared node of another tailnet has only its full name.
        let own_domain = full.split_once('.').map(|(_, rest)| rest) == domain;
        if own_domain {
            self.short.insert(node.short_name().to_lowercase(), ips.clone());
        }
        self.full.insert(full, ips);
    }
}

fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_lowercase()
}
