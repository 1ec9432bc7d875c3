//! [`RelayHost`]: the sockets of this node's relay server, on a thread of their own.
//!
//! Packets of other pairs pass here from one buffer to the next and never meet the engine: a busy relay takes nothing from
//! the node's own traffic. The engine says who may have an endpoint, the driver fetches it with [`RelayHost::allocate`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sandd_control_client::keys::{DiscoPrivateKey, DiscoPublicKey};
use tokio::sync::{Notify, oneshot};

use super::udp::UdpSockets;
use crate::disco::{GeneveHeader, RelayEndpoint};
use crate::engine::{Run, SendQueue, Underlay, new_tx};
use crate::path::agent::TxId;
use crate::peer_relay::geneve_run;
use crate::peer_relay::server::{Limits, RelayServer};
use crate::status::PeerRelayStatus;
use crate::stun;

/// Addresses are looked at and the NAT's mapping is kept so often.
const INTERVAL: Duration = Duration::from_secs(25);
/// A mapped address counts for so long after it was last seen.
const MAPPING_LIFETIME: Duration = Duration::from_secs(80);
/// Answers of STUN servers count for so long.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// STUN servers asked.
const MAX_STUN: usize = 8;
/// Receives before others are looked after.
const RECEIVES: usize = 16;

/// See the module's text. Its thread ends with it.
#[derive(Debug)]
pub(crate) struct RelayHost {
    shared: Arc<Shared>,
    port: u16,
    _stop: oneshot::Sender<()>,
}

#[derive(Debug)]
struct Shared {
    server: Mutex<RelayServer>,
    network: Mutex<Network>,
    changed: Notify,
}

/// What the node knows of its surroundings.
#[derive(Debug, Default)]
struct Network {
    stun: Vec<SocketAddr>,
    interfaces: BTreeSet<IpAddr>,
}

impl RelayHost {
    /// Opens the sockets on this port, or on any free one for 0, and starts to serve.
    pub(crate) fn start(port: u16) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let udp = match open(&runtime, port) {
            Ok(udp) => udp,
            Err(error) => {
                // Whoever calls may be asynchronous, and must not wait for a runtime's end.
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let port = udp.port();
        let server = RelayServer::new(DiscoPrivateKey::generate(), Limits::default(), Instant::now());
        let shared = Arc::new(Shared {
            server: Mutex::new(server),
            network: Mutex::default(),
            changed: Notify::new(),
        });
        let (stop, stopped) = oneshot::channel();
        let forwarder = Forwarder::new(Arc::clone(&shared), udp);
        std::thread::Builder::new()
            .name("sandd-relay".to_owned())
            .spawn(move || runtime.block_on(forwarder.run(stopped)))?;
        Ok(Self {
            shared,
            port,
            _stop: stop,
        })
    }

    /// Servers that tell our public address.
    pub(crate) fn set_stun_servers(&self, servers: impl Iterator<Item = SocketAddr>) {
        held(&self.shared.network).stun = servers.take(MAX_STUN).collect();
        self.shared.changed.notify_one();
    }

    /// Addresses of this host on its networks.
    pub(crate) fn set_interfaces(&self, addresses: &BTreeSet<IpAddr>) {
        let mut network = held(&self.shared.network);
        if network.interfaces != *addresses {
            network.interfaces.clone_from(addresses);
            self.shared.changed.notify_one();
        }
    }

    /// See [`RelayServer::allocate`].
    pub(crate) fn allocate(
        &self,
        asking: DiscoPublicKey,
        clients: [DiscoPublicKey; 2],
        now: Instant,
    ) -> Option<RelayEndpoint> {
        held(&self.shared.server).allocate(asking, clients, now)
    }

    /// What it does at present.
    pub(crate) fn status(&self) -> PeerRelayStatus {
        let server = held(&self.shared.server);
        let (endpoints, bound) = server.endpoints();
        let counts = server.counts();
        PeerRelayStatus {
            port: self.port,
            addresses: server.addresses().to_vec(),
            endpoints,
            bound,
            packets: counts.packets,
            bytes: counts.bytes,
            dropped: counts.dropped,
        }
    }
}

fn open(runtime: &tokio::runtime::Runtime, port: u16) -> io::Result<UdpSockets> {
    let _runtime = runtime.enter();
    let udp = UdpSockets::bind(port)?;
    if port != 0 && udp.port() != port {
        return Err(io::Error::from(io::ErrorKind::AddrInUse));
    }
    Ok(udp)
}

/// What is behind the lock, also after a panic of the other thread: the relay goes on.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Forwarder {
    shared: Arc<Shared>,
    udp: UdpSockets,
    queue: SendQueue,
    blocked: bool,
    next: Instant,
    asked: HashMap<TxId, Instant>,
    mapped: BTreeMap<SocketAddr, Instant>,
}

impl Forwarder {
    fn new(shared: Arc<Shared>, udp: UdpSockets) -> Self {
        Self {
            shared,
            udp,
            queue: SendQueue::default(),
            blocked: false,
            next: Instant::now(),
            asked: HashMap::new(),
            mapped: BTreeMap::new(),
        }
    }

    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let shared = Arc::clone(&self.shared);
        loop {
            let now = Instant::now();
            if now >= self.next {
                self.look_around(now);
            }
            let busy = self.turn(now);
            let blocked = self.blocked;
            tokio::select! {
                biased;
                _ = &mut stopped => return,
                () = shared.changed.notified() => self.next = now,
                // Lets the runtime look at the sockets again.
                () = tokio::task::yield_now(), if busy => {}
                _ = self.udp.readable(), if !busy && !blocked => {}
                _ = self.udp.writable(), if blocked => {}
                () = tokio::time::sleep_until(self.next.into()), if !busy => {}
            }
        }
    }

    /// Forwards what is there. A full send buffer stops the reading. True when there may be more.
    fn turn(&mut self, now: Instant) -> bool {
        self.send();
        for _ in 0..RECEIVES {
            if self.blocked {
                return false;
            }
            let more = self.receive(now);
            self.send();
            if !more {
                return false;
            }
        }
        !self.blocked
    }

    fn receive(&mut self, now: Instant) -> bool {
        let Self {
            shared,
            udp,
            queue,
            asked,
            mapped,
            ..
        } = self;
        let mut news = false;
        let any = {
            let mut server = held(&shared.server);
            udp.receive(|from, ecn, buffer, len, stride| {
                let mut rest = &buffer[..len];
                while !rest.is_empty() {
                    let first = &rest[..stride.min(rest.len())];
                    let run = geneve_run(from, rest, stride);
                    let len = run.as_ref().map_or(first.len(), |run| run.len);
                    let (these, others) = rest.split_at(len);
                    rest = others;
                    if stun::looks_like(first) {
                        let answer = stun::parse_response(first).filter(|(tx, _)| asked.remove(tx).is_some());
                        news |= answer.is_some_and(|(_, seen)| mapped.insert(seen, now).is_none());
                    } else if let Some(run) = run {
                        serve(&mut server, queue, from, ecn, &run, these, stride, now);
                    }
                }
            })
        };
        if news {
            self.publish();
        }
        any
    }

    fn send(&mut self) {
        self.blocked = false;
        while let Some(batch) = self.queue.front() {
            let Underlay::Udp(to) = batch.to() else {
                self.queue.pop();
                continue;
            };
            match self.udp.try_send(to, batch) {
                Ok(true) => self.queue.pop(),
                Ok(false) => {
                    self.blocked = true;
                    return;
                }
                Err(error) => {
                    tracing::trace!(%error, %to, "a relayed packet was not sent");
                    self.queue.pop();
                }
            }
        }
    }

    /// Asks STUN servers again and forgets what has ended.
    fn look_around(&mut self, now: Instant) {
        self.next = now + INTERVAL;
        held(&self.shared.server).sweep(now);
        self.mapped
            .retain(|_, seen| now.saturating_duration_since(*seen) < MAPPING_LIFETIME);
        self.asked
            .retain(|_, at| now.saturating_duration_since(*at) < ANSWER_WITHIN);
        for server in held(&self.shared.network).stun.iter() {
            let tx = new_tx();
            self.asked.insert(tx, now);
            self.queue.push(Underlay::Udp(*server), &stun::binding_request(&tx));
        }
        self.publish();
    }

    /// The addresses that clients are told: as others see us, then as we see ourselves.
    fn publish(&self) {
        let interfaces = held(&self.shared.network).interfaces.clone();
        let port_of = |ip: IpAddr| {
            if ip.is_ipv4() {
                Some(self.udp.port())
            } else {
                self.udp.port_v6()
            }
        };
        let mut addresses: Vec<SocketAddr> = self.mapped.keys().copied().collect();
        // Whoever chose the port may have let it through the NAT by hand.
        let public = self.mapped.keys().map(SocketAddr::ip);
        for ip in public.chain(interfaces) {
            let addr = port_of(ip).map(|port| SocketAddr::new(ip, port));
            addresses.extend(addr.filter(|addr| !addresses.contains(addr)));
        }
        held(&self.shared.server).set_addresses(addresses);
    }
}

/// Puts what is to be sent for packets of one Geneve header into the queue.
#[expect(clippy::too_many_arguments, reason = "a run of datagrams is what it is")]
fn serve(
    server: &mut RelayServer,
    queue: &mut SendQueue,
    from: SocketAddr,
    ecn: u8,
    run: &crate::peer_relay::GeneveRun,
    datagrams: &[u8],
    stride: usize,
    now: Instant,
) {
    let vni = run.via.vni;
    if run.control {
        for packet in datagrams.chunks(stride) {
            if let Some(reply) = server.handle_control(from, vni, &packet[GeneveHeader::LEN..], now) {
                queue.push(Underlay::Udp(from), &reply);
            }
        }
        return;
    }
    let count = datagrams.len().div_ceil(stride);
    let Some(to) = server.forward(from, vni, count, datagrams.len(), now) else {
        return;
    };
    let last = datagrams.len() - (count - 1) * stride;
    let mut rest = datagrams;
    let mut left = count;
    while left > 0 {
        let (slots, taken) = queue.reserve(&Run {
            to: Underlay::Udp(to),
            ecn,
            stride: if left == 1 { last } else { stride },
            count: left,
            last,
        });
        let (these, others) = rest.split_at(slots.len());
        slots.copy_from_slice(these);
        (rest, left) = (others, left - taken);
    }
}

impl std::fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forwarder")
            .field("udp", &self.udp)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
