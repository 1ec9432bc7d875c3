//! The kernel as referee: two of them, in two network namespaces, talk through two TUN devices that nothing but the
//! splitter and the joiner connect, and count no segment with a wrong checksum.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::{INSIDE, in_a_namespace, ip};
use crate::io::tun::{Offload, TunConfig, TunDevice, netlink};
use crate::packet::join::Joiner;
use crate::packet::reference::is_whole;
use crate::packet::split::Splitter;
use crate::packet::too_big::answer;
use crate::packet::vnet::{GSO_UDP_L4, NEEDS_CSUM, VnetHeader};

const LEN: usize = 3 << 20;
const DATAGRAM: usize = 1000;
const BURST: usize = 16;
const BURSTS: usize = 20;

#[test]
fn two_kernels_find_no_wrong_checksum() {
    in_a_namespace("io::tun::tests::referee::inside_for_the_referee");
}

/// Does nothing unless the test above starts it.
#[test]
fn inside_for_the_referee() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    // It has a namespace of its own once it answers.
    let mut other = Command::new("unshare")
        .args(["--net", "sh", "-c", "echo there; read end"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 6];
    io::Read::read_exact(other.stdout.as_mut().unwrap(), &mut line).unwrap();
    let namespace = std::fs::File::open(format!("/proc/{}/ns/net", other.id())).unwrap();
    for (near, far) in [
        (Offload::All, Offload::All),
        (Offload::Tcp, Offload::Tcp),
        (Offload::Off, Offload::All),
        (Offload::Off, Offload::Off),
    ] {
        let (to_far, from_near) = channel(256);
        let (to_near, from_far) = channel(256);
        let (tell, told) = tokio::sync::oneshot::channel();
        let (finish, finished) = tokio::sync::oneshot::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                run(async {
                    let link = Link::open(far, 2, 9000, to_near, from_near).await;
                    let tcp = TcpListener::bind((link.near(false), 0)).await.unwrap();
                    let tcp6 = listen(link.near(true)).await;
                    let udp = UdpSocket::bind((link.near(false), 0)).await.unwrap();
                    let ports = [&tcp, &tcp6].map(|listener| listener.local_addr().unwrap());
                    tell.send((ports, udp.local_addr().unwrap())).unwrap();
                    for listener in [tcp, tcp6] {
                        both_ways(listener.accept().await.unwrap().0, 37, 31, || {}).await;
                    }
                    echo(&udp).await;
                    // Its packets are carried until the other end has all.
                    finished.await.unwrap();
                    link.check();
                });
            });
            run(async {
                let link = Link::open(near, 1, 1300, to_far, from_far).await;
                let (ports, udp) = told.await.unwrap();
                for to in ports {
                    let stream = TcpStream::connect(to).await.unwrap();
                    let sizes = [1280_u16, 1400, 1300, 1420].iter().cycle();
                    let mut sizes = sizes.copied();
                    let device = Arc::clone(&link.tun);
                    // The interface's size changes while the stream runs.
                    let change = move || device.shared.queue.device().set_mtu(sizes.next().unwrap()).unwrap();
                    both_ways(stream, 31, 37, change).await;
                }
                bursts(link.near(false), udp).await;
                finish.send(()).unwrap();
                link.check();
                eprintln!(
                    "{near:?} to {far:?}: {} packets, {} writes",
                    link.packets(),
                    link.writes()
                );
                refused_and_deleted(&link.tun).await;
            });
        });
    }
    drop(other.stdin.take());
    other.wait().unwrap();
}

fn run(story: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(120), story).await.unwrap() });
}

/// The kernel takes a moment until an address of IPv6 can be used.
async fn listen(near: IpAddr) -> TcpListener {
    loop {
        match TcpListener::bind((near, 0)).await {
            Ok(listener) => return listener,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable),
        }
        tokio::task::yield_now().await;
    }
}

/// One end: a device, and the tasks that carry its packets; it answers those that are longer than its limit.
struct Link {
    tun: Arc<TunDevice>,
    number: u8,
    counts: Arc<[AtomicUsize; 2]>,
}

impl Link {
    async fn open(
        offload: Offload,
        number: u8,
        limit: usize,
        to: Sender<Vec<u8>>,
        mut from: Receiver<Vec<u8>>,
    ) -> Self {
        let config = TunConfig {
            offload,
            ..TunConfig::new(format!("sandd-r{number}"), 1420)
        };
        let tun = Arc::new(TunDevice::open(&config).unwrap());
        if offload == Offload::Off {
            assert!(!tun.joins_tcp() && !tun.joins_udp());
        }
        let link = Self {
            tun: Arc::clone(&tun),
            number,
            counts: Arc::default(),
        };
        tun.set_addresses(&[link.near(false), link.near(true)]).await.unwrap();
        let routes = ["10.9.0.0/24", "fd09::/64"].map(|prefix| prefix.parse().unwrap());
        tun.set_routes(&routes).await.unwrap();
        tun.set_peer_mtu(&[ip("10.9.0.1"), ip("10.9.0.2"), ip("fd09::1"), ip("fd09::2")], 1420);
        let (device, counts) = (Arc::clone(&tun), Arc::clone(&link.counts));
        tokio::spawn(async move {
            let mut buffer = vec![0; VnetHeader::LEN + 65_535];
            while device.readable().await.is_ok() {
                match device.recv_super(&mut buffer) {
                    Ok(None) => {}
                    Ok(Some(len)) => {
                        let packets = split(&buffer[..len]);
                        if packets[0].len() > limit {
                            let told = answer(&packets[0], limit, destination(&packets[0])).unwrap();
                            device.send_super(&[&[0; VnetHeader::LEN][..], &told].concat()).unwrap();
                            continue;
                        }
                        for packet in packets {
                            counts[0].fetch_add(1, Ordering::Relaxed);
                            if to.send(packet).await.is_err() {
                                return;
                            }
                        }
                    }
                    // Deleted.
                    Err(_) => return,
                }
            }
        });
        let counts = Arc::clone(&link.counts);
        tokio::spawn(async move {
            let mut joiner = Joiner::new();
            let mut batch = Vec::new();
            while from.recv_many(&mut batch, 64).await > 0 {
                joiner.set_tcp(tun.joins_tcp());
                joiner.set_udp(tun.joins_udp());
                let mut sink = |joined: &mut [u8]| {
                    counts[1].fetch_add(1, Ordering::Relaxed);
                    // Deleted at the end of the story.
                    let _ = tun.send_super(joined);
                };
                for packet in batch.drain(..) {
                    joiner.push(&packet, &mut sink);
                }
                joiner.flush(&mut sink);
            }
        });
        link
    }

    fn near(&self, v6: bool) -> IpAddr {
        ip(&if v6 {
            format!("fd09::{}", self.number)
        } else {
            format!("10.9.0.{}", self.number)
        })
    }

    fn packets(&self) -> usize {
        self.counts[0].load(Ordering::Relaxed)
    }

    fn writes(&self) -> usize {
        self.counts[1].load(Ordering::Relaxed)
    }

    /// What the kernel of this thread's namespace counted.
    fn check(&self) {
        let snmp = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
        let value = |family: &str, name: &str| -> u64 {
            let mut lines = snmp.lines().filter(|line| line.starts_with(family));
            let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
            let at = names.split(' ').position(|word| word == name).unwrap();
            values.split(' ').nth(at).unwrap().parse().unwrap()
        };
        assert!(value("Tcp:", "InSegs") > 100);
        for (family, name) in [
            ("Tcp:", "InErrs"),
            ("Tcp:", "InCsumErrors"),
            ("Udp:", "InCsumErrors"),
            ("Ip:", "InHdrErrors"),
        ] {
            assert_eq!(value(family, name), 0, "{family} {name}");
        }
        assert_eq!(self.tun.refused(), 0);
    }
}

fn destination(packet: &[u8]) -> IpAddr {
    crate::packet::ip::IpPacket::parse(packet).unwrap().dst()
}

/// The packets in a super-packet; the slow reference finds each whole.
fn split(buffer: &[u8]) -> Vec<Vec<u8>> {
    let (header, packet) = buffer.split_at(VnetHeader::LEN);
    let splitter = Splitter::new(&VnetHeader::parse(header).unwrap(), packet).unwrap();
    let packets = (0..splitter.count()).map(|index| {
        let mut packet = vec![0; splitter.len_of(index)];
        splitter.write(index, &mut packet);
        let (transport, protocol) = if packet[0] >> 4 == 6 {
            (40, packet[6])
        } else {
            (20, packet[9])
        };
        if matches!(protocol, 6 | 17) {
            assert!(is_whole(&packet, transport, protocol == 6));
        }
        packet
    });
    packets.collect()
}

/// A pattern each way at once; `tick` is called now and then.
async fn both_ways(mut stream: TcpStream, factor: usize, other: usize, mut tick: impl FnMut()) {
    let bytes = |factor: usize| -> Vec<u8> { (0..LEN).map(|at| ((at * factor) >> 7) as u8).collect() };
    let (sent, expected) = (bytes(factor), bytes(other));
    let (mut reader, mut writer) = stream.split();
    let write = async {
        for piece in sent.chunks(LEN / 16) {
            tick();
            writer.write_all(piece).await.unwrap();
        }
        writer.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let (_, read) = tokio::join!(write, reader.read_to_end(&mut received));
    assert_eq!(read.unwrap(), LEN);
    assert!(received == expected);
}

/// Bursts of datagrams in one call each, so that the kernel makes super-packets of them; the next one follows the answer.
async fn bursts(near: IpAddr, to: SocketAddr) {
    let socket = UdpSocket::bind((near, 0)).await.unwrap();
    let state = quinn_udp::UdpSocketState::new((&socket).into()).unwrap();
    let contents: Vec<u8> = (0..BURST * DATAGRAM - 7).map(|at| (at / 13) as u8).collect();
    for _ in 0..BURSTS {
        let transmit = quinn_udp::Transmit {
            destination: to,
            ecn: None,
            contents: &contents,
            segment_size: Some(DATAGRAM),
            src_ip: None,
        };
        socket
            .async_io(tokio::io::Interest::WRITABLE, || {
                state.try_send((&socket).into(), &transmit)
            })
            .await
            .unwrap();
        let mut back = vec![0; contents.len() + 1];
        let count = socket.recv(&mut back[..DATAGRAM]).await.unwrap();
        assert_eq!(back[..count], contents[..count]);
    }
}

/// Answers each burst with its first datagram.
async fn echo(socket: &UdpSocket) {
    let mut buffer = [0; DATAGRAM + 1];
    for _ in 0..BURSTS {
        let mut first = Vec::new();
        let mut from = None;
        for index in 0..BURST {
            let (count, peer) = socket.recv_from(&mut buffer).await.unwrap();
            assert_eq!(count, if index + 1 == BURST { DATAGRAM - 7 } else { DATAGRAM });
            if index == 0 {
                first.extend(&buffer[..count]);
                from = Some(peer);
            }
        }
        socket.send_to(&first, from.unwrap()).await.unwrap();
    }
}

/// A kernel that takes no joined UDP gets datagrams; a deleted interface says so.
async fn refused_and_deleted(tun: &TunDevice) {
    if tun.joins_udp() {
        let sample = crate::packet::reference::Sample::plain(false, false, vec![1; 900]);
        // No kernel takes UDP with TCP's checksum place.
        let wrong = VnetHeader {
            flags: NEEDS_CSUM,
            gso_type: GSO_UDP_L4,
            csum_offset: 16,
            ..sample.vnet(300, false)
        };
        let whole = [wrong.encode().to_vec(), sample.build()].concat();
        tun.send_super(&whole).unwrap();
        assert!(tun.joins_udp(), "one of them says nothing of the next");
        tun.send_super(&whole).unwrap();
        assert!(!tun.joins_udp(), "two in a row do");
        tun.send_super(&whole).unwrap();
        assert!(tun.joins_tcp() && tun.refused() == 0);
    }
    netlink::remove_link(tun.shared.index).unwrap();
    let mut buffer = vec![0; 70_000];
    let error = loop {
        tun.readable().await.unwrap();
        match tun.recv_super(&mut buffer) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.to_string(), format!("the interface '{}' was deleted", tun.name()));
    let error = tun.send_super(&buffer[..60]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
}
