//! [`Handshake`]: binding to one endpoint, until the peer has answered a ping over it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sandd_control_client::keys::DiscoPublicKey;
use sandd_control_client::netmap::NodeId;

use super::ClientAction;
use crate::disco::{Message, RelayEndpoint, RelayHandshake, TxId};
use crate::peer_relay::Via;

/// It ends after this at the latest, whatever the server allows.
const LIFETIME: Duration = Duration::from_secs(30);
/// Pings of one handshake: those of the peer cause some.
const MAX_PINGS: usize = 10;
/// Pauses before a message is sent again, the last one repeating.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(300),
    Duration::from_millis(700),
    Duration::from_millis(1_500),
    Duration::from_secs(4),
];
/// Requests to bind are sent so often: a server that comes back is found.
const MAX_BINDS: usize = 9;

#[derive(Debug)]
pub(super) struct Handshake {
    pub(super) endpoint: RelayEndpoint,
    /// Who it is, when we have asked it.
    pub(super) server: Option<NodeId>,
    remote: DiscoPublicKey,
    generation: u32,
    ends: Instant,
    next: Instant,
    tries: usize,
    /// Where the first challenge came from, and what it said.
    challenged: Option<(SocketAddr, RelayHandshake)>,
    pings: Vec<(TxId, Instant)>,
}

impl Handshake {
    pub(super) fn new(
        endpoint: RelayEndpoint,
        server: Option<NodeId>,
        remote: DiscoPublicKey,
        generation: u32,
        now: Instant,
    ) -> Self {
        let lifetime = Duration::from_nanos(endpoint.bind_lifetime_ns).min(LIFETIME);
        Self {
            endpoint,
            server,
            remote,
            generation,
            ends: now + lifetime,
            next: now,
            tries: 0,
            challenged: None,
            pings: Vec::new(),
        }
    }

    /// Sends what is due.
    pub(super) fn run(&mut self, new_tx: fn() -> TxId, now: Instant, actions: &mut VecDeque<ClientAction>) {
        if now < self.next {
            return;
        }
        self.next = now + PAUSES[self.tries.min(PAUSES.len() - 1)];
        self.tries += 1;
        if self.challenged.is_some() {
            return self.answer(new_tx, now, actions);
        }
        if self.tries > MAX_BINDS {
            return;
        }
        let told = RelayHandshake {
            vni: self.endpoint.vni,
            generation: self.generation,
            remote: self.remote,
            challenge: [0; 32],
        };
        for addr in &self.endpoint.addresses {
            actions.push_back(self.control(*addr, Message::Bind(told)));
        }
    }

    pub(super) fn handle_challenge(
        &mut self,
        from: SocketAddr,
        told: &RelayHandshake,
        new_tx: fn() -> TxId,
        now: Instant,
        actions: &mut VecDeque<ClientAction>,
    ) {
        // The first one decides which of the server's addresses is used.
        if told.generation != self.generation || told.remote != self.remote || self.challenged.is_some() {
            return;
        }
        self.challenged = Some((from, *told));
        (self.tries, self.next) = (0, now);
        self.run(new_tx, now, actions);
    }

    /// The answer, and a ping behind it that finds out whether the peer is bound, too.
    fn answer(&mut self, new_tx: fn() -> TxId, now: Instant, actions: &mut VecDeque<ClientAction>) {
        if let Some((from, told)) = self.challenged {
            actions.push_back(self.control(from, Message::BindAnswer(told)));
            self.ping_back(new_tx, now, actions);
        }
    }

    /// The peer is there: it answers now.
    pub(super) fn ping_back(&mut self, new_tx: fn() -> TxId, now: Instant, actions: &mut VecDeque<ClientAction>) {
        let Some((addr, _)) = self.challenged else { return };
        if self.pings.len() < MAX_PINGS {
            let tx = new_tx();
            self.pings.push((tx, now));
            actions.push_back(ClientAction::Ping { to: self.via(addr), tx });
        }
    }

    pub(super) fn is_at(&self, via: Via) -> bool {
        self.challenged.is_some_and(|(addr, _)| self.via(addr) == via)
    }

    pub(super) fn rtt_of(&self, tx: &TxId, now: Instant) -> Option<Duration> {
        let ping = self.pings.iter().find(|(known, _)| known == tx);
        ping.map(|(_, sent)| now.saturating_duration_since(*sent))
    }

    /// The server has had time enough for a word.
    pub(super) fn is_unheard(&self) -> bool {
        self.challenged.is_none() && self.tries >= PAUSES.len()
    }

    pub(super) fn has_ended(&self, now: Instant) -> bool {
        now >= self.ends
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        let unheard = self.challenged.is_none() && self.tries >= MAX_BINDS;
        if unheard || self.pings.len() >= MAX_PINGS {
            self.ends
        } else {
            self.next.min(self.ends)
        }
    }

    fn via(&self, addr: SocketAddr) -> Via {
        let vni = self.endpoint.vni;
        Via { addr, vni }
    }

    fn control(&self, addr: SocketAddr, message: Message) -> ClientAction {
        ClientAction::Control {
            server: self.endpoint.server,
            to: self.via(addr),
            message,
        }
    }
}
