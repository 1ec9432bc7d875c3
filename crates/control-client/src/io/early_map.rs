//! [`EarlyMap`]: the map asked for while the registration is still being answered.
//!
//! Headscale knows a new node well before it answers the registration, and takes as long again to open a map stream:
//! with its default batching half a second each. So the stream is asked for side by side, politely until the node is
//! known, and handed over when the registration has succeeded. Its first message counts only from then on.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::session::{Connection, MapStream, is_unknown_node};
use crate::announce::Announcement;
use crate::error::ControlError;
use crate::wire::MapRequest;

/// Between two requests while the node is unknown.
const PAUSE: Duration = Duration::from_millis(40);
/// Pauses grow to this; a coordinator that takes long has other worries.
const MAX_PAUSE: Duration = Duration::from_millis(160);
/// Requests at most.
const ATTEMPTS: u32 = 24;

/// A stream under way. Dropping it gives the stream up.
#[derive(Debug)]
pub(super) struct EarlyMap {
    announcement: Announcement,
    task: JoinHandle<Result<MapStream, ControlError>>,
}

impl EarlyMap {
    pub(super) fn start(connection: Connection, request: MapRequest, announcement: Announcement) -> Self {
        Self {
            announcement,
            task: tokio::spawn(ask(connection, request)),
        }
    }

    /// The stream, and what its request told of this node.
    pub(super) async fn take(mut self) -> Result<(MapStream, Announcement), ControlError> {
        let stream = (&mut self.task).await.map_err(|_| ControlError::Stopped)??;
        Ok((stream, self.announcement.clone()))
    }
}

impl Drop for EarlyMap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn ask(connection: Connection, request: MapRequest) -> Result<MapStream, ControlError> {
    let mut pause = PAUSE;
    for _ in 1..ATTEMPTS {
        tokio::time::sleep(pause).await;
        match connection.open_map(&request).await {
            Err(error) if is_unknown_node(&error) => pause = (pause + pause / 4).min(MAX_PAUSE),
            other => return other,
        }
    }
    connection.open_map(&request).await
}
