//! What all connections of a controller share, behind one short lock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::{mpsc, oneshot, watch};

use super::identity::IdentityRule;
use super::limits::Limits;
use super::pending::Pending;
use super::registry::{ConnectionId, DaemonInfo, Entry, Registry, Stats};
use crate::transport::websocket::Outbox;
use crate::wire::ids::DaemonId;
use crate::wire::v1::Message;

/// What another task may ask of a connection.
#[derive(Debug)]
pub(super) enum Control {
    /// Tell when the next frame comes; a ping asks for one.
    Probe(oneshot::Sender<()>),
    /// Close it, its id has a newer connection.
    Replaced,
}

/// How a connection is reached.
#[derive(Debug, Clone)]
pub(super) struct Handle {
    pub outbox: Outbox,
    pub control: mpsc::Sender<Control>,
}

/// Who waits for an answer: the answer itself, or why there is none.
pub(super) type Waiter = oneshot::Sender<Result<Message, String>>;

#[derive(Debug)]
pub(super) struct State {
    pub registry: Registry<Handle>,
    pub pending: Pending<Waiter>,
    pub limits: Limits,
    next_connection: u64,
    connections: usize,
    authentication: &'static str,
}

#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    pub identity: Arc<dyn IdentityRule>,
    /// Counts changes of the registry.
    pub changes: watch::Sender<u64>,
    pub stop: watch::Sender<bool>,
}

impl Shared {
    pub(super) fn new(identity: Arc<dyn IdentityRule>) -> Self {
        let authentication = if identity.is_open() { "open" } else { "mesh" };
        let state = State {
            registry: Registry::new(),
            pending: Pending::new(),
            limits: Limits::default(),
            next_connection: 0,
            connections: 0,
            authentication,
        };
        Self {
            state: Mutex::new(state),
            identity,
            changes: watch::channel(0).0,
            stop: watch::channel(false).0,
        }
    }

    /// Looks at the state or changes it; never held over a wait.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Removes the entry of that connection, if it is still its own, and wakes everybody who waits on it.
    pub(super) fn remove(&self, id: &DaemonId, connection: ConnectionId, why: &str) -> bool {
        let (removed, waiters) = self.with(|state| {
            (
                state.registry.remove(id, connection).is_some(),
                state.pending.drain(connection),
            )
        });
        for waiter in waiters {
            let _ = waiter.send(Err(why.to_owned()));
        }
        self.changed();
        removed
    }
}

impl State {
    pub(super) fn open_connection(&mut self) -> ConnectionId {
        self.next_connection += 1;
        self.connections += 1;
        ConnectionId(self.next_connection)
    }

    pub(super) fn close_connection(&mut self) {
        self.connections = self.connections.saturating_sub(1);
    }

    pub(super) fn connection_count(&self) -> usize {
        self.connections
    }

    pub(super) fn insert(&mut self, id: DaemonId, entry: Entry<Handle>) -> Option<Entry<Handle>> {
        self.registry.insert(id, entry)
    }

    pub(super) fn daemons(&self, labels: &BTreeMap<String, String>, now: Instant) -> Vec<DaemonInfo> {
        self.registry
            .list(labels, |connection| self.pending.is_busy(connection), now)
    }

    pub(super) fn daemon(&self, id: &str, now: Instant) -> Option<DaemonInfo> {
        let entry = self.registry.get(id)?;
        let id = DaemonId::from_peer(id).ok()?;
        Some(entry.info(&id, self.pending.is_busy(entry.connection), now))
    }

    pub(super) fn stats(&self, now: Instant) -> Stats {
        let daemons = self.daemons(&BTreeMap::new(), now);
        let mut by_platform = BTreeMap::new();
        for daemon in &daemons {
            *by_platform.entry(daemon.platform.clone()).or_default() += 1;
        }
        Stats {
            total_daemons: daemons.len(),
            by_platform,
            oldest_connection_secs: daemons.iter().map(|daemon| daemon.connected_secs).max().unwrap_or(0),
            daemons: daemons.into_iter().map(|daemon| (daemon.id.clone(), daemon)).collect(),
            authentication: self.authentication.to_owned(),
            stray_answers: self.pending.strays(),
        }
    }
}
