//! [`PacketFilter`]: the verdict on one packet.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use sandd_control_client::netmap::{FilterRule, FilterSrc};

use super::flows::{Flow, Flows};
use crate::packet::ip::{ICMP, ICMPV6, IpPacket, TCP, Transport, parse_quoted};

/// Flows remembered of each kind.
const MAX_TCP: usize = 4_096;
const MAX_UDP: usize = 4_096;
const MAX_ECHO: usize = 1_024;
const TCP_LIFETIME: Duration = Duration::from_secs(2 * 3_600);
const UDP_LIFETIME: Duration = Duration::from_secs(300);
const ECHO_LIFETIME: Duration = Duration::from_secs(60);

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may pass.
    Accept,
    /// It goes no further.
    Drop,
}

/// What the filter must know of the peer whose tunnel a packet came through.
#[derive(Debug, Clone, Copy)]
pub struct PeerContext<'a> {
    /// May answer, never begin.
    pub jailed: bool,
    /// Capabilities, for rules that name one as their source.
    pub capabilities: &'a BTreeMap<String, Vec<serde_json::Value>>,
}

/// See the module's text.
#[derive(Debug)]
pub struct PacketFilter {
    rules: Arc<Vec<FilterRule>>,
    local: Vec<IpNet>,
    tcp: Flows,
    udp: Flows,
    echo: Flows,
}

impl Default for PacketFilter {
    fn default() -> Self {
        Self::new()
    }
}

impl PacketFilter {
    /// A filter without rules: nothing begins, answers pass.
    #[must_use]
    pub fn new() -> Self {
        Self {
            rules: Arc::default(),
            local: Vec::new(),
            tcp: Flows::new(MAX_TCP, TCP_LIFETIME),
            udp: Flows::new(MAX_UDP, UDP_LIFETIME),
            echo: Flows::new(MAX_ECHO, ECHO_LIFETIME),
        }
    }

    /// New rules. Flows under way go on.
    pub fn set_rules(&mut self, rules: Arc<Vec<FilterRule>>) {
        self.rules = rules;
    }

    /// The prefixes that are ours to receive for.
    pub fn set_local(&mut self, local: &[IpNet]) {
        self.local = local.to_vec();
    }

    /// Judges and notes a packet that leaves.
    pub fn outbound(&mut self, packet: &IpPacket<'_>, now: Instant) -> Verdict {
        if !deliverable(packet.dst()) {
            return Verdict::Drop;
        }
        let (local, remote, protocol) = (packet.src(), packet.dst(), packet.protocol());
        let flow = |src, dst| Flow {
            protocol,
            local: (local, src),
            remote: (remote, dst),
        };
        match packet.transport() {
            Transport::Tcp { src, dst, .. } => self.tcp.note(flow(src, dst), now),
            Transport::Ports { src, dst } => self.udp.note(flow(src, dst), now),
            Transport::EchoRequest { id } => self.echo.note(flow(id, 0), now),
            Transport::EchoReply { .. } | Transport::IcmpError { .. } | Transport::Other | Transport::LaterFragment => {
            }
        }
        Verdict::Accept
    }

    /// Judges a packet that a tunnel opened; its source has been found to be the peer's.
    pub fn inbound(&mut self, packet: &IpPacket<'_>, peer: &PeerContext<'_>, now: Instant) -> Verdict {
        let (remote, local, protocol) = (packet.src(), packet.dst(), packet.protocol());
        if !deliverable(local) || !self.local.iter().any(|prefix| prefix.contains(&local)) {
            return Verdict::Drop;
        }
        let flow = |remote_port, local_port| Flow {
            protocol,
            local: (local, local_port),
            remote: (remote, remote_port),
        };
        let accepted = match packet.transport() {
            Transport::LaterFragment => true,
            Transport::Tcp { dst, opens: true, .. } => self.rule_admits(packet, peer, Some(dst)),
            Transport::Tcp { src, dst, opens: false } => {
                self.tcp.knows(&flow(src, dst), now) || self.rule_admits(packet, peer, Some(dst))
            }
            Transport::Ports { src, dst } => {
                self.udp.knows(&flow(src, dst), now) || self.rule_admits(packet, peer, Some(dst))
            }
            Transport::EchoRequest { .. } => self.any_rule_pairs(packet, peer),
            Transport::EchoReply { id, .. } => {
                self.echo.knows(&flow(0, id), now) || self.rule_admits(packet, peer, None)
            }
            Transport::IcmpError { quoted } => self.quotes_our_flow(quoted, local, now),
            Transport::Other => self.rule_admits(packet, peer, None),
        };
        if accepted { Verdict::Accept } else { Verdict::Drop }
    }

    /// A rule with this protocol, source, destination and port; without a port only a rule for all ports counts.
    fn rule_admits(&self, packet: &IpPacket<'_>, peer: &PeerContext<'_>, port: Option<u16>) -> bool {
        self.rules_for(peer).iter().any(|rule| {
            rule.protocols.contains(&packet.protocol())
                && rule.dst.iter().any(|dst| {
                    let ports = match port {
                        Some(port) => dst.first_port <= port && port <= dst.last_port,
                        None => is_icmp(packet.protocol()) || (dst.first_port == 0 && dst.last_port == u16::MAX),
                    };
                    ports && dst.range.contains(packet.dst())
                })
                && source_matches(rule, packet.src(), peer)
        })
    }

    /// Any rule between the two addresses, whatever its protocol and ports: enough for an echo request.
    fn any_rule_pairs(&self, packet: &IpPacket<'_>, peer: &PeerContext<'_>) -> bool {
        self.rules_for(peer).iter().any(|rule| {
            rule.dst.iter().any(|dst| dst.range.contains(packet.dst())) && source_matches(rule, packet.src(), peer)
        })
    }

    fn rules_for(&self, peer: &PeerContext<'_>) -> &[FilterRule] {
        if peer.jailed { &[] } else { &self.rules }
    }

    fn quotes_our_flow(&self, quoted: &[u8], local: IpAddr, now: Instant) -> bool {
        let Some((src, dst, protocol, src_port, dst_port)) = parse_quoted(quoted) else {
            return false;
        };
        let flow = Flow {
            protocol,
            local: (src, src_port),
            remote: (dst, dst_port),
        };
        let known = match protocol {
            TCP => self.tcp.knows(&flow, now),
            ICMP | ICMPV6 => self.echo.knows(&flow, now),
            _ => self.udp.knows(&flow, now),
        };
        src == local && known
    }
}

fn source_matches(rule: &FilterRule, ip: IpAddr, peer: &PeerContext<'_>) -> bool {
    rule.src.iter().any(|src| match src {
        FilterSrc::Range(range) => range.contains(ip),
        FilterSrc::Capability(name) => peer.capabilities.contains_key(name),
    })
}

fn is_icmp(protocol: u8) -> bool {
    protocol == ICMP || protocol == ICMPV6
}

fn deliverable(dst: IpAddr) -> bool {
    match dst {
        IpAddr::V4(ip) => !ip.is_multicast() && !ip.is_broadcast() && !ip.is_link_local() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_multicast() && !ip.is_unicast_link_local() && !ip.is_unspecified(),
    }
}
