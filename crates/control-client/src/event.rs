//! [`ControlEvent`]: what the client tells its embedder, and the bounded queue it waits in.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::error::ControlError;
use crate::keys::NodePrivateKey;
use crate::netmap::NetmapUpdate;

/// Something the embedder must know.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ControlEvent {
    /// The network map is another one now.
    Netmap(NetmapUpdate),
    /// The node key is another one now: WireGuard and DERP must use it from here on.
    NodeKey(NodePrivateKey),
    /// The relation to the coordinator changed.
    State(ControlState),
}

/// The relation to the coordinator.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ControlState {
    /// Dialling, or registering.
    Connecting,
    /// A person must open this URL; the client waits and goes on by itself.
    LoginRequired {
        /// Where to go.
        url: String,
    },
    /// The coordinator knows this node's key now.
    Registered,
    /// The map stream runs and its first message was applied.
    Connected,
    /// No connection; it is tried again.
    Disconnected {
        /// Why.
        error: Arc<ControlError>,
        /// When it is tried again.
        retry_in: Duration,
    },
    /// It is not tried again until somebody acts: a key refused, a node removed.
    Stopped {
        /// Why.
        error: Arc<ControlError>,
    },
    /// Logged out as asked.
    LoggedOut,
}

/// States wait here at most; beyond it the oldest is of no interest any more.
const MAX_WAITING: usize = 64;

/// Events that the embedder has not taken yet. Maps that follow one another become one.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: VecDeque<ControlEvent>,
}

impl Outbox {
    pub(crate) fn push(&mut self, event: ControlEvent) {
        if let (Some(ControlEvent::Netmap(last)), ControlEvent::Netmap(update)) = (self.waiting.back_mut(), &event) {
            let delta = std::mem::take(&mut last.delta).then(update.delta.clone());
            *last = NetmapUpdate {
                map: update.map.clone(),
                delta,
                cached: update.cached,
            };
            return;
        }
        if self.waiting.len() >= MAX_WAITING {
            let oldest_state = self
                .waiting
                .iter()
                .position(|event| matches!(event, ControlEvent::State(_)));
            if let Some(index) = oldest_state {
                self.waiting.remove(index);
            }
        }
        self.waiting.push_back(event);
    }

    pub(crate) fn pop(&mut self) -> Option<ControlEvent> {
        self.waiting.pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netmap::{NetmapDelta, NetworkMap, NodeId};

    fn map(id: i64, cached: bool) -> ControlEvent {
        let delta = NetmapDelta {
            upserted: vec![NodeId(id)],
            ..NetmapDelta::default()
        };
        ControlEvent::Netmap(NetmapUpdate {
            map: Arc::new(NetworkMap::default()),
            delta,
            cached,
        })
    }

    #[test]
    fn maps_in_a_row_become_one_and_states_are_bounded() {
        let mut outbox = Outbox::default();
        outbox.push(map(1, true));
        outbox.push(map(2, false));
        outbox.push(ControlEvent::State(ControlState::Connected));
        outbox.push(map(3, false));
        let Some(ControlEvent::Netmap(first)) = outbox.pop() else {
            panic!("a map")
        };
        assert_eq!(
            (first.delta.upserted, first.cached),
            (vec![NodeId(1), NodeId(2)], false)
        );
        assert!(matches!(outbox.pop(), Some(ControlEvent::State(_))));
        for _ in 0..1000 {
            outbox.push(ControlEvent::State(ControlState::Connecting));
        }
        assert!(matches!(outbox.pop(), Some(ControlEvent::Netmap(_))));
        assert!(outbox.waiting.len() <= MAX_WAITING);
    }
}
