//! Routes and limits of the interface on Linux: one rtnetlink request each, answered at once.

use std::io;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::PathMtu;
use crate::io::netlink::ask;

/// IP and TCP header without options.
const TCP_HEADERS: (u32, u32) = (40, 60);

/// Routes a prefix into the interface; one that is there already is replaced.
pub(super) fn add(interface: u32, prefix: IpNet, mtu: Option<PathMtu>) -> io::Result<()> {
    let mut message = message(interface, prefix);
    if let Some(PathMtu { mtu, ceiling }) = mtu {
        let headers = if prefix.addr().is_ipv4() {
            TCP_HEADERS.0
        } else {
            TCP_HEADERS.1
        };
        // The peer may send as much as our interface takes, whatever our way to him takes now: a connection that
        // begins on a small path is not held back once the path is proven larger.
        let metrics = vec![
            RouteMetric::Mtu(mtu),
            RouteMetric::Advmss(ceiling.saturating_sub(headers)),
        ];
        message.attributes.push(RouteAttribute::Metrics(metrics));
    }
    request(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// Takes the route out again.
pub(super) fn remove(interface: u32, prefix: IpNet) -> io::Result<()> {
    request(RouteNetlinkMessage::DelRoute(message(interface, prefix)), 0)
}

/// How many segments the kernel may put into one super-packet.
pub(super) fn set_max_segments(interface: u32, segments: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = interface;
    message.attributes.push(LinkAttribute::GsoMaxSegs(segments));
    request(RouteNetlinkMessage::SetLink(message), 0)
}

/// Deletes the interface, as an administrator may.
#[cfg(test)]
pub(super) fn remove_link(interface: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = interface;
    request(RouteNetlinkMessage::DelLink(message), 0)
}

fn message(interface: u32, prefix: IpNet) -> RouteMessage {
    let mut message = RouteMessage::default();
    let (family, scope) = match prefix {
        IpNet::V4(_) => (AddressFamily::Inet, RouteScope::Link),
        IpNet::V6(_) => (AddressFamily::Inet6, RouteScope::Universe),
    };
    message.header.address_family = family;
    message.header.destination_prefix_length = prefix.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = scope;
    message.header.kind = RouteType::Unicast;
    message
        .attributes
        .push(RouteAttribute::Destination(RouteAddress::from(prefix.network())));
    message.attributes.push(RouteAttribute::Oif(interface));
    message
}

fn request(message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    ask(message, NLM_F_ACK | flags).map(drop)
}
