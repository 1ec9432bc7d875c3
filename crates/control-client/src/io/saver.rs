//! [`Saver`]: writes state in order and off the client's task, so that a slow disk delays nothing but what must wait.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::key_store::{NodeState, StateStore, StoreError};
use crate::netmap::{NetworkMap, to_wire};

/// Far more than is ever waiting: states change when a person acts, maps are saved every few seconds.
const QUEUE: usize = 64;

enum Job {
    State(Box<NodeState>),
    Netmap(Option<Arc<NetworkMap>>),
    Flush(oneshot::Sender<Result<(), StoreError>>),
}

/// Handle of the writing task.
#[derive(Debug)]
pub(super) struct Saver {
    jobs: mpsc::Sender<Job>,
    task: JoinHandle<()>,
}

impl Saver {
    pub(super) fn start(store: Arc<dyn StateStore>) -> Self {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let task = tokio::task::spawn_blocking(move || write_all(&*store, queue));
        Self { jobs, task }
    }

    pub(super) fn save(&self, state: &NodeState) {
        self.queue(Job::State(Box::new(state.clone())));
    }

    /// Keeps the map, or forgets it.
    pub(super) fn save_netmap(&self, map: Option<Arc<NetworkMap>>) {
        self.queue(Job::Netmap(map));
    }

    /// Waits until everything queued before is written; the first error of the identity since the last call.
    pub(super) fn flush(&self) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let (reply, written) = oneshot::channel();
        self.queue(Job::Flush(reply));
        async move { written.await.unwrap_or(Ok(())) }
    }

    /// Waits for what is queued and ends.
    pub(super) async fn finish(self) {
        drop(self.jobs);
        // A panic of the store is its own; there is nothing to be saved any more.
        let _ = self.task.await;
    }

    fn queue(&self, job: Job) {
        if self.jobs.try_send(job).is_err() {
            tracing::error!("state cannot be saved: the disk does not keep up");
        }
    }
}

fn write_all(store: &dyn StateStore, mut queue: mpsc::Receiver<Job>) {
    let mut failed = None;
    while let Some(job) = queue.blocking_recv() {
        match job {
            Job::State(state) => {
                if let Err(error) = store.save(&state) {
                    tracing::error!(%error, "node state cannot be saved");
                    failed.get_or_insert(error);
                }
            }
            Job::Netmap(map) => {
                let json = map.and_then(|map| serde_json::to_vec(&to_wire(&map)?).ok());
                // The map is a convenience: without it the next start waits for the coordinator.
                if let Err(error) = store.save_netmap(json.as_deref()) {
                    tracing::warn!(%error, "network map cannot be saved");
                }
            }
            Job::Flush(reply) => {
                let _ = reply.send(failed.take().map_or(Ok(()), Err));
            }
        }
    }
}
