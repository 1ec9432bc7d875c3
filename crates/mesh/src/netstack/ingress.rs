//! What a packet from the engine is, before anything else looks at it (S-13, S-14).
//!
//! smoltcp gets to see only what passes here: IPv4 that is no fragment, IPv6 without extension headers, addressed to
//! us, from a possible peer, carrying TCP, UDP or an ICMP echo. Its parsers for all else are not exposed to peers.

use std::net::{IpAddr, SocketAddr};

use smoltcp::wire::{
    IPV4_HEADER_LEN, IPV6_HEADER_LEN, Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, IpProtocol, IpVersion,
    Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket,
};

/// Both ends of a connection, seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FourTuple {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

/// A packet that may go on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Inbound {
    /// Length that the IP header claims; bytes behind it are padding.
    pub(super) len: usize,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) kind: Kind,
}

/// What it carries.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp {
        tuple: FourTuple,
        flags: SegmentFlags,
    },
    Udp {
        tuple: FourTuple,
        payload: std::ops::Range<usize>,
    },
    EchoRequest,
    EchoReply {
        ident: u16,
        sequence: u16,
    },
}

/// What of a segment matters before its connection is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentFlags {
    /// The first segment of a connection.
    pub(super) opens: bool,
    pub(super) resets: bool,
    /// It carries bytes or FIN, which want to be acknowledged.
    pub(super) occupies: bool,
}

/// Classifies a packet; `None` when it is malformed or of a kind that we do not speak.
pub(super) fn classify(packet: &[u8], verified: bool) -> Option<Inbound> {
    match version(packet)? {
        IpVersion::Ipv4 => {
            let ip = Ipv4Packet::new_checked(packet).ok()?;
            if ip.more_frags() || ip.frag_offset() != 0 || !ip.verify_checksum() {
                return None;
            }
            let (source, destination) = (IpAddr::V4(ip.src_addr()), IpAddr::V4(ip.dst_addr()));
            let header = usize::from(ip.header_len());
            let kind = if ip.next_header() == IpProtocol::Icmp {
                echo_v4(ip.payload())?
            } else {
                transport(ip.next_header(), source, destination, ip.payload(), header, verified)?
            };
            Some(Inbound {
                len: usize::from(ip.total_len()),
                source,
                destination,
                kind,
            })
        }
        IpVersion::Ipv6 => {
            let ip = Ipv6Packet::new_checked(packet).ok()?;
            let (source, destination) = (IpAddr::V6(ip.src_addr()), IpAddr::V6(ip.dst_addr()));
            let header = ip.header_len();
            let kind = if ip.next_header() == IpProtocol::Icmpv6 {
                echo_v6(ip.payload())?
            } else {
                transport(ip.next_header(), source, destination, ip.payload(), header, verified)?
            };
            Some(Inbound {
                len: ip.total_len(),
                source,
                destination,
                kind,
            })
        }
    }
}

/// The destination of a packet that we made ourselves.
pub(super) fn destination(packet: &[u8]) -> Option<IpAddr> {
    match version(packet)? {
        IpVersion::Ipv4 => Ipv4Packet::new_checked(packet).ok().map(|ip| IpAddr::V4(ip.dst_addr())),
        IpVersion::Ipv6 => Ipv6Packet::new_checked(packet).ok().map(|ip| IpAddr::V6(ip.dst_addr())),
    }
}

/// Where the TCP header of a packet that we made ourselves begins, how long it is, and whether the packet is IPv6.
pub(super) fn tcp_header(packet: &[u8]) -> Option<(u16, u16, bool)> {
    let (start, protocol, v6) = match version(packet)? {
        IpVersion::Ipv4 => (IPV4_HEADER_LEN, *packet.get(9)?, false),
        IpVersion::Ipv6 => (IPV6_HEADER_LEN, *packet.get(6)?, true),
    };
    let len = u16::from(packet.get(start.checked_add(12)?)? >> 4) * 4;
    (IpProtocol::from(protocol) == IpProtocol::Tcp).then_some((start as u16, len, v6))
}

/// Computes the checksum of a TCP packet that we made ourselves.
pub(super) fn fill_tcp_checksum(packet: &mut [u8]) {
    let (source, destination, header) = match version(packet) {
        Some(IpVersion::Ipv4) => match Ipv4Packet::new_checked(&*packet) {
            Ok(ip) => (IpAddr::V4(ip.src_addr()), IpAddr::V4(ip.dst_addr()), IPV4_HEADER_LEN),
            Err(_malformed) => return,
        },
        Some(IpVersion::Ipv6) => match Ipv6Packet::new_checked(&*packet) {
            Ok(ip) => (IpAddr::V6(ip.src_addr()), IpAddr::V6(ip.dst_addr()), IPV6_HEADER_LEN),
            Err(_malformed) => return,
        },
        None => return,
    };
    if let Some(mut tcp) = packet
        .get_mut(header..)
        .and_then(|tcp| TcpPacket::new_checked(tcp).ok())
    {
        tcp.fill_checksum(&source.into(), &destination.into());
    }
}

/// smoltcp's own look at the version panics on an empty packet.
fn version(packet: &[u8]) -> Option<IpVersion> {
    match packet.first()? >> 4 {
        4 => Some(IpVersion::Ipv4),
        6 => Some(IpVersion::Ipv6),
        _ => None,
    }
}

/// True for an address that one node can have.
pub(super) fn is_host(address: IpAddr) -> bool {
    let odd = match address {
        IpAddr::V4(v4) => v4.is_broadcast() || v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_some(),
    };
    !(odd || address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

fn transport(
    protocol: IpProtocol,
    source: IpAddr,
    destination: IpAddr,
    payload: &[u8],
    header: usize,
    verified: bool,
) -> Option<Kind> {
    let tuple = |local: u16, remote: u16| {
        (local != 0 && remote != 0).then(|| FourTuple {
            local: SocketAddr::new(destination, local),
            remote: SocketAddr::new(source, remote),
        })
    };
    if protocol == IpProtocol::Tcp {
        let tcp = TcpPacket::new_checked(payload).ok()?;
        let tuple = tuple(tcp.dst_port(), tcp.src_port())?;
        let flags = SegmentFlags {
            opens: tcp.syn() && !tcp.ack() && !tcp.rst(),
            resets: tcp.rst(),
            occupies: tcp.fin() || !tcp.payload().is_empty(),
        };
        return Some(Kind::Tcp { tuple, flags });
    }
    if protocol == IpProtocol::Udp {
        let udp = UdpPacket::new_checked(payload).ok()?;
        let tuple = tuple(udp.dst_port(), udp.src_port())?;
        if !verified && !udp.verify_checksum(&source.into(), &destination.into()) {
            return None;
        }
        let start = header + smoltcp::wire::UDP_HEADER_LEN;
        return Some(Kind::Udp {
            tuple,
            payload: start..header + usize::from(udp.len()),
        });
    }
    None
}

fn echo_v4(payload: &[u8]) -> Option<Kind> {
    let icmp = Icmpv4Packet::new_checked(payload).ok()?;
    if icmp.msg_code() != 0 || !icmp.verify_checksum() {
        return None;
    }
    if icmp.msg_type() == Icmpv4Message::EchoRequest {
        return Some(Kind::EchoRequest);
    }
    (icmp.msg_type() == Icmpv4Message::EchoReply).then(|| Kind::EchoReply {
        ident: icmp.echo_ident(),
        sequence: icmp.echo_seq_no(),
    })
}

fn echo_v6(payload: &[u8]) -> Option<Kind> {
    let icmp = Icmpv6Packet::new_checked(payload).ok()?;
    if icmp.msg_code() != 0 {
        return None;
    }
    if icmp.msg_type() == Icmpv6Message::EchoRequest {
        return Some(Kind::EchoRequest);
    }
    (icmp.msg_type() == Icmpv6Message::EchoReply).then(|| Kind::EchoReply {
        ident: icmp.echo_ident(),
        sequence: icmp.echo_seq_no(),
    })
}
