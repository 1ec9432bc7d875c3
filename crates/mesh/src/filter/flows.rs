//! [`Flows`]: what left lately, so that its answers may come in. Bounded; the oldest goes out first.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// One direction of a flow as we send it. For echo the source port is the identifier and the destination port 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Flow {
    pub(super) protocol: u8,
    pub(super) local: (IpAddr, u16),
    pub(super) remote: (IpAddr, u16),
}

/// An entry is moved to the young end at most this often, so that a busy flow costs one look-up a packet.
const RENEW_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Flows {
    capacity: usize,
    lifetime: Duration,
    entries: HashMap<Flow, (u64, Instant)>,
    by_age: BTreeMap<u64, Flow>,
    next: u64,
}

impl Flows {
    pub(super) fn new(capacity: usize, lifetime: Duration) -> Self {
        Self {
            capacity,
            lifetime,
            entries: HashMap::new(),
            by_age: BTreeMap::new(),
            next: 0,
        }
    }

    /// Notes a packet that leaves.
    pub(super) fn note(&mut self, flow: Flow, now: Instant) {
        if let Some((order, seen)) = self.entries.get_mut(&flow) {
            if now.saturating_duration_since(*seen) < RENEW_AFTER {
                return;
            }
            self.by_age.remove(order);
            *seen = now;
            *order = self.next;
        } else {
            if self.entries.len() >= self.capacity
                && let Some((_, oldest)) = self.by_age.pop_first()
            {
                self.entries.remove(&oldest);
            }
            self.entries.insert(flow, (self.next, now));
        }
        self.by_age.insert(self.next, flow);
        self.next += 1;
    }

    /// True when an answer to this flow may come in.
    pub(super) fn knows(&self, flow: &Flow, now: Instant) -> bool {
        self.entries
            .get(flow)
            .is_some_and(|(_, seen)| now.saturating_duration_since(*seen) < self.lifetime)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
