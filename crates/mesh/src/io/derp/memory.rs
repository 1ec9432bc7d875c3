//! [`Memory`]: what is remembered of relay servers between connections, and of their keys between runs.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sandd_control_client::keys::NodePublicKey;

/// Servers that are remembered; relay maps name fewer.
const MAX_SERVERS: usize = 512;

/// What is known of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// Its key, from a login that worked.
    Key(NodePublicKey),
    /// A fast start was refused: its key must have changed.
    StaleKey,
    /// A fast start with this key was not answered: the long way has to show whether that was its fault.
    Stalled(NodePublicKey),
    /// The long way works and a fast start does not: something in between waits for HTTP.
    NoFastStart,
    /// Something in between lets WebSockets pass, and DERP's own upgrade not.
    WebSocket,
}

/// See the module's text. Servers go by host and port.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<BTreeMap<String, Known>>);

impl Memory {
    /// Keys of an earlier run.
    pub(super) fn load(&self, keys: BTreeMap<String, NodePublicKey>) {
        let keys = keys.into_iter().take(MAX_SERVERS);
        self.known().extend(keys.map(|(server, key)| (server, Known::Key(key))));
    }

    /// Keys for the next run: of servers where they are of use.
    pub(super) fn keys(&self) -> BTreeMap<String, NodePublicKey> {
        let known = self.known();
        let keys = known.iter().filter_map(|(server, known)| match known {
            Known::Key(key) | Known::Stalled(key) => Some((server.clone(), *key)),
            Known::StaleKey | Known::NoFastStart | Known::WebSocket => None,
        });
        keys.collect()
    }

    pub(super) fn of(&self, server: &str) -> Option<Known> {
        self.known().get(server).copied()
    }

    /// A login worked.
    pub(super) fn admitted(&self, server: &str, key: NodePublicKey) {
        let learnt = match self.of(server) {
            Some(Known::Stalled(_) | Known::NoFastStart) => Known::NoFastStart,
            Some(Known::WebSocket) => Known::WebSocket,
            Some(Known::Key(_) | Known::StaleKey) | None => Known::Key(key),
        };
        self.note(server, learnt);
    }

    /// A fast start with this key came to nothing: no answer, or a refusal.
    pub(super) fn fast_start_failed(&self, server: &str, key: Option<NodePublicKey>, unanswered: bool) {
        let learnt = match key {
            Some(key) if unanswered => Known::Stalled(key),
            Some(_) | None => Known::StaleKey,
        };
        self.note(server, learnt);
    }

    /// Only a WebSocket comes through.
    pub(super) fn needs_websocket(&self, server: &str) {
        self.note(server, Known::WebSocket);
    }

    /// It cannot be reached at all: whatever stalled a fast start, or made a WebSocket necessary, may have been that.
    pub(super) fn unreachable(&self, server: &str) {
        let mut known = self.known();
        match known.get(server).copied() {
            Some(Known::Stalled(key)) => {
                known.insert(server.to_owned(), Known::Key(key));
            }
            Some(Known::WebSocket) => {
                known.remove(server);
            }
            Some(Known::Key(_) | Known::StaleKey | Known::NoFastStart) | None => {}
        }
    }

    fn note(&self, server: &str, learnt: Known) {
        let mut known = self.known();
        if known.len() >= MAX_SERVERS && !known.contains_key(server) {
            known.pop_first();
        }
        known.insert(server.to_owned(), learnt);
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        // Whole after every statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> NodePublicKey {
        NodePublicKey::from_bytes([byte; 32])
    }

    #[test]
    fn keys_come_back_in_the_next_run() {
        let memory = Memory::default();
        memory.admitted("a:443", key(1));
        memory.admitted("a:443", key(2));
        let again = Memory::default();
        again.load(memory.keys());
        assert_eq!(again.of("a:443"), Some(Known::Key(key(2))));
    }

    #[test]
    fn a_stalled_fast_start_is_believed_once_the_long_way_works() {
        let memory = Memory::default();
        memory.admitted("a:443", key(1));
        memory.fast_start_failed("a:443", Some(key(1)), true);
        memory.unreachable("a:443");
        assert_eq!(memory.of("a:443"), Some(Known::Key(key(1))), "it was the network");
        memory.fast_start_failed("a:443", Some(key(1)), true);
        memory.admitted("a:443", key(1));
        memory.admitted("a:443", key(1));
        assert_eq!(memory.of("a:443"), Some(Known::NoFastStart));
        assert!(memory.keys().is_empty(), "the next run does not stall");
    }

    #[test]
    fn a_refused_key_is_replaced() {
        let memory = Memory::default();
        memory.admitted("a:443", key(1));
        memory.fast_start_failed("a:443", Some(key(1)), false);
        assert!(memory.keys().is_empty());
        memory.admitted("a:443", key(2));
        assert_eq!(memory.of("a:443"), Some(Known::Key(key(2))));
    }

    #[test]
    fn a_websocket_is_kept_to_while_it_works() {
        let memory = Memory::default();
        memory.needs_websocket("a:443");
        memory.admitted("a:443", key(1));
        assert_eq!(memory.of("a:443"), Some(Known::WebSocket));
        memory.unreachable("a:443");
        assert_eq!(memory.of("a:443"), None);
    }

    #[test]
    fn it_is_bounded() {
        let memory = Memory::default();
        for number in 0..2 * MAX_SERVERS {
            memory.admitted(&number.to_string(), key(1));
        }
        assert_eq!(memory.keys().len(), MAX_SERVERS);
    }
}
