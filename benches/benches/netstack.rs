//! The userspace stack: its cost in memory, over a simulated path with loss, and with a thousand idle connections.
//!
//! `cargo bench --bench netstack` measures; without `--bench` each part runs once, shortly. The path is simulated with
//! invented time, so its table does not depend on the machine.

#[path = "netstack/harness.rs"]
mod harness;

use std::future::Future;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use harness::{Bottleneck, Carry};
use sandd_mesh::net::{TcpListener, TcpStream};
use sandd_mesh::netstack::{SharedStack, Stack, StackConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const PORT: u16 = 5201;
const MTU: usize = 1280;

macro_rules! say {
    ($($part:tt)*) => {{
        let _ = writeln!(std::io::stdout(), $($part)*);
    }};
}

/// Two stacks, and the invented time.
struct Pair {
    a: SharedStack,
    b: SharedStack,
    now: Instant,
}

fn address(host: u8) -> IpAddr {
    IpAddr::from([100, 64, 0, host])
}

fn noop() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        let stack = |host: u8| {
            let mut config = StackConfig::new(MTU);
            config.seed = [host; 16];
            let mut stack = Stack::new(config, now);
            stack.set_addresses(&[address(host)]);
            SharedStack::sharing(stack, Arc::new(|| ()))
        };
        Self {
            a: stack(1),
            b: stack(2),
            now,
        }
    }

    /// Whole packets from one to the other, without a path between.
    fn exchange(&mut self, carry: &mut Carry) {
        for (from, to) in [(&self.a, &self.b), (&self.b, &self.a)] {
            from.lock().poll(self.now);
            carry.over(&mut from.lock(), &mut to.lock(), self.now);
        }
    }

    fn connect(&mut self, mut step: impl FnMut(&mut Self)) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind_userspace(&self.b, PORT).expect("the port is free");
        let stack = self.a.clone();
        let mut dial = Box::pin(async move {
            TcpStream::connect_userspace(&stack, address(1), SocketAddr::new(address(2), PORT)).await
        });
        let (mut dialled, mut accepted) = (None, None);
        loop {
            if dialled.is_none()
                && let Poll::Ready(stream) = dial.as_mut().poll(&mut noop())
            {
                dialled = Some(stream.expect("connects"));
            }
            if accepted.is_none()
                && let Poll::Ready(Ok((stream, _))) = listener.poll_accept(&mut noop())
            {
                accepted = Some(stream);
            }
            match (dialled.take(), accepted.take()) {
                (Some(dialled), Some(accepted)) => return (dialled, accepted),
                rest => (dialled, accepted) = rest,
            }
            step(self);
        }
    }
}

/// Writes until the stream takes no more.
fn fill(stream: &mut TcpStream, chunk: &[u8]) -> u64 {
    let mut written = 0;
    while let Poll::Ready(Ok(count)) = Pin::new(&mut *stream).poll_write(&mut noop(), chunk) {
        written += count as u64;
    }
    written
}

/// Reads until there is no more.
fn drain(stream: &mut TcpStream, buffer: &mut [u8]) -> u64 {
    let mut read = 0;
    loop {
        let mut into = ReadBuf::new(buffer);
        match Pin::new(&mut *stream).poll_read(&mut noop(), &mut into) {
            Poll::Ready(Ok(())) if !into.filled().is_empty() => read += into.filled().len() as u64,
            Poll::Ready(_) | Poll::Pending => return read,
        }
    }
}

/// Gbit/s of one stream through memory, on one thread for both ends.
fn in_memory(name: &str, mut carry: Carry, duration: Duration) {
    let mut pair = Pair::new();
    let (mut sender, mut receiver) = pair.connect(|pair| pair.exchange(&mut carry));
    let (chunk, mut buffer) = (vec![7; 64 * 1024], vec![0; 64 * 1024]);
    let (began, mut received) = (Instant::now(), 0);
    while began.elapsed() < duration {
        for _ in 0..16 {
            fill(&mut sender, &chunk);
            pair.now = Instant::now();
            pair.exchange(&mut carry);
            received += drain(&mut receiver, &mut buffer);
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    say!("{name:<44} {:6.2} Gbit/s", received as f64 * 8e-9 / seconds);
}

/// Mbit/s of one stream over a path of 1 Gbit/s and 20 ms.
fn over_path(buffer: Duration, loss: f64, seed: u64, duration: Duration) -> f64 {
    let rate = 1_000_000_000;
    let mut pair = Pair::new();
    let mut path = [
        Bottleneck::new(rate, Duration::from_millis(10), buffer, loss, seed, pair.now),
        Bottleneck::new(rate, Duration::from_millis(10), buffer, loss, seed + 1, pair.now),
    ];
    let (mut sender, mut receiver) = pair.connect(|pair| travel(pair, &mut path));
    let (chunk, mut bytes) = (vec![7; 64 * 1024], vec![0; 64 * 1024]);
    let (began, mut received) = (pair.now, 0);
    while pair.now - began < duration {
        fill(&mut sender, &chunk);
        travel(&mut pair, &mut path);
        received += drain(&mut receiver, &mut bytes);
    }
    received as f64 * 8e-6 / duration.as_secs_f64()
}

/// Sends what there is, and goes on to the next moment at which something happens.
fn travel(pair: &mut Pair, path: &mut [Bottleneck; 2]) {
    let mut deadline: Option<Instant> = None;
    for (stack, path) in [&pair.a, &pair.b].into_iter().zip(path.iter_mut()) {
        let mut stack = stack.lock();
        stack.poll(pair.now);
        while let Some(packet) = stack.poll_transmit() {
            path.send(pair.now, &packet);
            stack.recycle(packet);
        }
        deadline = [deadline, stack.poll_timeout(), path.next()]
            .into_iter()
            .flatten()
            .min();
    }
    pair.now = deadline.map_or(pair.now, |deadline| deadline.max(pair.now));
    let [there, back] = path;
    there.deliver(&mut pair.b.lock(), pair.now);
    back.deliver(&mut pair.a.lock(), pair.now);
}

/// KiB that each end of an idle connection keeps, by the resident set.
fn idle_connections(count: usize) {
    let mut pair = Pair::new();
    let mut carry = Carry::whole();
    let before = harness::resident_kib();
    let mut kept = Vec::new();
    let (chunk, mut buffer) = (vec![7; 32 * 1024], vec![0; 64 * 1024]);
    for _ in 0..count {
        let (mut sender, mut receiver) = pair.connect(|pair| pair.exchange(&mut carry));
        // Each was used once.
        Pin::new(&mut sender)
            .poll_write(&mut noop(), &chunk)
            .map(|written| written.expect("open"))
            .is_ready()
            .then_some(())
            .expect("room");
        for _ in 0..4 {
            pair.now += Duration::from_millis(1);
            pair.exchange(&mut carry);
            drain(&mut receiver, &mut buffer);
        }
        kept.push((sender, receiver));
    }
    for _ in 0..4 {
        pair.now += Duration::from_secs(20);
        pair.exchange(&mut carry);
    }
    let used = harness::resident_kib().saturating_sub(before);
    say!(
        "{count} idle connections, both ends: {:.1} KiB an end",
        used as f64 / count as f64 / 2.0
    );
}

fn main() {
    let full = std::env::args().any(|argument| argument == "--bench");
    let (run, virtual_time) = if full {
        (Duration::from_secs(3), Duration::from_secs(20))
    } else {
        (Duration::from_millis(50), Duration::from_millis(200))
    };
    in_memory("super-packets, handed over whole", Carry::whole(), run);
    in_memory("super-packets, split and joined between", Carry::joined(), run);
    in_memory("super-packets, split, segments alone", Carry::split(), run);
    say!(
        "\n1 Gbit/s, 20 ms, one stream, {} s, Mbit/s:",
        virtual_time.as_secs_f64()
    );
    for buffer in [20, 5] {
        for loss in [0.0, 0.001, 0.01] {
            let runs: Vec<String> = (0..if full { 3 } else { 1 })
                .map(|seed| over_path(Duration::from_millis(buffer), loss, 1 + 10 * seed, virtual_time))
                .map(|rate| format!("{rate:7.1}"))
                .collect();
            say!("buffer {buffer:2} ms, loss {:4.1} %: {}", loss * 100.0, runs.join(" "));
        }
    }
    say!("");
    idle_connections(if full { 1_000 } else { 10 });
}
