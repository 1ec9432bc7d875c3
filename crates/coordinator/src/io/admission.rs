//! Who may hold a connection before anything is known of him: so many in all, so many per address (S-31).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::limits::Limits;

#[derive(Debug, Default)]
struct Counts {
    strangers: usize,
    by_address: BTreeMap<IpAddr, usize>,
    connections: usize,
}

/// Counts strangers and connections.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    counts: Arc<Mutex<Counts>>,
    limits: Limits,
}

/// A connection's place. It begins as a stranger's.
#[derive(Debug)]
pub(crate) struct Place {
    counts: Arc<Mutex<Counts>>,
    stranger: Mutex<Option<IpAddr>>,
}

impl Admission {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            counts: Arc::default(),
            limits,
        }
    }

    /// A place for a new connection; none when there are too many.
    pub(crate) fn enter(&self, address: IpAddr) -> Option<Place> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let here = counts.by_address.get(&address).copied().unwrap_or(0);
        let limits = &self.limits;
        if counts.strangers >= limits.strangers
            || here >= limits.strangers_per_address
            || counts.connections >= limits.connections
        {
            return None;
        }
        counts.strangers += 1;
        counts.connections += 1;
        *counts.by_address.entry(address).or_default() += 1;
        Some(Place {
            counts: Arc::clone(&self.counts),
            stranger: Mutex::new(Some(address)),
        })
    }
}

impl Place {
    /// The client has proved to be a member: it no longer counts as a stranger.
    pub(crate) fn is_member(&self) {
        let address = self.stranger.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(address) = address else {
            return;
        };
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.strangers = counts.strangers.saturating_sub(1);
        if let Some(here) = counts.by_address.get_mut(&address) {
            *here = here.saturating_sub(1);
            if *here == 0 {
                counts.by_address.remove(&address);
            }
        }
    }

    pub(crate) fn is_stranger(&self) -> bool {
        self.stranger.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.is_member();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.connections = counts.connections.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_all_places_and_members_make_room() {
        let limits = Limits::default();
        let admission = Admission::new(limits);
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let places: Vec<Place> = std::iter::from_fn(|| admission.enter(address)).collect();
        assert_eq!(places.len(), limits.strangers_per_address);
        let other = admission.enter("192.0.2.2".parse().unwrap());
        assert!(other.is_some());
        places[0].is_member();
        assert!(!places[0].is_stranger());
        let next = admission.enter(address);
        assert!(next.is_some() && admission.enter(address).is_none());
        drop(places);
        assert!(admission.enter(address).is_some());
        drop((next, other));
        assert!(admission.counts.lock().unwrap().by_address.is_empty());
    }
}
