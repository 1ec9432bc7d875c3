//! The words of a policy: who (`*`, users, groups, tags, hosts, addresses), which ports, which protocol.

use std::net::IpAddr;

use ipnet::IpNet;
use sandd_control_client::wire::PortRange;

use super::PolicyError;

/// Whom a word names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Selector {
    /// The whole mesh.
    Everyone,
    /// A user's untagged nodes.
    User(String),
    /// A group's users' nodes, by the group's name.
    Group(String),
    /// Nodes with a tag.
    Tag(String),
    /// All untagged nodes.
    Members,
    /// All tagged nodes.
    Tagged,
    /// As destination: the source's own nodes.
    SameUser,
    /// Addresses.
    Network(IpNet),
    /// An address with a name, resolved when the document is read.
    Host(String),
}

impl Selector {
    pub(super) fn parse(word: &str) -> Result<Self, PolicyError> {
        let unknown = || PolicyError::Selector(word.escape_debug().to_string());
        Ok(match word {
            "*" => Self::Everyone,
            "autogroup:member" | "autogroup:members" => Self::Members,
            "autogroup:tagged" => Self::Tagged,
            "autogroup:self" => Self::SameUser,
            _ if word.is_empty() || word.starts_with("autogroup:") => return Err(unknown()),
            _ if word.starts_with("group:") => Self::Group(word.to_owned()),
            _ if word.starts_with("tag:") => Self::Tag(word.to_owned()),
            _ => {
                if let Some(network) = network(word) {
                    Self::Network(network)
                } else if word.contains('@') {
                    Self::User(user(word).to_owned())
                } else if word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
                    Self::Host(word.to_owned())
                } else {
                    return Err(unknown());
                }
            }
        })
    }
}

/// `alice@` is `alice`, as with Headscale; a name that holds an `@` keeps it.
pub(super) fn user(word: &str) -> &str {
    word.strip_suffix('@').unwrap_or(word)
}

/// An address or a network; host bits are cut off.
pub(super) fn network(word: &str) -> Option<IpNet> {
    let word = word.strip_prefix('[').and_then(|w| w.strip_suffix(']')).unwrap_or(word);
    word.parse::<IpAddr>()
        .map(IpNet::from)
        .or_else(|_| word.parse::<IpNet>().map(|network| network.trunc()))
        .ok()
}

/// `host:22`, `tag:web:80,443`, `*:*`, `[fd7a::1]:1000-2000`: the last colon separates.
pub(super) fn destination(word: &str) -> Result<(Selector, Vec<PortRange>), PolicyError> {
    let bad = || PolicyError::Destination(word.escape_debug().to_string());
    let (who, which) = word.rsplit_once(':').ok_or_else(bad)?;
    let ports: Option<Vec<PortRange>> = which.split(',').map(|part| port_range(part.trim())).collect();
    Ok((Selector::parse(who).map_err(|_| bad())?, ports.ok_or_else(bad)?))
}

fn port_range(part: &str) -> Option<PortRange> {
    if part == "*" {
        return Some(PortRange {
            first: 0,
            last: u16::MAX,
        });
    }
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?;
    let (first, last) = match part.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(part)?, number(part)?),
    };
    (first <= last).then_some(PortRange { first, last })
}

/// A protocol's number; empty = the four that a rule without numbers means.
pub(super) fn protocol(word: &str) -> Result<Vec<i64>, PolicyError> {
    let number = match word {
        "" => return Ok(Vec::new()),
        "icmp" => 1,
        "igmp" => 2,
        "ipv4" | "ip-in-ip" => 4,
        "tcp" => 6,
        "egp" => 8,
        "igp" => 9,
        "udp" => 17,
        "gre" => 47,
        "esp" => 50,
        "ah" => 51,
        "ipv6-icmp" | "icmpv6" => 58,
        "sctp" => 132,
        _ => {
            let parsed = word.parse::<u8>().ok();
            i64::from(parsed.ok_or_else(|| PolicyError::Protocol(word.escape_debug().to_string()))?)
        }
    };
    Ok(vec![number])
}

/// Ports mean something for these alone.
pub(super) fn has_ports(protocol: &[i64]) -> bool {
    protocol.is_empty() || protocol.iter().all(|number| [6, 17, 132].contains(number))
}
