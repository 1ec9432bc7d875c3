//! [`Compiled`]: a policy applied to the members of the moment.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use sandd_control_client::wire::{FilterRule, NetPortRange, PortRange};

use super::Policy;
use super::document::Rule;
use super::selector::Selector;
use crate::membership::{NodeId, RANGE_V4, RANGE_V6};

/// A member, as far as a policy cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) id: NodeId,
    /// The owner's name; of no meaning for a tagged node.
    pub(crate) user: String,
    pub(crate) tags: Vec<String>,
    pub(crate) addresses: Vec<IpAddr>,
}

/// A policy applied to members: packet rules and sight.
#[derive(Debug, Default)]
pub(crate) struct Compiled {
    members: BTreeMap<NodeId, Subject>,
    /// None = everybody with everybody.
    rules: Option<Vec<CompiledRule>>,
}

#[derive(Debug)]
struct CompiledRule {
    sources: Side,
    destinations: Vec<Destination>,
    protocols: Vec<i64>,
}

#[derive(Debug)]
struct Destination {
    side: Side,
    /// Only nodes of the source's own user.
    same_user: bool,
    ports: Vec<PortRange>,
}

/// One side of a rule: members, and addresses that may belong to nobody yet.
#[derive(Debug, Default)]
struct Side {
    everyone: bool,
    members: BTreeSet<NodeId>,
    networks: Vec<IpNet>,
}

impl Side {
    fn holds(&self, subject: &Subject) -> bool {
        self.everyone
            || self.members.contains(&subject.id)
            || subject.addresses.iter().any(|address| self.covers(*address))
    }

    fn covers(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }
}

impl Policy {
    /// Applies the policy to the members of the moment.
    pub(crate) fn compile(&self, members: impl IntoIterator<Item = Subject>) -> Compiled {
        let members: BTreeMap<NodeId, Subject> = members.into_iter().map(|subject| (subject.id, subject)).collect();
        let rules = self
            .rules
            .as_ref()
            .map(|rules| rules.iter().map(|rule| self.compile_rule(rule, &members)).collect());
        Compiled { members, rules }
    }

    fn compile_rule(&self, rule: &Rule, members: &BTreeMap<NodeId, Subject>) -> CompiledRule {
        let Rule {
            sources,
            destinations,
            protocols,
        } = rule;
        let destinations = destinations.iter().map(|(target, ports)| Destination {
            side: self.side(std::slice::from_ref(target), members),
            same_user: *target == Selector::SameUser,
            ports: ports.clone(),
        });
        CompiledRule {
            sources: self.side(sources, members),
            destinations: destinations.collect(),
            protocols: protocols.clone(),
        }
    }

    fn side(&self, selectors: &[Selector], members: &BTreeMap<NodeId, Subject>) -> Side {
        let mut side = Side::default();
        for selector in selectors {
            match selector {
                Selector::Everyone => side.everyone = true,
                Selector::Network(network) => side.networks.push(*network),
                Selector::Host(name) => side.networks.extend(self.hosts.get(name)),
                Selector::User(_)
                | Selector::Group(_)
                | Selector::Tag(_)
                | Selector::Members
                | Selector::Tagged
                | Selector::SameUser => {
                    let named = members.values().filter(|subject| self.names(selector, subject));
                    side.members.extend(named.map(|subject| subject.id));
                }
            }
        }
        side
    }

    /// Whether a selector that goes by owner or tag means this member.
    fn names(&self, selector: &Selector, subject: &Subject) -> bool {
        let untagged = subject.tags.is_empty();
        match selector {
            Selector::User(name) => untagged && *name == subject.user,
            Selector::Group(name) => {
                let users = self.groups.get(name);
                untagged && users.is_some_and(|users| users.contains(&subject.user))
            }
            Selector::Tag(name) => subject.tags.contains(name),
            Selector::Members | Selector::SameUser => untagged,
            Selector::Tagged => !untagged,
            Selector::Everyone | Selector::Network(_) | Selector::Host(_) => false,
        }
    }
}

impl Compiled {
    /// The packet rules of one node: those whose destination it is, with its own addresses.
    pub(crate) fn rules_for(&self, node: NodeId) -> Vec<FilterRule> {
        let Some(rules) = &self.rules else {
            return vec![FilterRule {
                src_ips: vec!["*".to_owned()],
                dst_ports: vec![NetPortRange {
                    ip: "*".to_owned(),
                    bits: None,
                    ports: PortRange {
                        first: 0,
                        last: u16::MAX,
                    },
                }],
                ..FilterRule::default()
            }];
        };
        let Some(subject) = self.members.get(&node) else {
            return Vec::new();
        };
        let mut compiled: Vec<FilterRule> = Vec::new();
        for rule in rules {
            for destination in rule.destinations.iter().filter(|target| target.side.holds(subject)) {
                let src_ips = self.sources(rule, destination, subject);
                if src_ips.is_empty() {
                    continue;
                }
                let dst_ports = destination_ports(destination, subject);
                let same = compiled
                    .iter_mut()
                    .find(|known| known.src_ips == src_ips && known.ip_proto == rule.protocols);
                match same {
                    Some(known) => {
                        let new = dst_ports.into_iter().filter(|entry| !known.dst_ports.contains(entry));
                        let new: Vec<NetPortRange> = new.collect();
                        known.dst_ports.extend(new);
                    }
                    None => compiled.push(FilterRule {
                        src_ips,
                        dst_ports,
                        ip_proto: rule.protocols.clone(),
                        ..FilterRule::default()
                    }),
                }
            }
        }
        compiled
    }

    fn sources(&self, rule: &CompiledRule, destination: &Destination, subject: &Subject) -> Vec<String> {
        if rule.sources.everyone && !destination.same_user {
            return vec![RANGE_V4.to_string(), RANGE_V6.to_string()];
        }
        let members = self.members.values().filter(|source| {
            (rule.sources.everyone || rule.sources.members.contains(&source.id))
                && (!destination.same_user || is_same_user(source, subject))
        });
        let addresses = members
            .flat_map(|source| &source.addresses)
            .map(|address| address.to_string());
        let networks = rule.sources.networks.iter().filter(|_| !destination.same_user);
        let mut texts: Vec<String> = addresses.chain(networks.map(network_text)).collect();
        texts.dedup();
        texts
    }

    /// Whether two nodes may see one another: if either may open something to the other.
    pub(crate) fn sees(&self, one: NodeId, other: NodeId) -> bool {
        if self.rules.is_none() {
            return true;
        }
        self.may_reach(one, other) || self.may_reach(other, one)
    }

    fn may_reach(&self, source: NodeId, destination: NodeId) -> bool {
        let (Some(rules), Some(source), Some(destination)) = (
            self.rules.as_ref(),
            self.members.get(&source),
            self.members.get(&destination),
        ) else {
            return false;
        };
        rules.iter().any(|rule| {
            rule.sources.holds(source)
                && rule.destinations.iter().any(|target| {
                    target.side.holds(destination) && (!target.same_user || is_same_user(source, destination))
                })
        })
    }
}

fn is_same_user(one: &Subject, other: &Subject) -> bool {
    one.tags.is_empty() && other.tags.is_empty() && one.user == other.user
}

fn network_text(network: &IpNet) -> String {
    if network.prefix_len() == network.max_prefix_len() {
        network.addr().to_string()
    } else {
        network.to_string()
    }
}

fn destination_ports(destination: &Destination, subject: &Subject) -> Vec<NetPortRange> {
    let side = &destination.side;
    let by_member = side.everyone || side.members.contains(&subject.id);
    let addresses = subject
        .addresses
        .iter()
        .filter(|address| by_member || side.covers(**address));
    addresses
        .flat_map(|address| {
            destination.ports.iter().map(move |ports| NetPortRange {
                ip: address.to_string(),
                bits: None,
                ports: *ports,
            })
        })
        .collect()
}
