//! [`Relay`]: who is connected, and who of them gets a packet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use sandd_control_client::keys::{NodePrivateKey, NodePublicKey};
use sandd_mesh::derp::{Frame, PeerGoneReason, ServerLogin};

use super::Outbox;

/// Connections with one key at once; the oldest goes.
const MAX_PER_KEY: usize = 4;

#[derive(Debug)]
struct Line {
    number: u64,
    outbox: Arc<Outbox>,
}

/// One member, with all its connections; the last of them gets the packets.
#[derive(Debug, Default)]
struct Client {
    lines: Vec<Line>,
    /// Whom it has sent packets: they are told when it leaves.
    reached: BTreeSet<NodePublicKey>,
}

/// The table of connections.
#[derive(Debug)]
pub(crate) struct Relay {
    login: ServerLogin,
    key: NodePublicKey,
    clients: RwLock<BTreeMap<NodePublicKey, Client>>,
    last_number: AtomicU64,
}

impl Relay {
    pub(crate) fn new(key: NodePrivateKey) -> Self {
        Self {
            key: key.public(),
            login: ServerLogin::new(key),
            clients: RwLock::default(),
            last_number: AtomicU64::new(0),
        }
    }

    pub(crate) fn key(&self) -> NodePublicKey {
        self.key
    }

    pub(super) fn login(&self) -> &ServerLogin {
        &self.login
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<NodePublicKey, Client>> {
        self.clients.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<NodePublicKey, Client>> {
        self.clients.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection of an admitted client; its number.
    pub(super) fn enter(&self, key: NodePublicKey, outbox: Arc<Outbox>) -> u64 {
        let number = self.last_number.fetch_add(1, Ordering::Relaxed) + 1;
        let mut clients = self.write();
        let client = clients.entry(key).or_default();
        if client.lines.len() >= MAX_PER_KEY {
            client.lines.remove(0).outbox.close();
        }
        client.lines.push(Line { number, outbox });
        number
    }

    /// The connection has ended. After a client's last one, those whom it had sent packets are told.
    pub(super) fn leave(&self, key: &NodePublicKey, number: u64) {
        let mut clients = self.write();
        let Some(client) = clients.get_mut(key) else {
            return;
        };
        client.lines.retain(|line| line.number != number);
        if !client.lines.is_empty() {
            return;
        }
        let reached = clients.remove(key).map(|client| client.reached).unwrap_or_default();
        let gone = Frame::PeerGone {
            key: *key,
            reason: PeerGoneReason::Disconnected,
        };
        for other in reached {
            for line in clients.get(&other).into_iter().flat_map(|client| &client.lines) {
                line.outbox.put_frame(&gone);
            }
        }
    }

    /// A connection has sent something: of several, it is the one in use.
    pub(super) fn touch(&self, key: &NodePublicKey, number: u64) {
        let in_use = |client: &Client| client.lines.last().is_some_and(|line| line.number == number);
        if self.read().get(key).is_none_or(in_use) {
            return;
        }
        if let Some(client) = self.write().get_mut(key)
            && let Some(place) = client.lines.iter().position(|line| line.number == number)
        {
            let line = client.lines.remove(place);
            client.lines.push(line);
        }
    }

    /// Where a packet for `key` goes.
    pub(super) fn find(&self, key: &NodePublicKey) -> Option<Arc<Outbox>> {
        let clients = self.read();
        let line = clients.get(key)?.lines.last()?;
        Some(Arc::clone(&line.outbox))
    }

    /// `from` has sent a first packet to `to`.
    pub(super) fn remember(&self, from: &NodePublicKey, to: NodePublicKey) {
        if let Some(client) = self.write().get_mut(from) {
            client.reached.insert(to);
        }
    }

    /// Ends the connections of all clients that are not to stay.
    pub(crate) fn retain(&self, stays: impl Fn(&NodePublicKey) -> bool) {
        let keys: Vec<NodePublicKey> = self.read().keys().copied().collect();
        for key in keys.into_iter().filter(|key| !stays(key)) {
            for line in self.read().get(&key).into_iter().flat_map(|client| &client.lines) {
                line.outbox.close();
            }
        }
    }

    /// Number of members connected.
    pub(crate) fn len(&self) -> usize {
        self.read().len()
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use sandd_mesh::derp::FrameDecoder;

    use super::*;

    fn key(number: u8) -> NodePublicKey {
        NodePublicKey::from_bytes([number; 32])
    }

    fn is_gone_of(outbox: &Outbox, peer: NodePublicKey) -> bool {
        let mut decoder = FrameDecoder::client();
        outbox.take(decoder.buffer(), usize::MAX);
        let frame = decoder.next_frame().unwrap();
        frame.is_some_and(|frame| {
            let expected = Frame::PeerGone {
                key: peer,
                reason: PeerGoneReason::Disconnected,
            };
            frame.parse().unwrap() == Some(expected)
        })
    }

    #[test]
    fn of_several_connections_the_one_that_spoke_last_is_used() {
        let relay = Relay::new(NodePrivateKey::generate());
        let (old, new) = (Arc::new(Outbox::default()), Arc::new(Outbox::default()));
        let first = relay.enter(key(1), Arc::clone(&old));
        let second = relay.enter(key(1), Arc::clone(&new));
        assert!(Arc::ptr_eq(&relay.find(&key(1)).unwrap(), &new));
        relay.touch(&key(1), first);
        assert!(Arc::ptr_eq(&relay.find(&key(1)).unwrap(), &old));
        relay.leave(&key(1), first);
        assert!(Arc::ptr_eq(&relay.find(&key(1)).unwrap(), &new));
        relay.leave(&key(1), second);
        assert!(relay.find(&key(1)).is_none() && relay.len() == 0);
    }

    #[test]
    fn those_who_got_packets_hear_of_the_end_and_nobody_else() {
        let relay = Relay::new(NodePrivateKey::generate());
        let boxes: Vec<Arc<Outbox>> = (0..3).map(|_| Arc::new(Outbox::default())).collect();
        let numbers: Vec<u64> = (0..3u8)
            .map(|i| relay.enter(key(i), Arc::clone(&boxes[usize::from(i)])))
            .collect();
        relay.remember(&key(0), key(1));
        relay.leave(&key(0), numbers[0]);
        assert!(is_gone_of(&boxes[1], key(0)));
        assert!(!is_gone_of(&boxes[2], key(0)));
    }

    #[test]
    fn who_is_no_member_any_longer_is_thrown_off_and_floods_of_connections_end() {
        let relay = Relay::new(NodePrivateKey::generate());
        let boxes: Vec<Arc<Outbox>> = (0..=MAX_PER_KEY).map(|_| Arc::new(Outbox::default())).collect();
        for outbox in &boxes {
            relay.enter(key(1), Arc::clone(outbox));
        }
        let is_open = |outbox: &Outbox| outbox.take(&mut BytesMut::new(), 1);
        assert!(!is_open(&boxes[0]) && is_open(&boxes[1]));
        relay.retain(|_| false);
        assert!(boxes.iter().all(|outbox| !is_open(outbox)));
    }
}
