//! [`World`]: two tunnels, the wire between them and its clock.

use std::time::{Duration, Instant, SystemTime};

use super::super::*;
use crate::wg::message::{MessageKind, classify};
use crate::wg::{Clock, StaticSecret};

/// A datagram under way.
#[derive(Clone)]
pub(super) struct Flying {
    pub(super) arrives: Instant,
    pub(super) to: usize,
    pub(super) datagram: Vec<u8>,
}

/// What becomes of a datagram that an end sends: the delays after which copies of it arrive.
pub(super) type Link = Box<dyn FnMut(usize, &[u8]) -> Vec<Duration>>;

/// One end.
pub(super) struct End {
    pub(super) identity: Arc<Identity>,
    pub(super) tunnel: Tunnel,
    pub(super) table: IndexTable<()>,
    /// Packets that came out, without padding of keepalives.
    pub(super) opened: Vec<Vec<u8>>,
    /// All it has sent, in order, with the time.
    pub(super) sent: Vec<(Instant, Vec<u8>)>,
    pub(super) refused: usize,
}

/// See the module's text.
pub(super) struct World {
    pub(super) ends: [End; 2],
    pub(super) now: Instant,
    pub(super) flying: Vec<Flying>,
    /// Copies of a datagram that arrive, each after this delay.
    pub(super) link: Link,
}

/// A link on which everything arrives at once.
fn perfect(_: usize, _: &[u8]) -> Vec<Duration> {
    vec![Duration::ZERO]
}

/// An identity of its own, its clock at the present of the test.
pub(super) fn identity(now: Instant) -> Arc<Identity> {
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_750_000_000);
    Arc::new(Identity::new(StaticSecret::random(), Clock::new(wall, now)))
}

/// A tunnel with indices.
pub(super) fn end(identity: &Arc<Identity>, config: PeerConfig, now: Instant) -> End {
    let mut table = IndexTable::new();
    let mut tunnel = Tunnel::new(identity, config, now);
    tunnel.settle(&mut table, ());
    End {
        identity: Arc::clone(identity),
        tunnel,
        table,
        opened: Vec::new(),
        sent: Vec::new(),
        refused: 0,
    }
}

/// A peer without extras.
pub(super) fn plain(public: &PublicKey) -> PeerConfig {
    PeerConfig {
        public: *public,
        preshared: None,
        keepalive: None,
    }
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(plain, plain)
    }

    pub(super) fn with(
        left: impl FnOnce(&PublicKey) -> PeerConfig,
        right: impl FnOnce(&PublicKey) -> PeerConfig,
    ) -> Self {
        let now = Instant::now();
        let identities = [identity(now), identity(now)];
        let configs = [left(identities[1].public()), right(identities[0].public())];
        let mut configs = configs.into_iter();
        Self {
            ends: [0, 1].map(|at: usize| end(&identities[at], configs.next().unwrap(), now)),
            now,
            flying: Vec::new(),
            link: Box::new(perfect),
        }
    }

    /// A world in which the left end has called and both have a session.
    pub(super) fn connected() -> Self {
        let mut world = Self::new();
        world.say(0, b"hello");
        world.settle();
        assert_eq!(world.ends[1].opened.len(), 1);
        world.say(1, b"hello");
        world.settle();
        assert_eq!(world.ends[0].opened.len(), 1);
        world
    }

    /// The end forgets everything but its key, as after a restart.
    pub(super) fn restart(&mut self, at: usize) {
        let peer = *self.ends[1 - at].identity.public();
        let identity = Arc::clone(&self.ends[at].identity);
        let before = std::mem::replace(&mut self.ends[at], end(&identity, plain(&peer), self.now));
        self.ends[at].opened = before.opened;
        self.ends[at].sent = before.sent;
    }

    /// A packet from `at` to the other end; true when it was sealed at once.
    pub(super) fn say(&mut self, at: usize, text: &[u8]) -> bool {
        let mut out = Vec::new();
        let end = &mut self.ends[at];
        let ready = end.tunnel.ready(self.now);
        if ready {
            let mut slot = slot_of(text);
            let stride = slot.len();
            end.tunnel.seal_slots(&mut slot, stride, self.now, &mut out);
            out.insert(0, slot);
        } else {
            end.tunnel.stage(PacketBuf::copied_from(text), self.now, &mut out);
        }
        self.post(at, out);
        ready
    }

    /// Starts a handshake from `at`.
    pub(super) fn initiate(&mut self, at: usize) -> Option<Vec<u8>> {
        let message = self.ends[at].tunnel.initiate(self.now);
        self.post(at, message.iter().cloned().collect());
        message
    }

    /// Datagrams of `at` go onto the wire.
    pub(super) fn post(&mut self, at: usize, datagrams: Vec<Vec<u8>>) {
        let end = &mut self.ends[at];
        end.tunnel.settle(&mut end.table, ());
        for datagram in datagrams {
            for delay in (self.link)(at, &datagram) {
                self.flying.push(Flying {
                    arrives: self.now + delay,
                    to: 1 - at,
                    datagram: datagram.clone(),
                });
            }
            self.ends[at].sent.push((self.now, datagram));
        }
    }

    /// A datagram arrives at `at`, from wherever. True when it was taken.
    pub(super) fn deliver(&mut self, at: usize, datagram: &[u8]) -> bool {
        let mut out = Vec::new();
        let now = self.now;
        let end = &mut self.ends[at];
        let taken = match classify(datagram) {
            Some(MessageKind::Initiation) => {
                let Ok(Packet::HandshakeInit(init)) = Packet::parse(datagram) else {
                    panic!()
                };
                let initiator = end.identity.read_initiation(&init);
                initiator.is_ok_and(|initiator| end.tunnel.respond(&initiator, now, &mut out).is_ok())
            }
            Some(MessageKind::Response { receiver } | MessageKind::Cookie { receiver }) => {
                end.table.owner(receiver).is_some() && end.tunnel.handle_answer(datagram, now, &mut out).is_ok()
            }
            Some(MessageKind::Data { receiver }) => {
                let mut slot = datagram.to_vec();
                let stride = slot.len();
                let opened =
                    end.table.owner(receiver).is_some() && end.tunnel.open_slots(&mut slot, stride, now, &mut out) == 1;
                if opened && slot.len() > HEADER + TAG {
                    end.opened.push(text_of(&slot));
                }
                opened
            }
            None => false,
        };
        end.refused += usize::from(!taken);
        let established = end.tunnel.take_established();
        self.post(at, out);
        if established {
            for packet in self.ends[at].tunnel.take_staged() {
                assert!(self.say(at, &packet));
            }
        }
        taken
    }

    /// Everything that arrives at this moment arrives, with what follows at the same moment.
    pub(super) fn settle(&mut self) {
        while let Some(at) = self.next_arrival().filter(|(_, arrives)| *arrives <= self.now) {
            let flying = self.flying.remove(at.0);
            self.deliver(flying.to, &flying.datagram);
        }
    }

    /// Lets time pass, deadline by deadline.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.settle();
            let timers = self.ends.iter().filter_map(|end| end.tunnel.poll_timeout()).min();
            let next = [timers, self.next_arrival().map(|(_, at)| at)]
                .into_iter()
                .flatten()
                .min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            self.fire();
        }
        self.now = end;
        self.settle();
    }

    /// Timers of both ends.
    fn fire(&mut self) {
        for at in 0..2 {
            let mut out = Vec::new();
            let tunnel = &mut self.ends[at].tunnel;
            let was_due = tunnel.poll_timeout().is_some_and(|due| due <= self.now);
            tunnel.handle_timeout(self.now, &mut out);
            assert!(
                !was_due || tunnel.poll_timeout().is_none_or(|due| due > self.now),
                "a deadline stays behind"
            );
            self.post(at, out);
        }
    }

    fn next_arrival(&self) -> Option<(usize, Instant)> {
        let arrivals = self.flying.iter().map(|flying| flying.arrives).enumerate();
        arrivals.min_by_key(|(at, arrives)| (*arrives, *at))
    }

    /// How many datagrams of this type an end has sent.
    pub(super) fn count(&self, at: usize, kind: u8) -> usize {
        self.ends[at]
            .sent
            .iter()
            .filter(|(_, datagram)| datagram[0] == kind)
            .count()
    }

    /// Empty data messages that an end has sent.
    pub(super) fn keepalives(&self, at: usize) -> usize {
        let empty = |(_, datagram): &&(Instant, Vec<u8>)| datagram[0] == 4 && datagram.len() == HEADER + TAG;
        self.ends[at].sent.iter().filter(empty).count()
    }
}

/// A slot for a packet: room for the header, the text with its length in front, padded, room for the tag.
pub(super) fn slot_of(text: &[u8]) -> Vec<u8> {
    let padded = (text.len() + 2).next_multiple_of(16);
    let mut slot = vec![0; HEADER + padded + TAG];
    slot[HEADER..HEADER + 2].copy_from_slice(&(text.len() as u16).to_be_bytes());
    slot[HEADER + 2..HEADER + 2 + text.len()].copy_from_slice(text);
    slot
}

/// The packet of an opened slot.
pub(super) fn text_of(slot: &[u8]) -> Vec<u8> {
    let body = &slot[HEADER..slot.len() - TAG];
    let len = usize::from(u16::from_be_bytes([body[0], body[1]]));
    body[2..2 + len].to_vec()
}
