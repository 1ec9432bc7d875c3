//! [`Store`]: where membership outlives the process, in memory (it does not) or in one SQLite file.
//!
//! Changes gather in one place, newest per record, and a thread of its own writes all of them in one transaction. Who
//! must not go on before his change is safe waits for it ([`Store::flush`]); everybody else does not. When writing
//! fails, what was not written stays, and nobody is told that it is safe (S-10).

mod sqlite;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use sandd_control_client::keys::{MachinePrivateKey, NodePrivateKey};
use tokio::sync::oneshot;

use super::tls::SelfMade;
use crate::error::StoreError;
use crate::membership::{KeyId, NodeId, Saved, Unsaved, UserId};
use sqlite::Database;

/// Pause before writing is tried again when nobody waits for it.
const RETRY: Duration = Duration::from_secs(1);

/// What makes this coordinator itself.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// Its key in ts2021.
    pub(crate) noise: MachinePrivateKey,
    /// Its key as a relay. Another one, so that neither protocol can be turned against the other.
    pub(crate) relay: NodePrivateKey,
}

impl Identity {
    pub(crate) fn generate() -> Self {
        Self {
            noise: MachinePrivateKey::generate(),
            relay: NodePrivateKey::generate(),
        }
    }
}

/// Everything that a state brings back.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) identity: Identity,
    pub(crate) certificate: Option<SelfMade>,
    pub(crate) policy: Option<String>,
    pub(crate) saved: Saved,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Policy,
    Certificate,
    User(UserId),
    AuthKey(KeyId),
    Node(NodeId),
}

#[derive(Debug, Clone)]
enum Change {
    Record(Unsaved),
    Policy(Option<String>),
    Certificate(SelfMade),
}

#[derive(Debug, Default)]
struct Queue {
    changes: BTreeMap<Slot, Change>,
    waiting: Vec<oneshot::Sender<Result<(), String>>>,
    stopping: bool,
    failing: Option<String>,
}

#[derive(Debug, Default)]
struct Desk {
    queue: Mutex<Queue>,
    bell: Condvar,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state's writer.
#[derive(Debug)]
pub(crate) struct Store {
    /// None = memory.
    desk: Option<Arc<Desk>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Store {
    /// Nothing outlives the process.
    pub(crate) fn memory() -> (Self, Loaded) {
        let store = Self {
            desk: None,
            thread: Mutex::default(),
        };
        let loaded = Loaded {
            identity: Identity::generate(),
            certificate: None,
            policy: None,
            saved: Saved::default(),
        };
        (store, loaded)
    }

    /// Opens or makes a state file, for this process alone.
    pub(crate) fn open(path: &Path) -> Result<(Self, Loaded), StoreError> {
        let (mut database, loaded) = Database::open(path)?;
        let desk = Arc::new(Desk::default());
        let work = Arc::clone(&desk);
        let thread = std::thread::Builder::new()
            .name("coordinator-store".to_owned())
            .spawn(move || write_until_stopped(&work, &mut database))
            .map_err(|source| StoreError::Open {
                path: path.to_owned(),
                source,
            })?;
        let store = Self {
            desk: Some(desk),
            thread: Mutex::new(Some(thread)),
        };
        Ok((store, loaded))
    }

    fn put(&self, changes: impl IntoIterator<Item = (Slot, Change)>) {
        let Some(desk) = &self.desk else {
            return;
        };
        let mut queue = desk.lock();
        queue.changes.extend(changes);
        drop(queue);
        desk.bell.notify_one();
    }

    /// Takes over changes; they are written soon.
    pub(crate) fn save(&self, unsaved: Vec<Unsaved>) {
        if !unsaved.is_empty() {
            self.put(
                unsaved
                    .into_iter()
                    .map(|change| (slot_of(&change), Change::Record(change))),
            );
        }
    }

    pub(crate) fn save_policy(&self, text: Option<&str>) {
        self.put([(Slot::Policy, Change::Policy(text.map(str::to_owned)))]);
    }

    pub(crate) fn save_certificate(&self, certificate: &SelfMade) {
        self.put([(Slot::Certificate, Change::Certificate(certificate.clone()))]);
    }

    /// Waits until everything taken over so far is on the disk.
    pub(crate) async fn flush(&self) -> Result<(), StoreError> {
        let Some(desk) = &self.desk else {
            return Ok(());
        };
        let receiver = {
            let mut queue = desk.lock();
            if queue.stopping {
                return Err(StoreError::Stopped);
            }
            let (sender, receiver) = oneshot::channel();
            queue.waiting.push(sender);
            receiver
        };
        desk.bell.notify_one();
        match receiver.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(reason)) => Err(StoreError::Write { reason }),
            Err(_) => Err(StoreError::Stopped),
        }
    }

    /// Why writing fails at the moment, if it does.
    pub(crate) fn failing(&self) -> Option<String> {
        self.desk.as_ref().and_then(|desk| desk.lock().failing.clone())
    }

    /// Writes what is left and closes the file.
    pub(crate) fn close(&self) {
        if let Some(desk) = &self.desk {
            desk.lock().stopping = true;
            desk.bell.notify_one();
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the store's thread ended by a panic");
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

fn slot_of(change: &Unsaved) -> Slot {
    match change {
        Unsaved::User(user) => Slot::User(user.id),
        Unsaved::Key(key) => Slot::AuthKey(key.id),
        Unsaved::Node(node) => Slot::Node(node.id),
        Unsaved::NodeGone(id) => Slot::Node(*id),
    }
}

fn write_until_stopped(desk: &Desk, database: &mut Database) {
    loop {
        let mut queue = desk.lock();
        while queue.changes.is_empty() && queue.waiting.is_empty() && !queue.stopping {
            queue = desk.bell.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let changes = std::mem::take(&mut queue.changes);
        let waiting = std::mem::take(&mut queue.waiting);
        let stopping = queue.stopping;
        drop(queue);
        let outcome = if changes.is_empty() {
            Ok(())
        } else {
            database.write(changes.values()).map_err(|error| error.to_string())
        };
        if let Err(reason) = &outcome {
            tracing::error!(reason, "cannot write the state file");
            let mut queue = desk.lock();
            for (key, change) in changes {
                queue.changes.entry(key).or_insert(change);
            }
        }
        desk.lock().failing = outcome.as_ref().err().cloned();
        for waiter in waiting {
            // A waiter that has gone away needs no answer.
            let _ = waiter.send(outcome.clone());
        }
        if stopping {
            return;
        }
        if outcome.is_err() {
            let queue = desk.lock();
            let ready = desk
                .bell
                .wait_timeout_while(queue, RETRY, |queue| queue.waiting.is_empty() && !queue.stopping);
            drop(ready);
        }
    }
}
