//! The sockets over two stacks in one process, joined by a task that carries packets.

use std::future::Future;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::{PingError, TcpListener, TcpStream, UdpSocket};
use crate::io::or_never::or_never;
use crate::netstack::{SharedStack, StackConfig};
use crate::packet::PacketBuf;

const PORT: u16 = 8765;

fn v4(host: u8) -> IpAddr {
    IpAddr::from([100, 64, 0, host])
}

fn v6(host: u16) -> IpAddr {
    IpAddr::from([0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, host])
}

fn remote() -> SocketAddr {
    SocketAddr::new(v4(2), PORT)
}

/// Two nodes and the line between them; everything ends with it.
struct Pair {
    a: SharedStack,
    b: SharedStack,
    _drivers: JoinSet<()>,
}

fn pair() -> Pair {
    let open = |host: u8| {
        let wake = Arc::new(Notify::new());
        let waker = Arc::clone(&wake);
        let stack = SharedStack::new(StackConfig::new(1280), Arc::new(move || waker.notify_one()));
        stack.lock().set_addresses(&[v4(host), v6(u16::from(host))]);
        (stack, wake)
    };
    let ((a, wake_a), (b, wake_b)) = (open(1), open(2));
    let (to_a, from_b) = mpsc::channel(64);
    let (to_b, from_a) = mpsc::channel(64);
    let mut drivers = JoinSet::new();
    drivers.spawn(drive(a.clone(), wake_a, from_b, to_b));
    drivers.spawn(drive(b.clone(), wake_b, from_a, to_a));
    Pair {
        a,
        b,
        _drivers: drivers,
    }
}

/// What a driver does; it does not take packets from its stack before the line has room for them.
async fn drive(
    stack: SharedStack,
    wake: Arc<Notify>,
    mut receiver: mpsc::Receiver<Vec<PacketBuf>>,
    sender: mpsc::Sender<Vec<PacketBuf>>,
) {
    let mut inbound = Vec::<PacketBuf>::new();
    loop {
        let permit = sender.try_reserve().ok();
        let line_is_full = permit.is_none();
        let deadline = {
            let mut stack = stack.lock();
            let now = Instant::now();
            stack.handle_packets(std::mem::take(&mut inbound), now);
            stack.poll(now);
            if let Some(permit) = permit {
                let batch: Vec<PacketBuf> = std::iter::from_fn(|| stack.poll_transmit()).collect();
                if !batch.is_empty() {
                    permit.send(batch);
                }
            }
            stack.poll_timeout()
        };
        tokio::select! {
            batch = receiver.recv() => match batch {
                Some(batch) => inbound = batch,
                None => return,
            },
            () = wake.notified() => {}
            _ = sender.reserve(), if line_is_full => {}
            () = or_never(deadline.map(|at| tokio::time::sleep_until(at.into()))) => {}
        }
    }
}

async fn connected(pair: &Pair) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind_userspace(&pair.b, PORT).unwrap();
    let (dialled, accepted) = tokio::join!(
        TcpStream::connect_userspace(&pair.a, v4(1), remote()),
        listener.accept()
    );
    let (accepted, from) = accepted.unwrap();
    let dialled = dialled.unwrap();
    assert_eq!(dialled.peer_addr().unwrap(), remote());
    assert_eq!(dialled.local_addr().unwrap(), from);
    assert_eq!(accepted.local_addr().unwrap(), remote());
    (dialled, accepted)
}

/// Polls once, outside of any runtime's help.
fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test]
async fn streams_carry_both_directions_at_once() {
    let pair = pair();
    let (a, b) = connected(&pair).await;
    let sent: Vec<u8> = (0..5_000_000_u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let talk = |stream: TcpStream, sent: Vec<u8>| async move {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut received = Vec::new();
        let write = async {
            writer.write_all(&sent).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let (_, read) = tokio::join!(write, reader.read_to_end(&mut received));
        read.unwrap();
        received
    };
    let backwards: Vec<u8> = sent.iter().rev().copied().collect();
    let (to_a, to_b) = tokio::join!(talk(a, sent.clone()), talk(b, backwards.clone()));
    assert!(to_a == backwards && to_b == sent);
}

#[tokio::test]
async fn a_writer_waits_for_its_reader() {
    let pair = pair();
    let (mut a, mut b) = connected(&pair).await;
    let mut written = 0_usize;
    let chunk = [1; 100_000];
    // Until both buffers and the line are full.
    while let Ok(count) = tokio::time::timeout(Duration::from_secs(1), a.write(&chunk)).await {
        written += count.unwrap();
        assert!(written <= 512 * 1024, "no back-pressure");
    }
    assert!(written >= 2 * 60 * 1024, "{written}");
    let mut read = vec![0; 100_000];
    b.read_exact(&mut read).await.unwrap();
    // Now there is room again, and the writer hears of it.
    a.write_all(&[2; 40_000]).await.unwrap();
    drop(a);
    let mut rest = Vec::new();
    b.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest.len(), written + 40_000 - read.len());
}

#[tokio::test]
async fn a_half_closed_stream_answers() {
    let pair = pair();
    let (mut a, mut b) = connected(&pair).await;
    a.write_all(b"question").await.unwrap();
    a.shutdown().await.unwrap();
    let mut text = String::new();
    b.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "question");
    b.write_all(b"answer").await.unwrap();
    drop(b);
    text.clear();
    a.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "answer");
    assert_eq!(a.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn breaking_off_is_an_error_for_the_other_side() {
    let pair = pair();
    let (mut a, mut b) = connected(&pair).await;
    b.write_all(b"will not be read").await.unwrap();
    // Pending reads are woken by the reset as well.
    let reading = tokio::spawn(async move {
        let mut buffer = [0; 100];
        let error = b.read(&mut buffer).await.unwrap_err();
        (error.kind(), b.write(b"x").await.unwrap_err().kind())
    });
    let mut buffer = [0; 4];
    a.read_exact(&mut buffer).await.unwrap();
    drop(a);
    assert_eq!(
        reading.await.unwrap(),
        (ErrorKind::ConnectionReset, ErrorKind::ConnectionReset)
    );
}

#[tokio::test]
async fn connecting_fails_with_its_reason() {
    let pair = pair();
    let kind = |error: std::io::Error| error.kind();
    let refused = TcpStream::connect_userspace(&pair.a, v4(1), remote()).await;
    assert_eq!(refused.map_err(kind).unwrap_err(), ErrorKind::ConnectionRefused);
    let loopback = TcpStream::connect_userspace(&pair.a, v4(1), ([127, 0, 0, 1], PORT).into()).await;
    assert_eq!(loopback.map_err(kind).unwrap_err(), ErrorKind::InvalidInput);
    pair.a.lock().set_addresses(&[v6(1)]);
    let familyless = TcpStream::connect_userspace(&pair.a, v4(1), remote())
        .await
        .map_err(kind);
    assert_eq!(familyless.unwrap_err(), ErrorKind::AddrNotAvailable);
    assert_eq!(pair.a.lock().connection_count(), 0);
}

#[tokio::test]
async fn losing_the_address_wakes_everybody() {
    let pair = pair();
    let (a, _b) = connected(&pair).await;
    let (mut reader, mut writer) = tokio::io::split(a);
    let reading = tokio::spawn(async move { reader.read(&mut [0; 10]).await.unwrap_err().kind() });
    let writing = tokio::spawn(async move {
        loop {
            if let Err(error) = writer.write(&[0; 10_000]).await {
                return error.kind();
            }
        }
    });
    tokio::task::yield_now().await;
    pair.a.lock().set_addresses(&[v6(1)]);
    assert_eq!(reading.await.unwrap(), ErrorKind::ConnectionAborted);
    assert_eq!(writing.await.unwrap(), ErrorKind::ConnectionAborted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_on_many_threads() {
    let pair = pair();
    let listener = TcpListener::bind_userspace(&pair.b, 0).unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let mut echoes = JoinSet::new();
        for _ in 0..100 {
            let (stream, _) = listener.accept().await.unwrap();
            echoes.spawn(async move {
                let (mut reader, mut writer) = tokio::io::split(stream);
                tokio::io::copy(&mut reader, &mut writer).await.unwrap();
                writer.shutdown().await.unwrap();
            });
        }
        echoes.join_all().await;
    });
    let mut clients = JoinSet::new();
    for index in 0..100_u8 {
        let stack = pair.a.clone();
        clients.spawn(async move {
            let (local, to) = if index % 2 == 0 { (v4(1), v4(2)) } else { (v6(1), v6(2)) };
            let stream = TcpStream::connect_userspace(&stack, local, SocketAddr::new(to, port))
                .await
                .unwrap();
            let (mut reader, mut writer) = tokio::io::split(stream);
            let sent = vec![index; 200_000];
            let mut received = Vec::new();
            let write = async {
                writer.write_all(&sent).await.unwrap();
                writer.shutdown().await.unwrap();
            };
            let (_, read) = tokio::join!(write, reader.read_to_end(&mut received));
            read.unwrap();
            assert!(received == sent);
        });
    }
    clients.join_all().await;
    server.await.unwrap();
}

#[tokio::test]
async fn dropped_accepts_lose_no_connection() {
    let pair = pair();
    let listener = TcpListener::bind_userspace(&pair.b, PORT).unwrap();
    // Two that wait and give up, before and after.
    assert!(poll_once(listener.accept()).is_pending());
    let stream = TcpStream::connect_userspace(&pair.a, v4(1), remote()).await.unwrap();
    let (accepted, from) = listener.accept().await.unwrap();
    assert_eq!(from, stream.local_addr().unwrap());
    assert!(poll_once(listener.accept()).is_pending());
    drop(accepted);
    // A dropped listener frees its port.
    assert_eq!(
        TcpListener::bind_userspace(&pair.b, PORT).unwrap_err().kind(),
        ErrorKind::AddrInUse
    );
    drop(listener);
    assert!(TcpListener::bind_userspace(&pair.b, PORT).is_ok());
}

#[tokio::test]
async fn a_dropped_connect_leaves_nothing_behind() {
    let pair = pair();
    let _listener = TcpListener::bind_userspace(&pair.b, PORT).unwrap();
    assert!(poll_once(TcpStream::connect_userspace(&pair.a, v4(1), remote())).is_pending());
    assert_eq!(pair.a.lock().connection_count(), 1);
    // Packets keep their order, so its goodbye is said when this answer is there.
    pair.a.ping(v4(2), Duration::from_secs(10)).await.unwrap();
    assert_eq!(pair.a.lock().connection_count(), 0);
}

#[tokio::test]
async fn datagrams_arrive_whole() {
    let pair = pair();
    let a = UdpSocket::bind_userspace(&pair.a, 0).unwrap();
    let b = UdpSocket::bind_userspace(&pair.b, PORT).unwrap();
    assert_eq!(
        UdpSocket::bind_userspace(&pair.b, PORT).unwrap_err().kind(),
        ErrorKind::AddrInUse
    );
    let mut buffer = [0; 100];
    for size in [0, 1, 100, 1252] {
        let payload = vec![7; size];
        let (sent, received) = tokio::join!(a.send_to(&payload, remote()), b.recv_from(&mut buffer));
        assert_eq!(sent.unwrap(), size);
        let (count, from) = received.unwrap();
        assert_eq!((count, from), (size.min(100), a.local_addr().unwrap()));
    }
    assert_eq!(
        a.send_to(&[0; 1253], remote()).await.unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
    // Far more than any queue holds: the sender waits for the line, nothing breaks.
    for _ in 0..5000 {
        a.send_to(&[0; 1000], remote()).await.unwrap();
    }
}

#[tokio::test]
async fn pings_are_answered_or_time_out() {
    let pair = pair();
    for address in [v4(2), v6(2), v4(1)] {
        let time = pair.a.ping(address, Duration::from_secs(10)).await.unwrap();
        assert!(time < Duration::from_secs(10));
    }
    let timeout = Duration::from_millis(10);
    let silent = pair.a.ping(v4(77), timeout).await;
    assert_eq!(
        silent,
        Err(PingError::TimedOut {
            address: v4(77),
            timeout
        })
    );
    assert!(matches!(
        pair.a.ping([127, 0, 0, 1].into(), timeout).await,
        Err(PingError::Socket(_))
    ));
}

/// A waker that owns a socket, as a task's waker may be the last owner of the task.
struct Owner {
    _stream: std::sync::Mutex<Option<TcpStream>>,
}

impl Wake for Owner {
    fn wake(self: Arc<Self>) {}
}

#[tokio::test]
async fn a_waker_may_drop_sockets_of_the_same_stack() {
    let pair = pair();
    let (mut a, b) = connected(&pair).await;
    let listener = TcpListener::bind_userspace(&pair.a, PORT).unwrap();
    let owner = Waker::from(Arc::new(Owner {
        _stream: std::sync::Mutex::new(Some(b)),
    }));
    assert!(
        pin!(listener.accept())
            .poll(&mut Context::from_waker(&owner))
            .is_pending()
    );
    drop(owner);
    // The stack of A now holds the last owner of B's stream; connecting to the listener wakes and drops it.
    let (dialled, end) = tokio::join!(
        TcpStream::connect_userspace(&pair.b, v4(2), SocketAddr::new(v4(1), PORT)),
        async { a.read(&mut [0; 1]).await }
    );
    assert!(dialled.is_ok());
    assert_eq!(end.unwrap(), 0);
}
