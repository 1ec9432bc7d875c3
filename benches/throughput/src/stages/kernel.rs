//! Stages that are the kernel's: super-packets out of and into a TUN, runs of datagrams into and out of UDP sockets.
//!
//! The TUN is asked for by UDP and not by TCP, which would want a whole connection; the kernel does the same to both: it
//! hands 64 KiB over in one piece. The sockets stand on the hosts of the lab, so that sending pays for wire and bridge.

use std::{
    io::IoSliceMut,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use e2e::lab::{Host, Lab};
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use sandd_mesh::packet::{
    checksum::Checksum,
    vnet::{GSO_UDP_L4, NEEDS_CSUM, VnetHeader},
};
use tun_rs::DeviceBuilder;

use super::{SEGMENTS, clocked, median_of};
use crate::machine::PACKET;

/// A sealed packet as a datagram.
const DATAGRAM: usize = 16 + PACKET.next_multiple_of(16) + 16;

/// The payload of a UDP packet of full size.
const PAYLOAD: usize = PACKET - 28;

const NEAR: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 2);

/// A socket with GSO and GRO.
struct Socket {
    socket: UdpSocket,
    state: UdpSocketState,
}

pub(super) fn times(lab: &Lab) -> Result<Vec<(&'static str, Duration)>> {
    let (a, b) = (lab.public_host("a")?, lab.public_host("b")?);
    let mut times = wire(&a, &b)?;
    times.extend(tun(&a)?);
    Ok(times)
}

/// One GSO send, and one GRO receive of it at the other host.
fn wire(a: &Host, b: &Host) -> Result<Vec<(&'static str, Duration)>> {
    let from = Socket::bind(a, a.address())?;
    let to = Socket::bind(b, b.address())?;
    let target = to.socket.local_addr()?;
    let contents = vec![0x5a; DATAGRAM * (65_507 / DATAGRAM).min(SEGMENTS)];
    let mut buffer = vec![0; 65_536];
    let mut received = Vec::new();
    let send = median_of(|| {
        let (took, sent) = clocked(|| from.send(target, &contents, DATAGRAM));
        sent?;
        let (took_back, length) = clocked(|| to.receive(&mut buffer));
        ensure!(length? == contents.len(), "the run of datagrams came in pieces");
        received.push(took_back);
        Ok(took)
    })?;
    received.sort_unstable();
    let receive = received.get(received.len() / 2).copied().context("nothing came")?;
    // A run may hold fewer than a super-packet has.
    let scaled = |time: Duration| time.mul_f64((DATAGRAM * SEGMENTS) as f64 / contents.len() as f64);
    Ok(vec![
        ("stage_udp_send_ns", scaled(send)),
        ("stage_udp_recv_ns", scaled(receive)),
    ])
}

/// One read of a super-packet that a local socket sent, and one write of a super-packet to a local socket.
fn tun(host: &Host) -> Result<Vec<(&'static str, Duration)>> {
    let device = host.namespace().inside(|| {
        let builder = DeviceBuilder::new().name("stage0").mtu(u16::try_from(PACKET)?);
        let device = builder.offload(true).ipv4(NEAR, 24_u8, None).build_sync()?;
        Ok::<_, anyhow::Error>(device)
    })??;
    ensure!(
        device.udp_gso(),
        "the kernel segments UDP before a TUN gets it (before Linux 6.2)"
    );
    let socket = Socket::bind(host, NEAR)?;
    let near = match socket.socket.local_addr()? {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(_) => anyhow::bail!("an odd address"),
    };
    let far = SocketAddrV4::new(FAR, 9);
    let contents = vec![0x5a; PAYLOAD * SEGMENTS];
    let mut buffer = vec![0; 65_536 + VnetHeader::LEN];
    let read = median_of(|| {
        socket.send(far.into(), &contents, PAYLOAD)?;
        loop {
            let (took, length) = clocked(|| device.recv(&mut buffer));
            // The kernel has things of its own to say on a new interface.
            if length? > contents.len() {
                return Ok(took);
            }
        }
    })?;
    let packet = super_packet(far, near, &contents)?;
    let write = median_of(|| {
        let (took, written) = clocked(|| device.send(&packet));
        written?;
        ensure!(
            socket.receive(&mut buffer)? == contents.len(),
            "the super-packet came in pieces"
        );
        Ok(took)
    })?;
    Ok(vec![("stage_tun_read_ns", read), ("stage_tun_write_ns", write)])
}

fn super_packet(from: SocketAddrV4, to: SocketAddrV4, contents: &[u8]) -> Result<Vec<u8>> {
    let udp_length = u16::try_from(contents.len() + 8)?;
    let vnet = VnetHeader {
        flags: NEEDS_CSUM,
        gso_type: GSO_UDP_L4,
        hdr_len: 28,
        gso_size: u16::try_from(PAYLOAD)?,
        csum_start: 20,
        csum_offset: 6,
    };
    let mut ip = vec![0x45, 0];
    ip.extend((udp_length + 20).to_be_bytes());
    ip.extend([0, 1, 0x40, 0, 64, 17, 0, 0]);
    ip.extend(from.ip().octets());
    ip.extend(to.ip().octets());
    let sum = Checksum::default().with(&ip).finish().to_be_bytes();
    ip.splice(10..12, sum);
    let pseudo = Checksum::default().with_pseudo_header((*from.ip()).into(), (*to.ip()).into(), 17, udp_length.into());
    let mut packet = vnet.encode().to_vec();
    packet.extend(ip);
    for word in [from.port(), to.port(), udp_length, pseudo.partial()] {
        packet.extend(word.to_be_bytes());
    }
    packet.extend(contents);
    Ok(packet)
}

impl Socket {
    fn bind(host: &Host, address: Ipv4Addr) -> Result<Self> {
        let socket = host.namespace().inside(|| UdpSocket::bind((address, 0)))??;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        // The state makes it non-blocking; here nothing else is to be done meanwhile.
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        Ok(Self { socket, state })
    }

    fn send(&self, destination: SocketAddr, contents: &[u8], segment: usize) -> Result<()> {
        let transmit = Transmit {
            destination,
            ecn: None,
            contents,
            segment_size: Some(segment),
            src_ip: None,
        };
        Ok(self.state.try_send(UdpSockRef::from(&self.socket), &transmit)?)
    }

    fn receive(&self, buffer: &mut [u8]) -> Result<usize> {
        let mut meta = [RecvMeta::default()];
        let mut slices = [IoSliceMut::new(buffer)];
        self.state
            .recv(UdpSockRef::from(&self.socket), &mut slices, &mut meta)?;
        Ok(meta.first().map_or(0, |meta| meta.len))
    }
}
