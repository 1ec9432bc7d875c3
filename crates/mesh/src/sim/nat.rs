//! [`Gate`]: what stands between a site and the network above it, in the terms of RFC 4787: a NAT or a stateful firewall.
//!
//! Mapping says whether another destination makes another outer port (section 4.1), filtering who may answer (section 5).
//! A firewall is a gate that leaves addresses as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::rng::Rng;

/// What a mapping or a filter depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Dependence {
    EndpointIndependent,
    Address,
    AddressAndPort,
}

/// Which outer port a mapping gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ports {
    /// The inner one while it is free.
    Preserved,
    Random,
}

/// How a gate behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    /// False for a firewall.
    pub(super) translates: bool,
    pub(super) mapping: Dependence,
    pub(super) filtering: Dependence,
    pub(super) ports: Ports,
    pub(super) hairpin: bool,
    /// Silence after which a mapping is gone.
    pub(super) lifetime: Duration,
    /// Packets from outside keep a mapping, too (RFC 4787, REQ-6).
    pub(super) inbound_refreshes: bool,
}

impl Kind {
    /// One of the kinds that are met, the common ones more often.
    pub(super) fn draw(rng: &mut Rng) -> Self {
        let all = [
            Dependence::EndpointIndependent,
            Dependence::Address,
            Dependence::AddressAndPort,
        ];
        let (mapping, filtering) = match rng.below(10) {
            0..=3 => (Dependence::EndpointIndependent, Dependence::AddressAndPort),
            4 | 5 => (Dependence::AddressAndPort, Dependence::AddressAndPort),
            6 => (Dependence::EndpointIndependent, Dependence::EndpointIndependent),
            7 => (Dependence::EndpointIndependent, Dependence::Address),
            _ => (all[rng.index(3)], all[rng.index(3)]),
        };
        let hard = mapping != Dependence::EndpointIndependent;
        Self {
            translates: true,
            mapping,
            filtering,
            ports: if hard || rng.per_mille(300) {
                Ports::Random
            } else {
                Ports::Preserved
            },
            hairpin: rng.per_mille(300),
            lifetime: Duration::from_secs(rng.between(30, 180)),
            inbound_refreshes: rng.per_mille(500),
        }
    }

    /// A firewall that lets in who was spoken to.
    pub(super) const fn firewall() -> Self {
        Self {
            translates: false,
            mapping: Dependence::EndpointIndependent,
            filtering: Dependence::AddressAndPort,
            ports: Ports::Preserved,
            hairpin: false,
            lifetime: Duration::from_secs(120),
            inbound_refreshes: true,
        }
    }

    /// No firewall either.
    pub(super) const fn open() -> Self {
        Self {
            filtering: Dependence::EndpointIndependent,
            ..Self::firewall()
        }
    }
}

#[derive(Debug, Clone)]
struct Mapping {
    inner: SocketAddr,
    /// The destination as far as the mapping depends on it.
    toward: Option<(IpAddr, Option<u16>)>,
    outer: u16,
    expires: Instant,
    /// Who was spoken to, and until when that counts.
    contacted: BTreeMap<SocketAddr, Instant>,
}

/// See the module's text.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    pub(super) kind: Kind,
    /// Its address in the network above.
    pub(super) outer: IpAddr,
    mappings: Vec<Mapping>,
    rng: Rng,
}

impl Gate {
    pub(super) fn new(kind: Kind, outer: IpAddr, rng: Rng) -> Self {
        Self {
            kind,
            outer,
            mappings: Vec::new(),
            rng,
        }
    }

    /// A packet leaves: its source as the network above sees it.
    pub(super) fn outbound(&mut self, src: SocketAddr, dst: SocketAddr, now: Instant) -> SocketAddr {
        self.mappings.retain(|mapping| mapping.expires > now);
        let toward = match self.kind.mapping {
            Dependence::EndpointIndependent => None,
            Dependence::Address => Some((dst.ip(), None)),
            Dependence::AddressAndPort => Some((dst.ip(), Some(dst.port()))),
        };
        let found = self
            .mappings
            .iter()
            .position(|mapping| mapping.inner == src && mapping.toward == toward);
        let at = found.unwrap_or_else(|| self.open(src, toward, now));
        let until = now + self.kind.lifetime;
        let translates = self.kind.translates;
        let mapping = &mut self.mappings[at];
        mapping.expires = until;
        mapping.contacted.insert(dst, until);
        if translates {
            SocketAddr::new(self.outer, mapping.outer)
        } else {
            src
        }
    }

    fn open(&mut self, inner: SocketAddr, toward: Option<(IpAddr, Option<u16>)>, now: Instant) -> usize {
        let taken: BTreeSet<u16> = self.mappings.iter().map(|mapping| mapping.outer).collect();
        let mut outer = match self.kind.ports {
            Ports::Preserved => inner.port(),
            Ports::Random => self.rng.port(),
        };
        while self.kind.translates && taken.contains(&outer) {
            outer = self.rng.port();
        }
        self.mappings.push(Mapping {
            inner,
            toward,
            outer,
            expires: now,
            contacted: BTreeMap::new(),
        });
        self.mappings.len() - 1
    }

    /// A packet comes: where it goes in the site, if it may.
    pub(super) fn inbound(&mut self, src: SocketAddr, dst: SocketAddr, now: Instant) -> Option<SocketAddr> {
        self.mappings.retain(|mapping| mapping.expires > now);
        let Kind {
            translates,
            filtering,
            inbound_refreshes,
            lifetime,
            ..
        } = self.kind;
        if !translates && filtering == Dependence::EndpointIndependent {
            return Some(dst);
        }
        let belongs = |mapping: &Mapping| {
            if translates {
                mapping.outer == dst.port()
            } else {
                mapping.inner == dst
            }
        };
        let mapping = self.mappings.iter_mut().find(|mapping| belongs(mapping))?;
        let mut contacted = mapping.contacted.iter().filter(|(_, until)| **until > now);
        let allowed = match filtering {
            Dependence::EndpointIndependent => true,
            Dependence::Address => contacted.any(|(who, _)| who.ip() == src.ip()),
            Dependence::AddressAndPort => contacted.any(|(who, _)| *who == src),
        };
        if !allowed {
            return None;
        }
        if inbound_refreshes {
            mapping.expires = now + lifetime;
            mapping.contacted.entry(src).and_modify(|until| *until = now + lifetime);
        }
        Some(mapping.inner)
    }

    /// All mappings are gone, as after a restart of the box.
    pub(super) fn flush(&mut self) {
        self.mappings.clear();
    }
}
