//! [`EarlyMap`]: the map asked for while the registration is still being answered.
//!
//! Headscale knows a new node well before it answers the registration, and takes as long again to open a map stream:
//! with its default batching half a second each. So the stream is asked for side by side, seldom until the node is known,
//! and handed over when the registration has succeeded. Its first message counts only from then on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::session::{Connection, MapStream, is_unknown_node};
use crate::announce::Announcement;
use crate::error::ControlError;
use crate::wire::MapRequest;

/// Before the first request. It only has to come in the half second between storing the node and answering, and where
/// answers are quicker than this nothing is gained: Headscale logs each request for an unknown node as an error.
const FIRST_PAUSE: Duration = Duration::from_millis(300);
/// Between two requests while the node is unknown.
const PAUSE: Duration = Duration::from_millis(200);
/// Requests at most.
const ATTEMPTS: u32 = 10;

/// A stream under way. Dropping it gives the stream up.
#[derive(Debug)]
pub(super) struct EarlyMap {
    announcement: Announcement,
    /// A request is out; otherwise the task is in a pause, or has given up.
    asking: Arc<AtomicBool>,
    task: JoinHandle<Result<MapStream, ControlError>>,
}

impl EarlyMap {
    pub(super) fn start(connection: Connection, request: MapRequest, announcement: Announcement) -> Self {
        let asking = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(ask(connection, request, asking.clone()));
        Self {
            announcement,
            asking,
            task,
        }
    }

    /// The stream, and what its request told of this node; nothing when it has to be asked for in the ordinary way. To
    /// be called when the registration has succeeded.
    pub(super) async fn take(mut self) -> Option<(MapStream, Announcement)> {
        if !self.asking.load(Ordering::Acquire) {
            return None;
        }
        let stream = (&mut self.task).await.ok()?.ok()?;
        Some((stream, self.announcement.clone()))
    }
}

impl Drop for EarlyMap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn ask(connection: Connection, request: MapRequest, asking: Arc<AtomicBool>) -> Result<MapStream, ControlError> {
    let mut pause = FIRST_PAUSE;
    for _ in 1..ATTEMPTS {
        tokio::time::sleep(pause).await;
        asking.store(true, Ordering::Release);
        match connection.open_map(&request).await {
            Err(error) if is_unknown_node(&error) => asking.store(false, Ordering::Release),
            other => return other,
        }
        pause = PAUSE;
    }
    Err(ControlError::TimedOut("the registration"))
}
