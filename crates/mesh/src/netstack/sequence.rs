//! Mends segments on their way out of and into smoltcp, where its bookkeeping would let a connection stand still.
//!
//! **Out, [`SentMax`].** After a retransmission timeout smoltcp goes back to the oldest unacknowledged byte and numbers
//! everything from there, pure acknowledgements, too. To a peer that has received more they lie outside of its window,
//! and it does not look at what they acknowledge (RFC 9293 §3.10.7.4). When both sides are in that state they refuse each
//! other's acknowledgements for ever. A segment that occupies no sequence space belongs behind the last one ever sent.
//!
//! **In, [`Heard`].** smoltcp believes the window of any acceptable segment. When an old one, overtaken on the way, says
//! "full" while bytes are in flight, the next timeout leaves it without any timer. And a segment whose acknowledgement is
//! older than another's is refused with the bytes that it carries. A window never shrinks at its right edge, and
//! acknowledgements are cumulative; so the newest of both replaces the old.
//!
//! **In, [`split_fin`].** smoltcp cuts a segment at the edge of its window and believes the FIN behind the cut, so the last
//! bytes would be missing without anybody noticing; and its own fast retransmit looks at no window. Apart, the bytes are
//! cut, and the FIN is taken only when nothing is missing before it.
//!
//! Last, repeated acknowledgements are kept from smoltcp where its fast retransmit does harm: when only our FIN is
//! outstanding, it finds no bytes and stops the timer, and the FIN is never sent again; and when the peer's window is
//! smaller than a segment, it counts bytes as sent that the peer cannot have taken. The timeout serves in both cases.

use smoltcp::wire::{
    IPV4_HEADER_LEN, IPV6_HEADER_LEN, IpAddress, IpProtocol, IpVersion, Ipv4Packet, Ipv6Packet, TcpPacket, TcpSeqNumber,
};

use super::ingress::SegmentFlags;
use crate::packet::PacketBuf;

/// No segment is larger, so that a fast retransmit fits. (With window scaling the true window is larger still.)
const FAST_RETRANSMIT_WINDOW: u16 = 1_500;

/// The number behind everything that a connection ever sent.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct SentMax {
    max: Option<TcpSeqNumber>,
    /// The peer takes nothing at present. Then a single byte is a probe of its window, which it does not take either.
    pub(super) peer_is_full: bool,
}

impl SentMax {
    /// Looks at a packet that smoltcp made, and changes its sequence number if need be. `resets`: also that of RST,
    /// which is right for one of our own will, but not for one that answers a wrong segment.
    pub(super) fn mend(&mut self, packet: &mut [u8], resets: bool) {
        let Some((source, destination, mut tcp)) = segment(packet) else {
            return;
        };
        let next = tcp.seq_number() + tcp.segment_len();
        let newest = self.max.is_none_or(|max| next > max);
        let probes = self.peer_is_full && tcp.segment_len() == 1 && !tcp.syn() && !tcp.fin();
        if tcp.segment_len() > 0 {
            if newest && !probes {
                self.max = Some(next);
            }
        } else if let Some(max) = self.max.filter(|_| !newest && (resets || !tcp.rst())) {
            tcp.set_seq_number(max);
            tcp.fill_checksum(&source, &destination);
        }
    }
}

/// The newest acknowledgement of a peer, and the largest window that came with it.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Heard(Option<(TcpSeqNumber, u16)>);

impl Heard {
    /// Brings a segment up to date. False when smoltcp must not see it at all; `only_fin`: nothing but our FIN is
    /// outstanding.
    pub(super) fn admit(&mut self, packet: &mut [u8], verified: bool, flags: SegmentFlags, only_fin: bool) -> bool {
        let Some(ack) = flags.ack.filter(|_| !flags.resets && !flags.synchronizes) else {
            return true;
        };
        let (newest, window) = match self.0 {
            Some((newest, window)) if ack <= newest => (newest, window),
            _ => {
                self.0 = Some((ack, flags.window));
                return true;
            }
        };
        if ack == newest && flags.window > window {
            self.0 = Some((newest, flags.window));
            return true;
        }
        if !flags.occupies {
            // Old, or a repetition of the newest.
            return ack == newest && flags.window == window && window >= FAST_RETRANSMIT_WINDOW && !only_fin;
        }
        if let Some((source, destination, mut tcp)) = segment(packet)
            && (ack, flags.window) != (newest, window)
            && (verified || tcp.verify_checksum(&source, &destination))
        {
            tcp.set_ack_number(newest);
            tcp.set_window_len(window);
            tcp.fill_checksum(&source, &destination);
        }
        true
    }
}

/// Makes two packets of one with bytes and FIN: the first loses the FIN, the second carries it alone and is returned.
/// `None` leaves the packet as it was.
pub(super) fn split_fin(packet: &mut [u8], verified: bool) -> Option<PacketBuf> {
    let whole = packet.len();
    let (source, destination, mut tcp) = segment(packet)?;
    if !tcp.fin() || !(verified || tcp.verify_checksum(&source, &destination)) {
        return None;
    }
    let header = usize::from(tcp.header_len());
    // FIN counts as one, and is the only flag that may be there (a SYN is nobody's last word).
    let payload = tcp.segment_len().checked_sub(1).filter(|len| *len > 0 && !tcp.syn())?;
    let end = tcp.seq_number() + payload;
    tcp.set_fin(false);
    tcp.fill_checksum(&source, &destination);

    let mut last = PacketBuf::copied_from(&packet[..whole.checked_sub(payload)?]);
    match source {
        IpAddress::Ipv4(_) => {
            let mut ip = Ipv4Packet::new_unchecked(&mut last[..]);
            ip.set_total_len((IPV4_HEADER_LEN + header) as u16);
            ip.fill_checksum();
        }
        IpAddress::Ipv6(_) => Ipv6Packet::new_unchecked(&mut last[..]).set_payload_len(header as u16),
    }
    let (source, destination, mut tcp) = segment(&mut last)?;
    tcp.set_seq_number(end);
    tcp.set_fin(true);
    tcp.fill_checksum(&source, &destination);
    Some(last)
}

/// The TCP segment in an IP packet without options or extension headers.
fn segment(packet: &mut [u8]) -> Option<(IpAddress, IpAddress, TcpPacket<&mut [u8]>)> {
    let (source, destination, header, protocol) = match IpVersion::of_packet(packet.get(..1)?).ok()? {
        IpVersion::Ipv4 => {
            let ip = Ipv4Packet::new_checked(&*packet).ok()?;
            (ip.header_len() == IPV4_HEADER_LEN as u8).then_some(())?;
            (
                ip.src_addr().into(),
                ip.dst_addr().into(),
                IPV4_HEADER_LEN,
                ip.next_header(),
            )
        }
        IpVersion::Ipv6 => {
            let ip = Ipv6Packet::new_checked(&*packet).ok()?;
            (
                ip.src_addr().into(),
                ip.dst_addr().into(),
                IPV6_HEADER_LEN,
                ip.next_header(),
            )
        }
    };
    (protocol == IpProtocol::Tcp).then_some(())?;
    let tcp = TcpPacket::new_checked(packet.get_mut(header..)?).ok()?;
    Some((source, destination, tcp))
}
