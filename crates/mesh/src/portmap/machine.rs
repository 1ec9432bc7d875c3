//! [`Portmapper`]: gets a mapping from the gateway, keeps it and gives it back.
//!
//! ```text
//! [waiting] ── a place, or ten minutes ──▶ [probing] ── who answers? ──▶ [asking] ──▶ mapped ── half its life ──▶ [asking]
//!     ▲                                        │ nobody                    │ refused, by all
//!     └────────────────────────────────────────┴───────────────────────────┘
//! ```
//!
//! Probing asks by NAT-PMP, PCP and SSDP at once. NAT-PMP is taken where it answers, PCP where it alone does, UPnP where
//! neither has after a quarter second; a protocol that refuses leaves the turn to the next. A datagram is sent three
//! times at most. An epoch that goes back (RFC 6886 section 3.6, RFC 6887 section 8.5) means that the gateway has
//! restarted and forgotten us.

mod answers;

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use super::pcp::Nonce;
use super::{LIFETIME, Place, igd, nat_pmp, pcp, ssdp};

/// From the first datagram to each repetition, and to giving up.
const TRIES: [Duration; 3] = [
    Duration::from_millis(250),
    Duration::from_millis(750),
    Duration::from_millis(1_750),
];
/// Somebody has answered: those who are asked first may do so a moment later.
const OTHERS: Duration = Duration::from_millis(50);
/// UPnP devices answer when they like, and are slow to talk with.
const IGD_PATIENCE: Duration = Duration::from_secs(10);
/// Where there is no mapping to be had it is tried again after this.
const AGAIN: Duration = Duration::from_secs(600);
/// A shorter life would mean to ask all the time.
const SHORTEST: Duration = Duration::from_secs(30);
/// A gateway is asked whether it is still the same, and has the same address.
const CHECK: Duration = Duration::from_secs(300);
/// A permanent mapping is looked after like one of this life.
const PERMANENT: Duration = Duration::from_secs(7_200);

/// What the shell is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Send to UDP port 5351 of the gateway.
    Send(Vec<u8>),
    /// Search for UPnP devices.
    Search,
    /// Talk with a UPnP device, and report what came of it.
    Talk(Wish),
    /// Give a UPnP mapping back.
    Delete(igd::Mapping),
    /// The mapping is this one now.
    Changed(Option<SocketAddrV4>),
}

/// What is wanted of a UPnP device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wish {
    /// The device described there is to map a port, this one if it can.
    New { description: igd::HttpPlace, external: u16 },
    /// A mapping is to be renewed.
    Renew(igd::Mapping),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Protocol {
    NatPmp,
    Pcp,
    Igd(Box<igd::Mapping>),
}

#[derive(Debug)]
struct Mapping {
    protocol: Protocol,
    external: SocketAddrV4,
    check: Option<Instant>,
    renew: Instant,
    expires: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    NatPmp,
    Pcp,
}

#[derive(Debug)]
enum Phase {
    Waiting(Option<Instant>),
    Probing {
        started: Instant,
        tries: usize,
        decide: Option<Instant>,
    },
    Asking {
        asked: Asked,
        started: Instant,
        tries: usize,
    },
    Talking(Instant),
}

/// Who has answered the probes.
#[derive(Debug, Default)]
struct Heard {
    address: Option<Ipv4Addr>,
    nat_pmp: bool,
    pcp: bool,
    device: Option<ssdp::Found>,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Portmapper {
    place: Option<Place>,
    nonce: Nonce,
    phase: Phase,
    heard: Heard,
    mapping: Option<Mapping>,
    told: Option<SocketAddrV4>,
    /// The port that peers were told last: the next mapping had better be the same.
    last_port: Option<u16>,
    epoch: Option<(u32, Instant)>,
    actions: VecDeque<Action>,
}

impl Portmapper {
    /// Without a place there is nothing to do. `nonce` is random and secret.
    pub(crate) fn new(nonce: Nonce) -> Self {
        Self {
            place: None,
            nonce,
            phase: Phase::Waiting(None),
            heard: Heard::default(),
            mapping: None,
            told: None,
            last_port: None,
            epoch: None,
            actions: VecDeque::new(),
        }
    }

    /// The next thing to do.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Self::handle_timeout`] is wanted next.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Waiting(at) => {
                let kept = self.mapping.as_ref().map(|mapping| mapping.renew.min(mapping.expires));
                let check = self.mapping.as_ref().and_then(|mapping| mapping.check);
                [at, kept, check].into_iter().flatten().min()
            }
            Phase::Probing { started, tries, decide } => {
                let try_at = started + TRIES.get(tries).copied().unwrap_or(TRIES[2]);
                Some(decide.map_or(try_at, |decide| decide.min(try_at)))
            }
            Phase::Asking { started, tries, .. } => Some(started + TRIES.get(tries).copied().unwrap_or(TRIES[2])),
            Phase::Talking(until) => Some(until),
        }
    }

    /// A mapping is wanted here from now on. What another gateway has given is lost: [`Self::release`] before, if it may
    /// still be reached.
    pub(crate) fn set_place(&mut self, place: Option<Place>, now: Instant) {
        if place == self.place {
            return;
        }
        self.place = place;
        self.mapping = None;
        self.epoch = None;
        self.phase = Phase::Waiting(None);
        self.settle();
        self.probe(now);
    }

    /// Gives the mapping back.
    pub(crate) fn release(&mut self) {
        let Some((mapping, place)) = self.mapping.take().zip(self.place) else {
            return;
        };
        self.actions.push_back(match mapping.protocol {
            Protocol::NatPmp => Action::Send(nat_pmp::delete_request(place.port).to_vec()),
            Protocol::Pcp => Action::Send(pcp::map_request(&place, &self.nonce, mapping.external.port(), 0).to_vec()),
            Protocol::Igd(mapping) => Action::Delete(*mapping),
        });
        self.phase = Phase::Waiting(None);
        self.settle();
    }

    /// A datagram from port 5351 of the gateway.
    pub(crate) fn handle_datagram(&mut self, datagram: &[u8], now: Instant) {
        if let Some(response) = nat_pmp::parse(datagram) {
            self.handle_nat_pmp(response, now);
        } else if let Some(response) = pcp::parse(datagram) {
            self.handle_pcp(response, now);
        }
    }

    /// A UPnP device has answered the search.
    pub(crate) fn handle_device(&mut self, found: ssdp::Found, now: Instant) {
        if self
            .heard
            .device
            .as_ref()
            .is_none_or(|known| found.second_version && !known.second_version)
        {
            self.heard.device = Some(found);
        }
        if let Phase::Probing { started, decide, .. } = &mut self.phase {
            decide.get_or_insert((*started + TRIES[0]).max(now + OTHERS));
        } else if let (Phase::Waiting(Some(_)), None) = (&self.phase, &self.mapping) {
            self.choose(now);
        }
    }

    /// What the talk with a UPnP device has led to.
    pub(crate) fn handle_talk(&mut self, mapping: Option<igd::Mapping>, now: Instant) {
        if !matches!(self.phase, Phase::Talking(_)) {
            // Too late: nobody would ever give it back, unless it is the one that we have.
            let ours = self.mapping.as_ref().map(|mapping| mapping.external.port());
            let stray = mapping.filter(|mapping| Some(mapping.external) != ours);
            self.actions.extend(stray.map(Action::Delete));
            return;
        }
        match mapping {
            Some(mapping) => {
                let external = SocketAddrV4::new(mapping.address, mapping.external);
                let life = if mapping.permanent {
                    PERMANENT
                } else {
                    Duration::from_secs(LIFETIME.into())
                };
                self.keep(Protocol::Igd(Box::new(mapping)), external, life, now);
            }
            None => self.give_up(now),
        }
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|at| now < at) {
            return;
        }
        match self.phase {
            Phase::Waiting(_) => {
                if self.mapping.as_ref().is_some_and(|mapping| now >= mapping.expires) {
                    self.mapping = None;
                    self.settle();
                }
                match &mut self.mapping {
                    Some(mapping) if now < mapping.renew => {
                        mapping.check = Some(now + CHECK);
                        self.send_probes();
                    }
                    Some(_) => self.renew(now),
                    None => self.probe(now),
                }
            }
            Phase::Probing { decide, .. } if decide.is_some_and(|at| now >= at) => self.choose(now),
            Phase::Probing { started, tries, decide } => {
                let tries = tries + 1;
                if tries < TRIES.len() {
                    self.phase = Phase::Probing { started, tries, decide };
                    self.send_probes();
                } else {
                    self.choose(now);
                }
            }
            Phase::Asking { asked, started, tries } => {
                let tries = tries + 1;
                if tries < TRIES.len() {
                    self.phase = Phase::Asking { asked, started, tries };
                    self.send_request(asked);
                } else {
                    self.forget(asked);
                    self.choose(now);
                }
            }
            Phase::Talking(_) => self.give_up(now),
        }
    }

    fn probe(&mut self, now: Instant) {
        self.heard = Heard::default();
        if self.place.is_none() {
            self.phase = Phase::Waiting(None);
            return;
        }
        self.phase = Phase::Probing {
            started: now,
            tries: 0,
            decide: None,
        };
        self.send_probes();
        self.actions.push_back(Action::Search);
    }

    fn send_probes(&mut self) {
        let Some(place) = self.place else { return };
        self.actions.push_back(Action::Send(nat_pmp::ADDRESS_REQUEST.to_vec()));
        self.actions
            .push_back(Action::Send(pcp::announce_request(place.own).to_vec()));
    }

    /// The best of those who have answered and not refused.
    fn choose(&mut self, now: Instant) {
        let external = self.wanted();
        if self.heard.nat_pmp {
            self.ask(Asked::NatPmp, now);
        } else if self.heard.pcp {
            self.ask(Asked::Pcp, now);
        } else if let Some(device) = self.heard.device.take() {
            self.phase = Phase::Talking(now + IGD_PATIENCE);
            let description = device.description;
            // A mapping of our own port would look like a forwarded one to a hard NAT's users, and is taken more often.
            let random = u16::from_be_bytes([self.nonce[0], self.nonce[1]]);
            let external = external.unwrap_or(1_024 + random % (u16::MAX - 1_024));
            self.actions
                .push_back(Action::Talk(Wish::New { description, external }));
        } else {
            self.give_up(now);
        }
    }

    fn renew(&mut self, now: Instant) {
        match self.mapping.as_ref().map(|mapping| mapping.protocol.clone()) {
            Some(Protocol::NatPmp) => self.ask(Asked::NatPmp, now),
            Some(Protocol::Pcp) => self.ask(Asked::Pcp, now),
            Some(Protocol::Igd(mapping)) => {
                self.phase = Phase::Talking(now + IGD_PATIENCE);
                self.actions.push_back(Action::Talk(Wish::Renew(*mapping)));
            }
            None => self.probe(now),
        }
    }

    fn ask(&mut self, asked: Asked, now: Instant) {
        self.phase = Phase::Asking {
            asked,
            started: now,
            tries: 0,
        };
        self.send_request(asked);
    }

    fn send_request(&mut self, asked: Asked) {
        let Some(place) = self.place else { return };
        let external = self.wanted().unwrap_or(0);
        let datagrams = match asked {
            Asked::NatPmp => vec![
                nat_pmp::ADDRESS_REQUEST.to_vec(),
                nat_pmp::map_request(place.port, external, LIFETIME).to_vec(),
            ],
            Asked::Pcp => vec![pcp::map_request(&place, &self.nonce, external, LIFETIME).to_vec()],
        };
        self.actions.extend(datagrams.into_iter().map(Action::Send));
    }

    /// The port that peers were told.
    fn wanted(&self) -> Option<u16> {
        self.mapping
            .as_ref()
            .map(|mapping| mapping.external.port())
            .or(self.last_port)
    }

    fn forget(&mut self, asked: Asked) {
        match asked {
            Asked::NatPmp => self.heard.nat_pmp = false,
            Asked::Pcp => self.heard.pcp = false,
        }
    }

    fn asking(&self, wanted: Asked) -> bool {
        matches!(self.phase, Phase::Asking { asked, .. } if asked == wanted)
    }

    fn keep(&mut self, protocol: Protocol, external: SocketAddrV4, life: Duration, now: Instant) {
        let life = life.max(SHORTEST);
        let asks = !matches!(protocol, Protocol::Igd(_));
        self.last_port = Some(external.port());
        self.mapping = Some(Mapping {
            protocol,
            external,
            check: asks.then(|| now + CHECK),
            renew: now + life / 2,
            expires: now + life,
        });
        self.phase = Phase::Waiting(None);
        self.settle();
    }

    /// Nothing to be had now. A mapping that could not be renewed is kept to its end, and tried again before.
    fn give_up(&mut self, now: Instant) {
        match &mut self.mapping {
            Some(mapping) if mapping.expires > now => {
                let left = mapping.expires.saturating_duration_since(now);
                mapping.renew = (now + (left / 2).max(SHORTEST / 2)).min(mapping.expires);
                self.phase = Phase::Waiting(None);
            }
            Some(_) | None => {
                self.mapping = None;
                self.phase = Phase::Waiting(self.place.map(|_| now + AGAIN));
            }
        }
        self.settle();
    }

    fn settle(&mut self) {
        let mapped = self.mapping.as_ref().map(|mapping| mapping.external);
        if mapped != self.told {
            self.told = mapped;
            self.actions.push_back(Action::Changed(mapped));
        }
    }
}
