//! Who is there, pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::identity::Identity;
use crate::wire::ids::DaemonId;
use crate::wire::v1::Metadata;

/// Numbers a connection; later ones are higher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// What the registry knows of one daemon.
#[derive(Debug)]
pub(super) struct Entry<C> {
    pub connection: ConnectionId,
    pub handle: C,
    pub metadata: Metadata,
    pub identity: Identity,
    pub from: SocketAddr,
    pub connected: Instant,
    pub heartbeat: Instant,
}

/// A daemon as callers see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonInfo {
    /// Its id.
    pub id: String,
    /// Host name it reported.
    pub hostname: String,
    /// Operating system it reported.
    pub platform: String,
    /// Architecture it reported.
    pub arch: String,
    /// Version it reported.
    pub version: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// At least one request waits for its answer.
    pub is_busy: bool,
    /// Seconds since it registered.
    pub connected_secs: u64,
    /// Seconds since its last heartbeat.
    pub seconds_since_heartbeat: u64,
    /// Where its connection comes from.
    pub address: SocketAddr,
    /// The mesh node it is bound to, in tunnel mode.
    pub node: Option<String>,
}

/// Numbers over all daemons; the names are those of `GET /stats`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Daemons that are there.
    pub total_daemons: usize,
    /// How many of each platform.
    pub by_platform: BTreeMap<String, usize>,
    /// Age of the oldest connection.
    pub oldest_connection_secs: u64,
    /// Each daemon by id.
    pub daemons: BTreeMap<String, DaemonInfo>,
    /// `open` (nobody proves anything), or `mesh`.
    pub authentication: String,
    /// Answers that nobody waited for, or that came from a daemon that was not asked.
    pub stray_answers: u64,
}

/// Daemons by id; `C` is the handle of a connection.
#[derive(Debug)]
pub(super) struct Registry<C> {
    entries: BTreeMap<DaemonId, Entry<C>>,
}

impl<C> Registry<C> {
    pub(super) fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
        }
    }

    /// Enters a daemon and gives back the entry it replaces.
    pub(super) fn insert(&mut self, id: DaemonId, entry: Entry<C>) -> Option<Entry<C>> {
        self.entries.insert(id, entry)
    }

    /// Removes the entry, but only if it is that connection's own (D13).
    pub(super) fn remove(&mut self, id: &DaemonId, connection: ConnectionId) -> Option<Entry<C>> {
        if self.entries.get(id)?.connection != connection {
            return None;
        }
        self.entries.remove(id)
    }

    /// Refreshes the time of the last heartbeat; `false` when the entry is not that connection's.
    pub(super) fn heartbeat(&mut self, id: &DaemonId, connection: ConnectionId, now: Instant) -> bool {
        match self.entries.get_mut(id) {
            Some(entry) if entry.connection == connection => {
                entry.heartbeat = now;
                true
            }
            _ => false,
        }
    }

    pub(super) fn get(&self, id: &str) -> Option<&Entry<C>> {
        self.entries.get(id)
    }

    /// Ids of the daemons that have all of `labels`, in order.
    pub(super) fn matching(&self, labels: &BTreeMap<String, String>) -> Vec<DaemonId> {
        self.matches(labels).map(|(id, _)| id.clone()).collect()
    }

    fn matches<'a>(
        &'a self,
        labels: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = (&'a DaemonId, &'a Entry<C>)> {
        let fits = |entry: &Entry<C>| {
            labels
                .iter()
                .all(|(key, value)| entry.metadata.labels.get(key) == Some(value))
        };
        self.entries.iter().filter(move |(_, entry)| fits(entry))
    }

    /// The daemons that have all of `labels`, as callers see them.
    pub(super) fn list(
        &self,
        labels: &BTreeMap<String, String>,
        is_busy: impl Fn(ConnectionId) -> bool,
        now: Instant,
    ) -> Vec<DaemonInfo> {
        self.matches(labels)
            .map(|(id, entry)| entry.info(id, is_busy(entry.connection), now))
            .collect()
    }
}

impl<C> Entry<C> {
    pub(super) fn info(&self, id: &DaemonId, is_busy: bool, now: Instant) -> DaemonInfo {
        DaemonInfo {
            id: id.as_str().to_owned(),
            hostname: self.metadata.hostname.clone(),
            platform: self.metadata.platform.clone(),
            arch: self.metadata.arch.clone(),
            version: self.metadata.version.clone(),
            labels: self.metadata.labels.clone(),
            is_busy,
            connected_secs: now.saturating_duration_since(self.connected).as_secs(),
            seconds_since_heartbeat: now.saturating_duration_since(self.heartbeat).as_secs(),
            address: self.from,
            node: self.identity.node_name(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn entry(connection: u64, labels: &[(&str, &str)], now: Instant) -> Entry<()> {
        Entry {
            connection: ConnectionId(connection),
            handle: (),
            metadata: Metadata {
                hostname: "h".into(),
                platform: "linux".into(),
                arch: "x86_64".into(),
                version: "1".into(),
                labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            },
            identity: Identity::Unproven { instance: None },
            from: "127.0.0.1:1".parse().unwrap(),
            connected: now,
            heartbeat: now,
        }
    }

    fn id(text: &str) -> DaemonId {
        DaemonId::from_peer(text).unwrap()
    }

    #[test]
    fn the_end_of_an_old_connection_leaves_the_new_entry() {
        let now = Instant::now();
        let mut registry = Registry::new();
        assert!(registry.insert(id("a"), entry(1, &[], now)).is_none());
        let replaced = registry.insert(id("a"), entry(2, &[], now)).unwrap();
        assert_eq!(replaced.connection, ConnectionId(1));
        assert!(registry.remove(&id("a"), ConnectionId(1)).is_none());
        assert!(!registry.heartbeat(&id("a"), ConnectionId(1), now));
        assert!(registry.heartbeat(&id("a"), ConnectionId(2), now));
        assert!(registry.remove(&id("a"), ConnectionId(2)).is_some());
        assert!(registry.matching(&BTreeMap::new()).is_empty());
    }

    #[test]
    fn labels_select_by_and() {
        let now = Instant::now();
        let mut registry = Registry::new();
        registry.insert(id("b"), entry(1, &[("pool", "gpu"), ("zone", "b")], now));
        registry.insert(id("a"), entry(2, &[("pool", "gpu")], now));
        registry.insert(id("c"), entry(3, &[], now));
        let select = |pairs: &[(&str, &str)]| {
            let labels = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            registry
                .matching(&labels)
                .iter()
                .map(|id| id.as_str().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(select(&[]), ["a", "b", "c"]);
        assert_eq!(select(&[("pool", "gpu")]), ["a", "b"]);
        assert_eq!(select(&[("pool", "gpu"), ("zone", "b")]), ["b"]);
        assert!(select(&[("zone", "x")]).is_empty());
    }

    #[test]
    fn ages_are_told_in_whole_seconds() {
        let now = Instant::now();
        let mut registry = Registry::new();
        registry.insert(id("a"), entry(1, &[], now));
        let later = now + Duration::from_millis(2900);
        let info = &registry.list(&BTreeMap::new(), |_| true, later)[0];
        assert_eq!(
            (info.connected_secs, info.seconds_since_heartbeat, info.is_busy),
            (2, 2, true)
        );
    }
}
