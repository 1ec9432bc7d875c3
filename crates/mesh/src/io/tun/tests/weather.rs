//! The kernel's TCP and ours over a line that loses, doubles and reorders packets both ways.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep_until;

use super::{INSIDE, in_a_namespace, ip, read_all, streams};
use crate::io::or_never::or_never;
use crate::io::tun::{TunConfig, TunDevice};
use crate::netstack::{SharedStack, StackConfig};
use crate::packet::PacketBuf;
use crate::packet::join::Joiner;
use crate::packet::vnet::VnetHeader;

/// A seed of an earlier run, to have its weather again.
const SEED: &str = "SANDD_TEST_SEED";
const LEN: usize = 4 << 20;
/// Of a thousand packets, so many are lost, so many come twice, and so many are overtaken by later ones.
const LOST: u64 = 10;
const DOUBLED: u64 = 10;
const LATE: u64 = 20;
const DELAY: Duration = Duration::from_millis(2);
const LATENESS: Duration = Duration::from_millis(3);

#[test]
fn the_kernel_and_our_stack_get_along_in_bad_weather() {
    in_a_namespace("io::tun::tests::weather::inside_in_bad_weather");
}

/// Does nothing unless the test above starts it.
#[test]
fn inside_in_bad_weather() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    let seed = std::env::var(SEED).map_or_else(
        |_| {
            let mut seed = [0; 8];
            getrandom::fill(&mut seed).unwrap();
            u64::from_le_bytes(seed)
        },
        |seed| seed.parse().unwrap(),
    );
    eprintln!("{SEED}={seed}");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(120), story(seed))
            .await
            .unwrap()
    });
}

async fn story(seed: u64) {
    let tun = Arc::new(TunDevice::open(&TunConfig::new("sandd-w0", 1280)).unwrap());
    let (ours4, ours6) = (ip("100.64.0.1"), ip("fd7a:115c:a1e0::1"));
    tun.set_addresses(&[ours4, ours6]).await.unwrap();
    let routes = ["100.64.0.0/10", "fd7a:115c:a1e0::/48"].map(|prefix| prefix.parse().unwrap());
    tun.set_routes(&routes).await.unwrap();
    let counts = Arc::<[AtomicU64; 3]>::default();
    let (theirs4, theirs6) = (ip("100.64.0.2"), ip("fd7a:115c:a1e0::2"));
    let sky = Sky {
        random: seed,
        flying: BTreeMap::new(),
        number: 0,
        counts: Arc::clone(&counts),
    };
    let peer = peer_below(sky, tun, &[theirs4, theirs6]);
    streams(&peer, ours4, theirs4, LEN).await;
    streams(&peer, ours6, theirs6, LEN).await;
    let [lost, doubled, late] = [0, 1, 2].map(|at| counts[at].load(Ordering::Relaxed));
    eprintln!("{lost} lost, {doubled} doubled, {late} late");
    assert!(lost > 100 && doubled > 100 && late > 200);
}

#[derive(Debug, Clone, Copy)]
enum To {
    Kernel,
    Ours,
}

struct Sky {
    random: u64,
    flying: BTreeMap<(Instant, u64), (To, PacketBuf)>,
    number: u64,
    counts: Arc<[AtomicU64; 3]>,
}

impl Sky {
    /// True so many times of a thousand (SplitMix64).
    fn happens(&mut self, often: u64) -> bool {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % 1000 < often
    }

    fn count(&self, which: usize) {
        self.counts[which].fetch_add(1, Ordering::Relaxed);
    }

    fn launch(&mut self, to: To, packet: PacketBuf, now: Instant) {
        if self.happens(LOST) {
            return self.count(0);
        }
        if self.happens(DOUBLED) {
            self.count(1);
            self.fly(to, packet.clone(), now);
        }
        self.fly(to, packet, now);
    }

    fn fly(&mut self, to: To, packet: PacketBuf, now: Instant) {
        let mut at = now + DELAY;
        if self.happens(LATE) {
            self.count(2);
            at += LATENESS;
        }
        self.number += 1;
        self.flying.insert((at, self.number), (to, packet));
    }

    fn landed(&mut self, now: Instant) -> Option<(To, PacketBuf)> {
        let first = self.flying.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    fn next(&self) -> Option<Instant> {
        self.flying.keys().next().map(|(at, _)| *at)
    }
}

/// A stack of ours on the other end of the device, driven by a task.
fn peer_below(mut sky: Sky, tun: Arc<TunDevice>, addresses: &[IpAddr]) -> SharedStack {
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
                let now = Instant::now();
                let mut stack = shared.lock();
                for packet in read_all(&tun, &mut buffer) {
                    sky.launch(To::Ours, packet, now);
                }
                let mut sink = |joined: &mut [u8]| tun.send_super(joined).unwrap();
                while let Some((to, packet)) = sky.landed(now) {
                    match to {
                        To::Kernel => joiner.push(&packet, &mut sink),
                        To::Ours => stack.handle_packet(&packet, false, now),
                    }
                }
                joiner.flush(&mut sink);
                stack.poll(now);
                while let Some(packet) = stack.poll_transmit() {
                    sky.launch(To::Kernel, packet, now);
                }
                [stack.poll_timeout(), sky.next()].into_iter().flatten().min()
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
