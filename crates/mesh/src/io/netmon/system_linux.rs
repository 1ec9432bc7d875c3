//! Linux: a netlink route socket that hears of links, addresses and routes, and questions to the routing table.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rustix::time::{ClockId, clock_gettime};

use super::Uplink;
use crate::io::netlink::ask;

/// `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV4_ROUTE`, `RTMGRP_IPV6_IFADDR`, `RTMGRP_IPV6_ROUTE`
/// (linux/rtnetlink.h).
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
/// The kernel's messages of these groups fit a page or two.
const BUFFER: usize = 32 << 10;
/// Messages taken away in one go.
const DRAIN: usize = 4_096;
/// Addresses far away: the way there is the way out. Nothing is sent to them.
const FAR_V4: Ipv4Addr = Ipv4Addr::new(1, 1, 1, 1);
const FAR_V6: Ipv6Addr = Ipv6Addr::new(0x2606, 0x4700, 0x4700, 0, 0, 0, 0, 0x1111);

/// Hears what the kernel tells of the network.
pub(super) struct Watch {
    socket: TokioSocket,
    ignored: Option<u32>,
    buffer: Vec<u8>,
}

impl Watch {
    /// News of the interface `ignored` are none.
    pub(super) fn open(ignored: Option<u32>) -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        socket.socket_mut().bind(&SocketAddr::new(0, GROUPS))?;
        Ok(Self {
            socket,
            ignored,
            buffer: Vec::with_capacity(BUFFER),
        })
    }

    /// Waits for a message that may concern us.
    ///
    /// # Cancel safety
    /// A message is taken only when this is about to return, or when it is none of ours.
    pub(super) async fn news(&mut self) {
        loop {
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer).await {
                // Other processes have no say.
                Ok(from) if from.port_number() != 0 || !concerns_us(&self.buffer, self.ignored) => {}
                // Also when messages were lost (ENOBUFS).
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// Takes away what waits, unseen.
    pub(super) fn drain(&mut self) {
        for _ in 0..DRAIN {
            self.buffer.clear();
            match self.socket.socket_ref().recv_from(&mut self.buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => {}
            }
        }
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

/// False when all messages of a datagram are about the interface `ignored`. What cannot be read concerns us.
fn concerns_us(datagram: &[u8], ignored: Option<u32>) -> bool {
    let mut rest = datagram;
    while !rest.is_empty() {
        let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) else {
            return true;
        };
        let interface = if let NetlinkPayload::InnerMessage(inner) = &message.payload {
            interface_of(inner)
        } else {
            None
        };
        if interface.is_none() || interface != ignored {
            return true;
        }
        // Messages are aligned to four bytes.
        let len = (message.header.length as usize).next_multiple_of(4).max(4);
        rest = rest.get(len..).unwrap_or_default();
    }
    false
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the crate names dozens of kinds of message, and may come to name more"
)]
fn interface_of(message: &RouteNetlinkMessage) -> Option<u32> {
    match message {
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => Some(link.header.index),
        RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
            Some(address.header.index)
        }
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
            route.attributes.iter().find_map(outgoing)
        }
        _ => None,
    }
}

fn outgoing(attribute: &RouteAttribute) -> Option<u32> {
    if let RouteAttribute::Oif(index) = attribute {
        Some(*index)
    } else {
        None
    }
}

/// The way out of one family; nothing when there is none.
pub(super) fn uplink(v4: bool) -> Option<Uplink> {
    let route = route_to(if v4 { FAR_V4.into() } else { FAR_V6.into() }).ok()?;
    let mut uplink = Uplink {
        interface: route.attributes.iter().find_map(outgoing)?,
        gateway: None,
        source: None,
    };
    for attribute in &route.attributes {
        if let RouteAttribute::Gateway(address) = attribute {
            uplink.gateway = ip(address);
        } else if let RouteAttribute::PrefSource(address) = attribute {
            uplink.source = ip(address);
        }
    }
    Some(uplink)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(ip) = address {
        Some((*ip).into())
    } else if let RouteAddress::Inet6(ip) = address {
        Some((*ip).into())
    } else {
        None
    }
}

/// As `ip route get`.
fn route_to(destination: IpAddr) -> io::Result<RouteMessage> {
    let mut route = RouteMessage::default();
    let (family, prefix_len) = match destination {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    route.header.address_family = family;
    route.header.destination_prefix_length = prefix_len;
    route.attributes.push(RouteAttribute::Destination(destination.into()));
    if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) =
        ask(RouteNetlinkMessage::GetRoute(route), 0)?
    {
        Ok(route)
    } else {
        Err(io::Error::from(io::ErrorKind::InvalidData))
    }
}

/// How far the clock that goes on while the machine sleeps is ahead of the one that does not.
pub(super) fn clock_lag() -> Duration {
    let read = |clock| {
        let time = clock_gettime(clock);
        let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
        Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), nanos)
    };
    read(ClockId::Boottime).saturating_sub(read(ClockId::Monotonic))
}
