//! [`NetMonitor`]: tells the driver when the network under the node has become another one.
//!
//! ```text
//! kernel: link, address, route ──▶ Pace ──▶ read addresses and uplinks ──▶ other than before? ──▶ Change ──▶ driver
//! clocks: the process or the machine slept ─────────────────────────────────────────────────────▶ Change
//! ```
//!
//! The kernel's messages are only a reason to look: what counts is what is found then, so a lost message, a doubled one
//! or one of a kind that we do not know cannot mislead. Where the system tells nothing (`netmon/system_other.rs`), it is
//! looked at every ten seconds.

mod addresses;
mod pace;
mod sleep;
#[cfg_attr(target_os = "linux", path = "netmon/system_linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "netmon/system_other.rs")]
mod system;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use pace::Pace;
use sleep::SleepWatch;

/// Between two looks where the kernel tells no news.
const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// The way out of one family: where a packet for an address far away would go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Uplink {
    /// Index of the interface.
    pub(crate) interface: u32,
    /// The router, where there is one in between.
    pub(crate) gateway: Option<IpAddr>,
    /// Our own address there.
    pub(crate) source: Option<IpAddr>,
}

/// The network under the node, as far as it matters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Network {
    /// Addresses that peers may reach us at.
    pub(crate) addresses: BTreeSet<IpAddr>,
    pub(crate) v4: Option<Uplink>,
    pub(crate) v6: Option<Uplink>,
}

impl Network {
    fn read(own_device: Option<u32>, mesh: &[IpAddr]) -> Self {
        let uplink = |v4| system::uplink(v4).filter(|uplink| Some(uplink.interface) != own_device);
        Self {
            addresses: addresses::read(mesh),
            v4: uplink(true),
            v6: uplink(false),
        }
    }

    fn change_since(&self, before: &Self) -> Option<Change> {
        let gone = |ip: IpAddr| before.addresses.contains(&ip) && !self.addresses.contains(&ip);
        // A route may stay though the link it leads to is down; then the address there has gone.
        let replaced =
            |old: Option<Uplink>, new| old.is_some_and(|uplink| Some(uplink) != new || uplink.source.is_some_and(gone));
        if self == before {
            None
        } else if replaced(before.v4, self.v4) || replaced(before.v6, self.v6) {
            Some(Change::Moved)
        } else if before.addresses.is_subset(&self.addresses) {
            Some(Change::Gained)
        } else {
            Some(Change::Lost)
        }
    }
}

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// There is more than before: an address, a second family.
    Gained,
    /// An address is gone, the ways out are the same: a path may have ended there.
    Lost,
    /// A way out is gone or replaced: no path is sure, and no connection.
    Moved,
    /// The process or the machine stood still for so long.
    Slept(Duration),
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct NetMonitor {
    watch: Option<system::Watch>,
    own_device: Option<u32>,
    network: Network,
    pace: Pace,
    sleep: SleepWatch,
    next_poll: Instant,
}

impl NetMonitor {
    /// Reads the network and begins to watch it, leaving out the interface of this index: the node's own device.
    /// To be called in the runtime that is to wait for news.
    pub(crate) fn start(own_device: Option<u32>, now: Instant) -> Self {
        let watch = system::Watch::open(own_device)
            .inspect_err(|error| tracing::info!(%error, "the system tells no network changes: it is asked every 10 s"))
            .ok();
        Self {
            watch,
            own_device,
            network: Network::read(own_device, &[]),
            pace: Pace::default(),
            sleep: SleepWatch::new(now, system::clock_lag()),
            next_poll: now + POLL_INTERVAL,
        }
    }

    /// As it was read last.
    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    /// Waits for the kernel to say that something may have changed. While news already wait to be looked into, nothing
    /// further is taken, so a flood of them costs nothing.
    ///
    /// # Cancel safety
    /// News taken are noted before this returns.
    pub(crate) async fn news(&mut self) {
        match &mut self.watch {
            Some(watch) if !self.pace.is_waiting() => {
                watch.news().await;
                self.pace.note(Instant::now());
            }
            Some(_) | None => std::future::pending().await,
        }
    }

    /// The driver is going to sleep until then at the latest.
    pub(crate) fn note_deadline(&mut self, deadline: Instant) {
        self.sleep.note_deadline(deadline);
    }

    /// When [`Self::poll`] is wanted next.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let poll = self.watch.is_none().then_some(self.next_poll);
        [poll, self.pace.poll_timeout()].into_iter().flatten().min()
    }

    /// Looks when it is time to, and says what has changed. `mesh` are our addresses inside the mesh.
    pub(crate) fn poll(&mut self, mesh: &[IpAddr], now: Instant) -> Option<Change> {
        if let Some(slept) = self.sleep.poll(now, system::clock_lag) {
            self.look(mesh, now);
            return Some(Change::Slept(slept));
        }
        if self.watch.is_none() && now >= self.next_poll {
            self.pace.note(now);
        }
        if self.pace.take_due(now) {
            return self.look(mesh, now);
        }
        None
    }

    /// Reads the network now.
    pub(crate) fn look(&mut self, mesh: &[IpAddr], now: Instant) -> Option<Change> {
        self.next_poll = now + POLL_INTERVAL;
        // What is told from here on is news again.
        if let Some(watch) = &mut self.watch {
            watch.drain();
        }
        let network = Network::read(self.own_device, mesh);
        let change = network.change_since(&self.network)?;
        tracing::debug!(?network, "the network is another one");
        self.network = network;
        Some(change)
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;
