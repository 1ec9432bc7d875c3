//! Splitting, joining and summing written as slowly and plainly as can be: the second opinion for the tests.

use proptest::prelude::*;

use super::vnet::{GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VnetHeader};

/// The internet checksum, not inverted.
pub(crate) fn slow_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for (at, byte) in bytes.iter().enumerate() {
        sum += u32::from(*byte) << if at % 2 == 0 { 8 } else { 0 };
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A packet to be built.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) v6: bool,
    pub(crate) tcp: bool,
    /// Length is a multiple of 4.
    pub(crate) ip_options: Vec<u8>,
    /// Length is a multiple of 4.
    pub(crate) tcp_options: Vec<u8>,
    /// Last byte of both addresses and of both ports.
    pub(crate) flow: u8,
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    pub(crate) id: u16,
    pub(crate) dont_fragment: bool,
    pub(crate) sequence: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) payload: Vec<u8>,
}

impl Sample {
    pub(crate) fn plain(v6: bool, tcp: bool, payload: Vec<u8>) -> Self {
        Self {
            v6,
            tcp,
            ip_options: Vec::new(),
            tcp_options: if tcp {
                vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]
            } else {
                Vec::new()
            },
            flow: 1,
            tos: 0,
            ttl: 64,
            id: 0xfff0,
            dont_fragment: true,
            sequence: 0xffff_0000,
            ack: 77,
            flags: 0x10,
            window: 512,
            payload,
        }
    }

    /// The transport header's place and the length of all headers.
    pub(crate) fn headers(&self) -> (usize, usize) {
        let transport = if self.v6 { 40 } else { 20 + self.ip_options.len() };
        (
            transport,
            transport + if self.tcp { 20 + self.tcp_options.len() } else { 8 },
        )
    }

    /// The packet with all checksums right.
    pub(crate) fn build(&self) -> Vec<u8> {
        let (transport, headers) = self.headers();
        let mut packet = Vec::new();
        let protocol = if self.tcp { 6 } else { 17 };
        if self.v6 {
            packet.extend([0x60 | self.tos >> 4, self.tos << 4, 0, 9, 0, 0, protocol, self.ttl]);
            for side in [1, 2] {
                packet.extend([0xfd, 0x7a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, side, self.flow]);
            }
        } else {
            packet.extend([0x40 | (transport / 4) as u8, self.tos, 0, 0]);
            packet.extend(self.id.to_be_bytes());
            packet.extend([if self.dont_fragment { 0x40 } else { 0 }, 0, self.ttl, protocol, 0, 0]);
            packet.extend([100, 64, 1, self.flow, 100, 64, 2, self.flow]);
            packet.extend(&self.ip_options);
        }
        packet.extend([200, self.flow, 100, self.flow]);
        if self.tcp {
            packet.extend(self.sequence.to_be_bytes());
            packet.extend(self.ack.to_be_bytes());
            packet.extend([(((headers - transport) / 4) as u8) << 4, self.flags]);
            packet.extend(self.window.to_be_bytes());
            packet.extend([0, 0, 0, 0]);
            packet.extend(&self.tcp_options);
        } else {
            packet.extend([0, 0, 0, 0]);
        }
        packet.extend(&self.payload);
        finish(&mut packet, transport, self.tcp);
        packet
    }

    /// What the device says of it when it is to be split.
    pub(crate) fn vnet(&self, gso_size: u16, ecn: bool) -> VnetHeader {
        let (transport, headers) = self.headers();
        let kind = match (self.tcp, self.v6) {
            (true, false) => GSO_TCPV4,
            (true, true) => GSO_TCPV6,
            (false, _) => GSO_UDP_L4,
        };
        VnetHeader {
            flags: NEEDS_CSUM,
            gso_type: kind | if ecn { GSO_ECN } else { 0 },
            hdr_len: headers as u16,
            gso_size,
            csum_start: transport as u16,
            csum_offset: if self.tcp { 16 } else { 6 },
        }
    }
}

fn put(packet: &mut [u8], at: usize, value: u16) {
    packet[at] = (value >> 8) as u8;
    packet[at + 1] = value as u8;
}

fn get(packet: &[u8], at: usize) -> u16 {
    u16::from(packet[at]) << 8 | u16::from(packet[at + 1])
}

/// Pseudo header of what begins at `transport`.
fn pseudo(packet: &[u8], transport: usize, tcp: bool) -> Vec<u8> {
    let mut bytes = if packet[0] >> 4 == 6 {
        packet[8..40].to_vec()
    } else {
        packet[12..20].to_vec()
    };
    bytes.extend([0, if tcp { 6 } else { 17 }]);
    bytes.extend(((packet.len() - transport) as u16).to_be_bytes());
    bytes
}

/// Makes lengths and checksums right.
fn finish(packet: &mut [u8], transport: usize, tcp: bool) {
    let len = packet.len();
    if packet[0] >> 4 == 6 {
        put(packet, 4, (len - 40) as u16);
    } else {
        put(packet, 2, len as u16);
        put(packet, 10, 0);
        let sum = !slow_sum(&packet[..transport]);
        put(packet, 10, sum);
    }
    if !tcp {
        put(packet, transport + 4, (len - transport) as u16);
    }
    let at = transport + if tcp { 16 } else { 6 };
    put(packet, at, 0);
    let mut whole = pseudo(packet, transport, tcp);
    whole.extend(&packet[transport..]);
    let sum = !slow_sum(&whole);
    put(packet, at, if sum == 0 && !tcp { 0xffff } else { sum });
}

/// Whether IPv4 header and transport checksum are right.
pub(crate) fn is_whole(packet: &[u8], transport: usize, tcp: bool) -> bool {
    let mut whole = pseudo(packet, transport, tcp);
    whole.extend(&packet[transport..]);
    let v6 = packet[0] >> 4 == 6;
    slow_sum(&whole) == 0xffff && (v6 || slow_sum(&packet[..transport]) == 0xffff)
}

/// The segments of a well-formed super-packet.
pub(crate) fn split(vnet: &VnetHeader, packet: &[u8]) -> Vec<Vec<u8>> {
    if vnet.gso_type == GSO_NONE && vnet.flags & NEEDS_CSUM == 0 {
        return vec![packet.to_vec()];
    }
    let v6 = packet[0] >> 4 == 6;
    let transport = if v6 { 40 } else { usize::from(packet[0] & 15) * 4 };
    let tcp = packet[if v6 { 6 } else { 9 }] == 6;
    let headers = transport
        + if tcp {
            usize::from(packet[transport + 12] >> 4) * 4
        } else {
            8
        };
    let size = if vnet.gso_type == GSO_NONE {
        65_535
    } else {
        usize::from(vnet.gso_size)
    };
    let parts: Vec<&[u8]> = packet[headers..].chunks(size).collect();
    let mut segments = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let mut segment = packet[..headers].to_vec();
        segment.extend(*part);
        if !v6 {
            put(&mut segment, 4, get(packet, 4).wrapping_add(index as u16));
        }
        if tcp {
            let high = u32::from(get(packet, transport + 4)) << 16;
            let sequence = (high | u32::from(get(packet, transport + 6))).wrapping_add((index * size) as u32);
            put(&mut segment, transport + 4, (sequence >> 16) as u16);
            put(&mut segment, transport + 6, sequence as u16);
            if index + 1 != parts.len() {
                segment[transport + 13] &= 0b1111_0110;
            }
            if index != 0 && vnet.gso_type & GSO_ECN != 0 {
                segment[transport + 13] &= 0b0111_1111;
            }
        }
        finish(&mut segment, transport, tcp);
        segments.push(segment);
    }
    segments
}

/// Transport header and all headers' length, if the rules permit to join the packet.
fn joinable(packet: &[u8], udp: bool) -> Option<(usize, usize)> {
    let v6 = packet[0] >> 4 == 6;
    let transport = if v6 { 40 } else { 20 };
    if packet.len() < transport + 8 || (!v6 && packet[0] != 0x45) {
        return None;
    }
    let protocol = packet[if v6 { 6 } else { 9 }];
    let stated = if v6 {
        40 + usize::from(get(packet, 4))
    } else {
        usize::from(get(packet, 2))
    };
    if stated != packet.len() || (!v6 && (get(packet, 6) | 0x4000) != 0x4000) {
        return None;
    }
    let headers = match protocol {
        6 if packet.len() >= transport + 20 => transport + usize::from(packet[transport + 12] >> 4) * 4,
        17 if udp => transport + 8,
        _ => return None,
    };
    let fits = if protocol == 6 {
        headers >= transport + 20 && matches!(get(packet, transport + 12) & 0x0fff, 0x10 | 0x18)
    } else {
        usize::from(get(packet, transport + 4)) == packet.len() - transport && get(packet, transport + 6) != 0
    };
    (fits && headers < packet.len() && is_whole(packet, transport, protocol == 6)).then_some((transport, headers))
}

/// Addresses, protocol and ports of plain TCP and UDP.
fn flow(packet: &[u8]) -> Option<Vec<u8>> {
    let v6 = packet.first()? >> 4 == 6;
    let transport = if v6 { 40 } else { 20 };
    if packet.len() < transport + 8 {
        return None;
    }
    let protocol = packet[if v6 { 6 } else { 9 }];
    let mut key = vec![packet[0] >> 4, protocol];
    key.extend(&packet[if v6 { 8 } else { 12 }..transport + 4]);
    Some(key)
}

/// Whether `next` may follow `last` in a super-packet that `head` began.
fn follows(head: &[u8], last: &[u8], next: &[u8], transport: usize, headers: usize) -> bool {
    // Blanks what may differ between the packets of one flow.
    let blanked = |packet: &[u8]| {
        let mut bytes = packet[..headers].to_vec();
        if packet[0] >> 4 == 6 {
            put(&mut bytes, 4, 0);
        } else {
            for at in [2, 4, 10] {
                put(&mut bytes, at, 0);
            }
        }
        if packet[if packet[0] >> 4 == 6 { 6 } else { 9 }] == 6 {
            for at in [4, 6, 16] {
                put(&mut bytes, transport + at, 0);
            }
            bytes[transport + 13] &= !8;
        } else {
            put(&mut bytes, transport + 4, 0);
            put(&mut bytes, transport + 6, 0);
        }
        bytes
    };
    let tcp = head[if head[0] >> 4 == 6 { 6 } else { 9 }] == 6;
    let sequence = |packet: &[u8]| u32::from(get(packet, transport + 4)) << 16 | u32::from(get(packet, transport + 6));
    let expected = sequence(last).wrapping_add((last.len() - headers) as u32);
    blanked(head) == blanked(next) && next.len() <= head.len() && (!tcp || sequence(next) == expected)
}

/// One super-packet of packets that follow each other, with its vnet header.
fn merged(group: &[Vec<u8>]) -> Vec<u8> {
    if let [single] = group {
        return [vec![0; 10], single.clone()].concat();
    }
    let mut packet = group[0].clone();
    let (transport, headers) = joinable(&packet, true).unwrap();
    let v6 = packet[0] >> 4 == 6;
    let tcp = packet[if v6 { 6 } else { 9 }] == 6;
    for next in &group[1..] {
        packet.extend(&next[headers..]);
        if tcp {
            packet[transport + 13] |= next[transport + 13] & 8;
        }
    }
    finish(&mut packet, transport, tcp);
    let partial = slow_sum(&pseudo(&packet, transport, tcp));
    put(&mut packet, transport + if tcp { 16 } else { 6 }, partial);
    let vnet = VnetHeader {
        flags: 1,
        gso_type: match (tcp, v6) {
            (true, false) => 1,
            (true, true) => 4,
            (false, _) => 5,
        },
        hdr_len: headers as u16,
        gso_size: (group[0].len() - headers) as u16,
        csum_start: transport as u16,
        csum_offset: if tcp { 16 } else { 6 },
    };
    [vnet.encode().to_vec(), packet].concat()
}

/// What the device is given for these packets in one turn, in order.
pub(crate) fn join(packets: &[Vec<u8>], udp: bool) -> Vec<Vec<u8>> {
    let mut open: Vec<Vec<Vec<u8>>> = Vec::new();
    let mut out = Vec::new();
    for packet in packets {
        let protocol = match packet.first().map(|first| first >> 4) {
            Some(4) if packet[0] == 0x45 && packet.len() >= 20 => u16::from(packet[9]),
            Some(6) if packet.len() >= 40 => u16::from(packet[6]),
            _ => 256,
        };
        let v6 = packet.first().is_some_and(|first| first >> 4 == 6);
        let exact = v6 && packet.len() >= 48 && 40 + usize::from(get(packet, 4)) == packet.len()
            || !v6 && packet.len() >= 28 && usize::from(get(packet, 2)) == packet.len() && get(packet, 6) & 0xbfff == 0;
        if protocol == 256
            || v6 && [0, 43, 44, 51, 60, 135, 139, 140].contains(&protocol)
            || [6, 17].contains(&protocol) && !exact
        {
            out.extend(open.drain(..).map(|group| merged(&group)));
        } else if [6, 17].contains(&protocol) {
            let mine = open.iter().position(|group| flow(&group[0]) == flow(packet));
            if let Some((transport, headers)) = joinable(packet, udp) {
                let tcp = protocol == 6;
                let push = tcp && packet[transport + 13] & 8 != 0;
                if let Some(at) = mine {
                    let group = &mut open[at];
                    let total: usize = group[0].len() + group[1..].iter().map(|p| p.len() - headers).sum::<usize>();
                    let fits = total + packet.len() - headers <= 65_535;
                    if fits && follows(&group[0], &group[group.len() - 1], packet, transport, headers) {
                        group.push(packet.clone());
                        if push || packet.len() < group[0].len() || group.len() == 64 {
                            out.push(merged(&open.remove(at)));
                        }
                        continue;
                    }
                    out.push(merged(&open.remove(at)));
                }
                if !push {
                    if open.len() == 8 {
                        out.push(merged(&open.remove(0)));
                    }
                    open.push(vec![packet.clone()]);
                    continue;
                }
            } else if let Some(at) = mine {
                out.push(merged(&open.remove(at)));
            }
        }
        out.push(merged(std::slice::from_ref(packet)));
    }
    out.extend(open.drain(..).map(|group| merged(&group)));
    out
}

/// Any header shape, with a payload of up to `most` bytes.
pub(crate) fn samples(most: usize) -> impl Strategy<Value = Sample> {
    let words = |most: usize| proptest::collection::vec(any::<[u8; 4]>(), 0..=most).prop_map(|words| words.concat());
    let numbers = (any::<u16>(), any::<u32>(), any::<u32>(), any::<u8>(), any::<u16>());
    (
        any::<[bool; 3]>(),
        words(10),
        words(10),
        any::<[u8; 3]>(),
        numbers,
        1..=most,
        any::<u8>(),
    )
        .prop_map(
            |([v6, tcp, dont_fragment], ip_options, tcp_options, [flow, tos, ttl], numbers, len, seed)| {
                let (id, sequence, ack, flags, window) = numbers;
                let mut sample = Sample {
                    v6,
                    tcp,
                    ip_options: if v6 { Vec::new() } else { ip_options },
                    tcp_options: if tcp { tcp_options } else { Vec::new() },
                    flow,
                    tos,
                    ttl,
                    id,
                    dont_fragment,
                    sequence,
                    ack,
                    flags,
                    window,
                    payload: Vec::new(),
                };
                let most = 65_535 - sample.headers().1;
                sample.payload = (0..len.min(most))
                    .map(|at| ((at * usize::from(seed)) >> 3) as u8)
                    .collect();
                sample
            },
        )
}
