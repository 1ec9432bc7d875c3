//! The device in a network namespace of its own, with a userspace stack as the peer behind it: so the kernel's TCP is
//! the referee of ours.

#[cfg(target_os = "linux")]
mod referee;
mod weather;

use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::sleep_until;

use super::{TunConfig, TunDevice, explain};
use crate::io::or_never::or_never;
use crate::net::{TcpListener, TcpStream, UdpSocket};
use crate::netstack::{SharedStack, StackConfig};
use crate::packet::PacketBuf;
use crate::packet::join::Joiner;
use crate::packet::split::Splitter;
use crate::packet::vnet::VnetHeader;

/// Set in the process that runs inside the namespace.
const INSIDE: &str = "SANDD_TEST_INSIDE_NAMESPACE";
const PORT: u16 = 8765;
const LEN: usize = 8 << 20;

#[test]
fn errors_name_the_right_and_the_alternative() {
    let text = explain("sandd0", &std::io::ErrorKind::PermissionDenied.into()).to_string();
    for part in ["sandd0", "NET_ADMIN", "/dev/net/tun", "userspace mode needs neither"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn bad_names_are_refused() {
    for name in ["", "sixteen-letters!", "a/b", "a b", "..", "a:1", "tun%d"] {
        let error = TunDevice::open(&TunConfig::new(name, 1280)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{name}");
    }
}

#[test]
fn the_kernel_and_our_stack_understand_each_other() {
    in_a_namespace("io::tun::tests::inside_a_namespace");
}

/// Runs a test of this program in a network namespace of its own.
fn in_a_namespace(test: &str) {
    let usable = |command: &mut Command| {
        command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    if !std::path::Path::new("/dev/net/tun").exists() || !usable(Command::new("unshare").args(["--net", "true"])) {
        eprintln!("skipped: it needs root, the program unshare and /dev/net/tun");
        return;
    }
    let status = Command::new("unshare")
        .arg("--net")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success());
}

/// Does nothing unless the test above starts it.
#[test]
fn inside_a_namespace() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let story = async { tokio::time::timeout(Duration::from_secs(60), story()).await.unwrap() };
    runtime.block_on(story);
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

async fn story() {
    let tun = Arc::new(TunDevice::open(&TunConfig::new("sandd-t0", 1420)).unwrap());
    assert_eq!(tun.name(), "sandd-t0");
    let taken = TunDevice::open(&TunConfig::new("sandd-t0", 1280)).unwrap_err();
    assert!(taken.to_string().contains("another program has that device"), "{taken}");

    let (ours4, ours6) = (ip("100.64.0.1"), ip("fd7a:115c:a1e0::1"));
    tun.set_addresses(&[ours4, ours6]).await.unwrap();
    let (mesh4, mesh6) = ("100.64.0.0/10".parse().unwrap(), "fd7a:115c:a1e0::/48".parse().unwrap());
    tun.set_routes(&[mesh4, mesh6]).await.unwrap();
    let peer = peer_behind(Arc::clone(&tun), &[ip("100.64.0.2"), ip("fd7a:115c:a1e0::2")]);

    for (local, remote) in [(ours4, ip("100.64.0.2")), (ours6, ip("fd7a:115c:a1e0::2"))] {
        streams(&peer, local, remote, LEN).await;
        datagrams(&peer, local, remote).await;
        let time = peer.ping(local, Duration::from_secs(5)).await.unwrap();
        assert!(time < Duration::from_secs(5));
    }

    // Another address takes the old one's place; the routes stay.
    let new = ip("100.64.0.9");
    tun.set_addresses(&[new, ours6]).await.unwrap();
    tun.set_routes(&[mesh4, mesh6]).await.unwrap();
    assert!(TcpListener::bind_kernel(&[ours4], PORT).is_err());
    streams(&peer, new, ip("100.64.0.2"), LEN).await;
    tun.set_routes(&[mesh6]).await.unwrap();
    let unrouted = TcpStream::connect_kernel(new, SocketAddr::new(ip("100.64.0.2"), PORT))
        .await
        .unwrap_err();
    assert!(
        matches!(unrouted.kind(), std::io::ErrorKind::NetworkUnreachable),
        "{unrouted}"
    );
}

/// A stack on the other end of the device, driven by a task.
fn peer_behind(tun: Arc<TunDevice>, addresses: &[IpAddr]) -> SharedStack {
    let wake = Arc::new(Notify::new());
    let waker = Arc::clone(&wake);
    let stack = SharedStack::new(StackConfig::new(1280), Arc::new(move || waker.notify_one()));
    stack.lock().set_addresses(addresses);
    let shared = stack.clone();
    let mut joiner = Joiner::new();
    joiner.set_udp(tun.joins_udp());
    let mut buffer = vec![0; VnetHeader::LEN + 65_535];
    tokio::spawn(async move {
        loop {
            let deadline = {
                let mut stack = shared.lock();
                stack.handle_packets(read_all(&tun, &mut buffer), Instant::now());
                stack.poll(Instant::now());
                let mut sink = |joined: &mut [u8]| tun.send_super(joined).unwrap();
                while let Some(packet) = stack.poll_transmit() {
                    joiner.push(&packet, &mut sink);
                }
                joiner.flush(&mut sink);
                stack.poll_timeout()
            };
            tokio::select! {
                () = wake.notified() => {}
                ready = tun.readable() => ready.unwrap(),
                () = or_never(deadline.map(|at| sleep_until(at.into()))) => {}
            }
        }
    });
    stack
}

/// What waits in the device, cut into single packets.
fn read_all(tun: &TunDevice, buffer: &mut [u8]) -> Vec<PacketBuf> {
    let mut batch = Vec::new();
    while let Some(len) = tun.recv_super(buffer).unwrap() {
        let (header, packet) = buffer[..len].split_at(VnetHeader::LEN);
        let splitter = Splitter::new(&VnetHeader::parse(header).unwrap(), packet).unwrap();
        for index in 0..splitter.count() {
            let mut single = PacketBuf::zeroed(splitter.len_of(index));
            splitter.write(index, &mut single);
            batch.push(single);
        }
    }
    batch
}

/// Kernel to stack and stack to kernel, `len` octets both ways at once.
async fn streams(peer: &SharedStack, local: IpAddr, remote: IpAddr, len: usize) {
    let listener = TcpListener::bind_userspace(peer, PORT).unwrap();
    let (dialled, accepted) = tokio::join!(
        TcpStream::connect_kernel(local, SocketAddr::new(remote, PORT)),
        listener.accept()
    );
    let (accepted, from) = accepted.unwrap();
    assert_eq!(from.ip(), local);
    both_ways(dialled.unwrap(), accepted, len).await;

    let listener = TcpListener::bind_kernel(&[local], PORT).unwrap();
    let (dialled, accepted) = tokio::join!(
        TcpStream::connect_userspace(peer, remote, SocketAddr::new(local, PORT)),
        listener.accept()
    );
    both_ways(dialled.unwrap(), accepted.unwrap().0, len).await;
    drop(listener);

    let refused = TcpStream::connect_userspace(peer, remote, SocketAddr::new(local, PORT))
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let refused = TcpStream::connect_kernel(local, SocketAddr::new(remote, 9))
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

async fn both_ways(a: TcpStream, b: TcpStream, len: usize) {
    async fn talk(stream: TcpStream, factor: usize, other: usize, len: usize) {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let bytes = |factor: usize| -> Vec<u8> { (0..len).map(|at| ((at * factor) >> 7) as u8).collect() };
        let sent = bytes(factor);
        let write = async {
            writer.write_all(&sent).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let mut received = Vec::new();
        let (_, read) = tokio::join!(write, reader.read_to_end(&mut received));
        assert_eq!(read.unwrap(), len);
        assert!(received == bytes(other));
    }
    tokio::join!(talk(a, 31, 37, len), talk(b, 37, 31, len));
}

async fn datagrams(peer: &SharedStack, local: IpAddr, remote: IpAddr) {
    let kernel = UdpSocket::bind_kernel(&[local], 0).unwrap();
    let ours = UdpSocket::bind_userspace(peer, PORT).unwrap();
    let mut buffer = [0; 2000];
    kernel.send_to(&[5; 1200], SocketAddr::new(remote, PORT)).await.unwrap();
    let (count, from) = ours.recv_from(&mut buffer).await.unwrap();
    assert_eq!((&buffer[..count], from), (&[5; 1200][..], kernel.local_addr().unwrap()));
    ours.send_to(&[6; 1200], from).await.unwrap();
    let (count, from) = kernel.recv_from(&mut buffer).await.unwrap();
    assert_eq!(
        (&buffer[..count], from),
        (&[6; 1200][..], SocketAddr::new(remote, PORT))
    );
}
