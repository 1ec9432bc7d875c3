//! [`Relays`]: the DERP model. A connection carries everything once and in order while it stands; what is on its way when
//! it breaks is lost. A client that is not there is reported to the sender, as real relays do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use sandd_control_client::keys::NodePublicKey;
use sandd_control_client::netmap::RegionId;

/// Datagrams that wait at a client for its connection.
const WAITING: usize = 64;

/// What a client of a region believes of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkState {
    Connecting,
    Up,
}

/// One client's connection to one region.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) state: LinkState,
    /// Tells one connection from the one before.
    pub(super) generation: u64,
    /// The server has it, too: false from the moment that it breaks.
    pub(super) alive: bool,
    pub(super) tries: u32,
    pub(super) waiting: VecDeque<(NodePublicKey, Vec<u8>)>,
    upward: Option<Instant>,
    downward: Option<Instant>,
}

impl Link {
    /// When something that would arrive at `at` does so behind what went before.
    pub(super) fn in_order(&mut self, up: bool, at: Instant) -> Instant {
        let last = if up { &mut self.upward } else { &mut self.downward };
        let at = last.map_or(at, |last| last.max(at));
        *last = Some(at);
        at
    }

    pub(super) fn wait(&mut self, key: NodePublicKey, datagram: Vec<u8>) {
        if self.waiting.len() >= WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back((key, datagram));
    }
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Relays {
    /// Regions whose servers are away.
    pub(super) down: BTreeSet<RegionId>,
    /// Hosts that reach no relay.
    pub(super) unreachable: BTreeSet<usize>,
    links: BTreeMap<(usize, RegionId), Link>,
    generations: u64,
}

impl Relays {
    pub(super) fn link(&mut self, host: usize, region: RegionId) -> Option<&mut Link> {
        self.links.get_mut(&(host, region))
    }

    /// Begins to connect; nothing when that is so already.
    pub(super) fn begin(&mut self, host: usize, region: RegionId) -> Option<u64> {
        if self.links.contains_key(&(host, region)) {
            return None;
        }
        self.generations += 1;
        let link = Link {
            state: LinkState::Connecting,
            generation: self.generations,
            alive: false,
            tries: 0,
            waiting: VecDeque::new(),
            upward: None,
            downward: None,
        };
        self.links.insert((host, region), link);
        Some(self.generations)
    }

    pub(super) fn forget(&mut self, host: usize, region: RegionId) {
        self.links.remove(&(host, region));
    }

    pub(super) fn regions_of(&self, host: usize) -> Vec<RegionId> {
        self.links
            .keys()
            .filter(|(owner, _)| *owner == host)
            .map(|(_, region)| *region)
            .collect()
    }

    pub(super) fn reachable(&self, host: usize, region: RegionId) -> bool {
        !self.down.contains(&region) && !self.unreachable.contains(&host)
    }

    /// The server can hand something to this host.
    pub(super) fn serves(&self, host: usize, region: RegionId) -> bool {
        self.reachable(host, region) && self.links.get(&(host, region)).is_some_and(|link| link.alive)
    }

    /// Connections of hosts that reach no relay or whose region is away break: those that did, by their owners.
    pub(super) fn break_links(&mut self) -> Vec<(usize, RegionId, u64)> {
        let (down, unreachable) = (&self.down, &self.unreachable);
        let mut broken = Vec::new();
        for ((host, region), link) in &mut self.links {
            if link.alive && (down.contains(region) || unreachable.contains(host)) {
                link.alive = false;
                broken.push((*host, *region, link.generation));
            }
        }
        broken
    }
}
