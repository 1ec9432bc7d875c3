//! Port guessing: a direct path where one NAT gives every destination another port ("hard") and the other does not.
//!
//! The side behind the hard NAT opens many sockets towards the one address of the other and so many ports on its NAT;
//! the other sends pings to ports drawn at random. With 256 sockets and 1,024 pings one meets an open port in 98 of 100
//! tries (the birthday paradox); the socket it arrives at carries that peer from then on. It looks like a scan, so it
//! is done between nodes of ours that both allow it, over their authenticated relay path, at 200 pings a second and
//! once in ten minutes for a peer, and only after the ordinary way has failed. Where it stands on a packet's way:
//! beside disco; the sockets are the shell's (`io/guess.rs`).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use sandd_control_client::netmap::NodeId;

use super::{Engine, Output, Underlay, new_tx};
use crate::disco::{self, Features, Message, Nat};
use crate::path::agent::Route;
use crate::path::candidate::is_private;

/// Pings of one attempt.
const GUESSES: usize = 1_024;
/// Sent together, and the pause between: 200 a second.
const BURST: usize = 10;
const PAUSE: Duration = Duration::from_millis(50);
/// After the last ping.
const LINGER: Duration = Duration::from_secs(2);
/// Ports a NAT may give.
const PORTS: std::ops::RangeInclusive<u16> = 1_024..=u16::MAX;
/// Between two attempts for one peer.
const REST: Duration = Duration::from_secs(600);
/// The open sockets wait for so long: all pings and some patience.
const OPEN_FOR: Duration = Duration::from_secs(9);
/// Peers whose ports we guess at the same time.
const MAX_PROBING: usize = 4;

/// What the shell is to open: sockets that each send this datagram there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenGuess {
    pub(crate) to: SocketAddr,
    pub(crate) datagram: Vec<u8>,
}

/// Ports of a peer that are being tried.
#[derive(Debug)]
struct Probing {
    peer: NodeId,
    ip: Ipv4Addr,
    ports: Vec<u16>,
    next: Instant,
}

/// Our sockets wait for a ping of this peer.
#[derive(Debug)]
struct Opening {
    peer: NodeId,
    to: SocketAddr,
    until: Instant,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Guessing {
    pub(super) allowed: bool,
    pub(super) nat: Nat,
    probing: Vec<Probing>,
    opening: Option<Opening>,
    /// When an attempt was made last: by our sockets, and by our pings.
    opened_for: BTreeMap<NodeId, Instant>,
    probed_for: BTreeMap<NodeId, Instant>,
}

impl Guessing {
    pub(super) fn new() -> Self {
        Self {
            allowed: true,
            nat: Nat::Unknown,
            probing: Vec::new(),
            opening: None,
            opened_for: BTreeMap::new(),
            probed_for: BTreeMap::new(),
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let opening = self.opening.as_ref().map(|opening| opening.until);
        self.probing.iter().map(|probing| probing.next).chain(opening).min()
    }
}

/// Notes an attempt; false when the last one is too near.
fn rested(attempts: &mut BTreeMap<NodeId, Instant>, peer: NodeId, now: Instant) -> bool {
    attempts.retain(|_, at| now.saturating_duration_since(*at) < REST);
    if attempts.contains_key(&peer) {
        return false;
    }
    attempts.insert(peer, now);
    true
}

impl Engine {
    /// Whether this node takes part; it does unless told otherwise.
    pub(crate) fn set_port_guessing(&mut self, allowed: bool) {
        self.guessing.allowed = allowed;
    }

    /// What the NAT in front of us does, once known.
    pub(crate) fn set_nat(&mut self, nat: Nat) {
        self.guessing.nat = nat;
    }

    /// Our network is another one: attempts made in the old one do not count.
    pub(crate) fn forget_guesses(&mut self) {
        self.guessing.opened_for.clear();
    }

    /// What peers are told of this node.
    pub(super) fn features(&self) -> Features {
        Features::current(self.guessing.nat, self.guessing.allowed)
    }

    /// The ordinary ways to a peer have failed so far: it is asked what it is, and its ports may be worth guessing.
    pub(super) fn stuck(&mut self, id: NodeId, now: Instant) {
        if let Some(relay) = self.relay_of(id) {
            let question = self.disco_ping(new_tx());
            self.send_disco(id, relay, &question);
        }
        self.open_guess(id, now);
    }

    fn open_guess(&mut self, id: NodeId, now: Instant) {
        if !self.guessing.allowed || self.guessing.nat == Nat::Easy || self.guessing.opening.is_some() {
            return;
        }
        let Some(peer) = self.peers.get(&id) else { return };
        let theirs = peer
            .features
            .filter(|theirs| theirs.guesses() && theirs.nat() != Nat::Hard);
        let (Some(_), Some(to), Some(public)) = (theirs, peer.path.public_v4(), self.public_v4()) else {
            return;
        };
        // One NAT in front of both: what leaves it does not come back to it.
        if to.ip() == IpAddr::V4(public) {
            return;
        }
        let Some(relay) = self.relay_of(id) else { return };
        if !rested(&mut self.guessing.opened_for, id, now) {
            return;
        }
        let ping = self.disco_ping(new_tx());
        let sender = self.disco_public;
        let Some(sealed) = self.disco_box(id) else { return };
        let datagram = sealed.seal(&sender, &ping);
        let until = now + OPEN_FOR;
        self.guessing.opening = Some(Opening { peer: id, to, until });
        self.outputs.push_back(Output::OpenGuess(OpenGuess { to, datagram }));
        self.send_disco(id, relay, &Message::Guess { public });
    }

    /// A peer holds many ports of this address open for us.
    pub(super) fn handle_guess(&mut self, id: NodeId, public: Ipv4Addr, now: Instant) {
        if !self.guessing.allowed || self.guessing.nat == Nat::Hard || self.guessing.probing.len() >= MAX_PROBING {
            return;
        }
        let Some(peer) = self.peers.get(&id) else { return };
        // Whom we do not talk with, or could reach otherwise, does not make us send; nor does anybody aim us at an inside
        // network, at an address that it has not told before, or with others at one address at the same time.
        let has_session = peer.tunnel.as_ref().is_some_and(|tunnel| tunnel.has_session());
        let ip = IpAddr::V4(public);
        let stuck = peer.ours && has_session && peer.path.route() == Route::Relay;
        if !stuck || !peer.path.knows_ip(ip) || is_private(ip) {
            return;
        }
        let mut probing = self.guessing.probing.iter();
        if probing.any(|probing| probing.peer == id || probing.ip == public)
            || !rested(&mut self.guessing.probed_for, id, now)
        {
            return;
        }
        self.guessing.probing.push(Probing {
            peer: id,
            ip: public,
            ports: random_ports(),
            next: now,
        });
        self.run_guesses(now);
    }

    /// Sends the pings that are due, ends what is over.
    pub(super) fn run_guesses(&mut self, now: Instant) {
        if self.guessing.opening.take_if(|opening| opening.until <= now).is_some() {
            self.outputs.push_back(Output::CloseGuess);
        }
        let mut probing = std::mem::take(&mut self.guessing.probing);
        probing.retain_mut(|probing| {
            let Some(peer) = self.peers.get_mut(&probing.peer) else {
                return false;
            };
            if peer.path.route() != Route::Relay {
                peer.path.hold();
                return false;
            }
            if probing.next <= now {
                if probing.ports.is_empty() {
                    return false;
                }
                probing.next = now + PAUSE;
                for port in probing.ports.split_off(probing.ports.len().saturating_sub(BURST)) {
                    let ping = self.disco_ping(new_tx());
                    let to = SocketAddr::from((probing.ip, port));
                    self.send_disco(probing.peer, Underlay::Udp(to), &ping);
                }
                if probing.ports.is_empty() {
                    // The last ones have a moment to be answered.
                    probing.next = now + LINGER;
                }
            }
            true
        });
        self.guessing.probing = probing;
    }

    /// A datagram came to one of the sockets that were opened for guessing. True when it is the peer they were opened for:
    /// then this socket is the one that carries the peer from now on, the others close, and the datagram is to be handled as
    /// any other.
    pub(crate) fn accepts_guess(&mut self, from: SocketAddr, datagram: &[u8]) -> bool {
        let Some(opening) = &self.guessing.opening else {
            return false;
        };
        let id = opening.peer;
        let expected = opening.to == from
            && disco::sender(datagram).is_some_and(|sender| self.by_disco.get(&sender) == Some(&id))
            && self.disco_box(id).is_some_and(|sealed| sealed.open(datagram).is_ok());
        if expected {
            self.guessing.opening = None;
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.path.hold();
            }
        }
        expected
    }

    /// Our own public IPv4 address, as peers are told.
    fn public_v4(&self) -> Option<Ipv4Addr> {
        self.endpoints.iter().find_map(|addr| match addr.ip() {
            IpAddr::V4(ip) if !is_private(addr.ip()) => Some(ip),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        })
    }
}

/// Ports to try, each once.
fn random_ports() -> Vec<u16> {
    let mut chosen = std::collections::BTreeSet::new();
    let mut order = Vec::with_capacity(GUESSES);
    while order.len() < GUESSES {
        for pair in new_tx().chunks_exact(2) {
            let port = u16::from_be_bytes([pair[0], pair[1]]);
            if PORTS.contains(&port) && order.len() < GUESSES && chosen.insert(port) {
                order.push(port);
            }
        }
    }
    order
}
