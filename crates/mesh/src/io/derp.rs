//! [`DerpPool`]: connections to relays, one task for each region in use.
//!
//! ```text
//! driver ── runs ──▶ SendQueue (bounded, oldest dropped) ──▶ region task ──▶ relay
//! driver ◀── DerpEvent, runs (bounded, packets dropped) ◀── region task ◀── relay
//! ```
//!
//! A region is connected when it is the home or something is sent there; the home stays, others close after a quiet
//! minute. A region task reads its socket whatever the driver does, since servers cut off clients that do not. What
//! waits for a connection waits in the queue. The wire is the pure `derp` module's; the rules are those of stock clients
//! except where docs/PROTOCOLS.md says otherwise.

mod backoff;
mod connect;
mod connection;
mod error;
mod inbox;
mod limit;
mod memory;
mod queue;
mod region;
mod target;
mod websocket;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sandd_control_client::ControlUrl;
use sandd_control_client::dial::Dialer;
use sandd_control_client::keys::{NodePrivateKey, NodePublicKey};
use sandd_control_client::netmap::{DerpMap, DerpRegion, RegionId};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::derp::PeerGoneReason;
pub use inbox::RelayPackets;
use memory::Memory;
use region::{Link, RegionTask, Shared};
pub(crate) use target::{Target, targets};

/// Slots of the event channel that packets leave free, so that news about connections always find room.
const RESERVED_EVENTS: usize = 16;

/// What happened at a relay.
#[derive(Debug)]
#[non_exhaustive]
pub enum DerpEvent {
    /// The relay admitted us.
    Connected {
        /// Where.
        region: RegionId,
    },
    /// The connection ended, or the first attempt of a series failed; it is tried again while it is wanted.
    Disconnected {
        /// Where.
        region: RegionId,
        /// What happened, in words.
        error: String,
    },
    /// Packets of one sender. The relay vouches for `src` with its word alone.
    Packets {
        /// Where.
        region: RegionId,
        /// Who sent it, as the relay says.
        src: NodePublicKey,
        /// The packets, in order.
        packets: RelayPackets,
    },
    /// A peer cannot be reached there.
    PeerGone {
        /// Where.
        region: RegionId,
        /// Which peer.
        key: NodePublicKey,
        /// Why.
        reason: PeerGoneReason,
    },
}

/// Packets that found no room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DerpDrops {
    /// Of ours: the relay took them too slowly.
    pub sent: u64,
    /// Of peers: this node took them too slowly.
    pub received: u64,
}

#[derive(Debug, Default)]
struct DropCounters {
    sent: AtomicU64,
    received: AtomicU64,
}

#[derive(Debug)]
struct Region {
    definition: Arc<DerpRegion>,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// See the module's text.
#[derive(Debug)]
pub struct DerpPool {
    key: NodePrivateKey,
    dialer: Dialer,
    control: ControlUrl,
    events: mpsc::Sender<DerpEvent>,
    drops: Arc<DropCounters>,
    memory: Arc<Memory>,
    map: Arc<DerpMap>,
    home: Option<RegionId>,
    regions: BTreeMap<RegionId, Region>,
    runtime: tokio::runtime::Handle,
}

impl DerpPool {
    /// A pool without relays. Its tasks run on the tokio runtime of whoever calls this.
    #[must_use]
    pub fn new(node_key: NodePrivateKey, dialer: Dialer, control: ControlUrl, events: mpsc::Sender<DerpEvent>) -> Self {
        Self {
            key: node_key,
            dialer,
            control,
            events,
            drops: Arc::default(),
            memory: Arc::default(),
            map: Arc::default(),
            home: None,
            regions: BTreeMap::new(),
            runtime: tokio::runtime::Handle::current(),
        }
    }

    /// The relays there are. Connections to regions that changed are closed; the home is opened anew.
    pub fn set_map(&mut self, map: Arc<DerpMap>) {
        self.map = map;
        let changed: Vec<_> = self
            .regions
            .iter()
            .filter(|(id, region)| self.map.regions.get(id) != Some(&region.definition))
            .map(|(id, _)| *id)
            .collect();
        for id in changed {
            self.close(id, "the coordinator changed this relay");
        }
        self.open_home();
    }

    /// The region where peers find us. The relays are told at once.
    pub fn set_home(&mut self, home: Option<RegionId>) {
        if self.home == home {
            return;
        }
        self.home = home;
        for (id, region) in &self.regions {
            region.shared.set_home(Some(*id) == home);
        }
        self.open_home();
    }

    /// The key was replaced: every connection is logged in anew.
    pub fn set_node_key(&mut self, key: NodePrivateKey) {
        self.key = key;
        let open: Vec<_> = self.regions.keys().copied().collect();
        for id in open {
            self.close(id, "the node key was replaced");
        }
        self.open_home();
    }

    /// Queues a packet for a peer, connecting first if need be. False when there is no such relay or the packet is too
    /// long for one; true does not mean that it will arrive.
    pub fn send(&mut self, region: RegionId, dst: &NodePublicKey, packet: &[u8]) -> bool {
        self.send_slots(region, dst, packet, packet.len()) == 1
    }

    /// Queues packets of `stride` bytes each for a peer, the last may be shorter, as [`Self::send`] does for one: never
    /// waiting, whatever the relay does. How many the queue took.
    pub fn send_slots(&mut self, region: RegionId, dst: &NodePublicKey, packets: &[u8], stride: usize) -> usize {
        self.ensure(region)
            .map_or(0, |shared| shared.queue.push(dst, packets, stride))
    }

    /// True while the relay of this region has us logged in.
    #[must_use]
    pub fn is_connected(&self, region: RegionId) -> bool {
        self.regions
            .get(&region)
            .is_some_and(|region| region.shared.is_connected())
    }

    /// How long the last login there took, from the first packet to the relay's word.
    #[must_use]
    pub fn connect_time(&self, region: RegionId) -> Option<Duration> {
        self.regions
            .get(&region)
            .and_then(|region| region.shared.connect_time())
    }

    /// What is wrong at this region's relay, in words: why it is not connected, or what it says of itself.
    #[must_use]
    pub fn trouble(&self, region: RegionId) -> Option<String> {
        self.regions.get(&region).and_then(|region| region.shared.trouble())
    }

    /// The coordinator that named these relays.
    #[must_use]
    pub fn control(&self) -> &ControlUrl {
        &self.control
    }

    /// What the relays are dialled with.
    #[must_use]
    pub fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// Keys of relay servers from an earlier run, by host and port: the first login is as short as any.
    pub fn set_server_keys(&mut self, keys: BTreeMap<String, NodePublicKey>) {
        self.memory.load(keys);
    }

    /// The keys of relay servers that are known, for the next run.
    #[must_use]
    pub fn server_keys(&self) -> BTreeMap<String, NodePublicKey> {
        self.memory.keys()
    }

    /// Packets dropped so far.
    #[must_use]
    pub fn drops(&self) -> DerpDrops {
        DerpDrops {
            sent: self.drops.sent.load(Ordering::Relaxed),
            received: self.drops.received.load(Ordering::Relaxed),
        }
    }

    /// The network changed or a path fell silent: connections prove themselves now, and waiting ones try at once.
    pub fn probe(&self) {
        for region in self.regions.values() {
            region.shared.probe();
        }
    }

    /// Closes everything.
    pub async fn shutdown(&mut self) {
        self.home = None;
        for (_, region) in std::mem::take(&mut self.regions) {
            region.task.abort();
            let _ = region.task.await;
        }
    }

    fn open_home(&mut self) {
        if let Some(home) = self.home {
            self.ensure(home);
        }
    }

    fn ensure(&mut self, id: RegionId) -> Option<&Arc<Shared>> {
        if !self.regions.contains_key(&id) {
            let definition = Arc::clone(self.map.regions.get(&id)?);
            let shared = Arc::new(Shared::new(self.home == Some(id), Arc::clone(&self.drops)));
            let link = Link {
                key: self.key.clone(),
                dialer: self.dialer.clone(),
                targets: targets(&definition, &self.control),
                memory: Arc::clone(&self.memory),
                events: self.events.clone(),
            };
            // Ends when the pool drops or closes the region.
            let task = self.runtime.spawn(RegionTask::new(id, link, Arc::clone(&shared)).run());
            self.regions.insert(
                id,
                Region {
                    definition,
                    shared,
                    task,
                },
            );
        }
        self.regions.get(&id).map(|region| &region.shared)
    }

    fn close(&mut self, id: RegionId, why: &str) {
        let Some(region) = self.regions.remove(&id) else { return };
        region.task.abort();
        if region.shared.is_connected() {
            let _ = self.events.try_send(DerpEvent::Disconnected {
                region: id,
                error: why.to_owned(),
            });
        }
    }
}

impl Drop for DerpPool {
    fn drop(&mut self) {
        for region in self.regions.values() {
            region.task.abort();
        }
    }
}

#[cfg(test)]
mod tests;
