//! What a node tells its embedder while it runs: [`MeshEvent`], read through [`MeshEvents`].

use std::time::Duration;

use sandd_control_client::keys::NodePublicKey;
use tokio::sync::broadcast;

use crate::status::PeerPath;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum MeshEvent {
    /// A person must open this address to let the node in.
    LoginRequired {
        /// Where to go.
        url: String,
    },
    /// The coordinator's stream stands.
    ControlConnected,
    /// The coordinator cannot be reached; the mesh goes on with what it knows.
    ControlDisconnected {
        /// What happened.
        reason: String,
        /// When it is tried again.
        retry_in: Duration,
    },
    /// A network map was applied.
    NetmapApplied {
        /// Peers in it.
        peers: usize,
        /// It came from the state file.
        cached: bool,
        /// From its arrival until peers, routes and rules followed it.
        took: Duration,
    },
    /// A peer is in the map that was not there before.
    PeerAdded {
        /// Its name.
        name: String,
        /// Its key.
        key: NodePublicKey,
    },
    /// A peer is no longer in the map: its tunnel is gone.
    PeerRemoved {
        /// Its name.
        name: String,
        /// Its key.
        key: NodePublicKey,
    },
    /// A WireGuard session with a peer came up.
    PeerConnected {
        /// Its name.
        name: String,
        /// Its key.
        key: NodePublicKey,
    },
    /// Packets to a peer take another path.
    PathChanged {
        /// Its name.
        name: String,
        /// Its key.
        key: NodePublicKey,
        /// The path now.
        path: PeerPath,
    },
    /// The relay of this node's home region is connected.
    RelayConnected {
        /// Region number.
        region: u16,
    },
    /// The relay of a region was lost; it is dialled again.
    RelayDisconnected {
        /// Region number.
        region: u16,
        /// What happened.
        reason: String,
    },
    /// The node cannot go on without a person: its key was refused, has ended, or the node was removed.
    NeedsAttention {
        /// What happened and what to do.
        reason: String,
    },
    /// The reader was too slow and missed so many events.
    Lagged(
        /// How many.
        u64,
    ),
}

/// The events of a node from the moment this was made.
#[derive(Debug)]
pub struct MeshEvents(broadcast::Receiver<MeshEvent>);

impl MeshEvents {
    pub(crate) const fn new(receiver: broadcast::Receiver<MeshEvent>) -> Self {
        Self(receiver)
    }

    /// The next event, or nothing after the node has stopped.
    ///
    /// # Cancel safety
    /// No event is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<MeshEvent> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(count)) => Some(MeshEvent::Lagged(count)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}
