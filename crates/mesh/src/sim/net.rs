//! [`Net`]: the network below the mesh. Sites form a tree with the internet as its root; a [`Gate`] stands on every edge.
//!
//! A datagram [departs](Net::depart): it climbs from its host to the first site that knows its destination, and each gate
//! on the way maps it. A travel time later it [arrives](Net::arrive): it descends through the gates as they are then.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::nat::Gate;

pub(super) const INTERNET: usize = 0;

/// A network, with the gates towards the one above it.
#[derive(Debug, Clone)]
pub(super) struct Site {
    pub(super) parent: Option<usize>,
    pub(super) gate: Option<Gate>,
    pub(super) gate6: Option<Gate>,
}

/// Where a host is.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) site: usize,
    pub(super) v4: Ipv4Addr,
    pub(super) v6: Option<Ipv6Addr>,
    pub(super) port: u16,
    /// One way between the host and the internet.
    pub(super) access: Duration,
    /// Largest IP packet of its uplink.
    pub(super) mtu: usize,
    pub(super) udp_out: bool,
    pub(super) udp_in: bool,
}

impl Place {
    pub(super) fn addresses(&self) -> BTreeSet<IpAddr> {
        let v6 = self.v6.map(IpAddr::V6);
        std::iter::once(IpAddr::V4(self.v4)).chain(v6).collect()
    }

    fn has(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.v4 == ip,
            IpAddr::V6(ip) => self.v6 == Some(ip),
        }
    }
}

/// A datagram between two legs of its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Transit {
    /// The host that sent it; a server else.
    pub(super) from: Option<usize>,
    pub(super) site: usize,
    pub(super) src: SocketAddr,
    pub(super) dst: SocketAddr,
}

/// Where a datagram ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Host(usize),
    Stun,
}

/// What happens to datagrams on their way, in cases of a thousand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Weather {
    pub(super) loss: u64,
    pub(super) duplication: u64,
    pub(super) corruption: u64,
    pub(super) jitter: Duration,
}

/// See the module's text.
#[derive(Debug, Clone)]
pub(super) struct Net {
    pub(super) sites: Vec<Site>,
    pub(super) places: Vec<Place>,
    pub(super) stun: Vec<SocketAddr>,
    /// Pairs, from and to, between which no UDP passes.
    pub(super) cut: BTreeSet<(usize, usize)>,
    pub(super) weather: Weather,
}

impl Net {
    /// The first half of a way, if there is one.
    pub(super) fn depart(&mut self, host: usize, dst: SocketAddr, now: Instant) -> Option<Transit> {
        let place = self.places.get(host).filter(|place| place.udp_out)?;
        let ip = match dst {
            SocketAddr::V4(_) => IpAddr::V4(place.v4),
            SocketAddr::V6(_) => IpAddr::V6(place.v6?),
        };
        let mut src = SocketAddr::new(ip, place.port);
        let mut site = place.site;
        while !self.knows(site, dst.ip()) {
            let parent = self.sites.get(site)?.parent?;
            let gate = self.gate(site, dst.is_ipv6())?;
            let hairpin = gate.kind.translates && gate.outer == dst.ip();
            if hairpin && !gate.kind.hairpin {
                return None;
            }
            src = gate.outbound(src, dst, now);
            site = parent;
        }
        Some(Transit {
            from: Some(host),
            site,
            src,
            dst,
        })
    }

    /// The second half: who gets it. Its source stays as it departed.
    pub(super) fn arrive(&mut self, transit: &Transit, now: Instant) -> Option<Target> {
        let Transit { from, src, .. } = *transit;
        let (mut site, mut dst) = (transit.site, transit.dst);
        for _ in 0..=self.sites.len() {
            if site == INTERNET && self.stun.contains(&dst) {
                return Some(Target::Stun);
            }
            if let Some(to) = self.host_at(site, dst.ip()) {
                let place = self.places.get(to)?;
                let passes = place.udp_in && place.port == dst.port();
                let cut = from.is_some_and(|from| self.cut.contains(&(from, to)));
                return (passes && !cut).then_some(Target::Host(to));
            }
            site = self.child_toward(site, dst.ip())?;
            dst = self.gate(site, dst.is_ipv6())?.inbound(src, dst, now)?;
        }
        None
    }

    /// Time on the first leg; the second takes the receiver's [`Place::access`].
    pub(super) fn first_leg(&self, transit: &Transit) -> Duration {
        const CORE: Duration = Duration::from_millis(3);
        match transit.from.and_then(|from| self.places.get(from)) {
            Some(place) if place.site == transit.site => Duration::from_micros(300),
            Some(place) => place.access + CORE,
            None => CORE,
        }
    }

    pub(super) fn second_leg(&self, transit: &Transit, to: usize) -> Duration {
        match self.places.get(to) {
            Some(place) if place.site == transit.site => Duration::ZERO,
            Some(place) => place.access,
            None => Duration::ZERO,
        }
    }

    /// True when a datagram sent to `dst` now would get to `to`, and an answer to where it seems to come from back to
    /// `from`. Nothing is changed by asking.
    pub(super) fn would_answer(&self, from: usize, to: usize, dst: SocketAddr, now: Instant) -> bool {
        let mut trial = self.clone();
        let Some(there) = trial.depart(from, dst, now) else {
            return false;
        };
        if trial.arrive(&there, now) != Some(Target::Host(to)) {
            return false;
        }
        let Some(back) = trial.depart(to, there.src, now) else {
            return false;
        };
        trial.arrive(&back, now) == Some(Target::Host(from))
    }

    /// The sites from a host up to the internet, without the internet.
    pub(super) fn ancestry(&self, host: usize) -> Vec<usize> {
        let mut site = self.places.get(host).map_or(INTERNET, |place| place.site);
        let mut all = Vec::new();
        while site != INTERNET && all.len() <= self.sites.len() {
            all.push(site);
            site = self.sites.get(site).and_then(|site| site.parent).unwrap_or(INTERNET);
        }
        all
    }

    fn gate(&mut self, site: usize, v6: bool) -> Option<&mut Gate> {
        let site = self.sites.get_mut(site)?;
        if v6 { site.gate6.as_mut() } else { site.gate.as_mut() }
    }

    fn host_at(&self, site: usize, ip: IpAddr) -> Option<usize> {
        self.places.iter().position(|place| place.site == site && place.has(ip))
    }

    fn knows(&self, site: usize, ip: IpAddr) -> bool {
        (site == INTERNET && self.stun.iter().any(|server| server.ip() == ip))
            || self.host_at(site, ip).is_some()
            || self.child_toward(site, ip).is_some()
    }

    /// The site below through whose gate the way to an address goes.
    fn child_toward(&self, site: usize, ip: IpAddr) -> Option<usize> {
        self.sites.iter().enumerate().find_map(|(at, child)| {
            let gate = if ip.is_ipv6() {
                child.gate6.as_ref()
            } else {
                child.gate.as_ref()
            };
            let gate = gate.filter(|_| child.parent == Some(site))?;
            let leads = if gate.kind.translates {
                gate.outer == ip
            } else {
                self.knows(at, ip)
            };
            leads.then_some(at)
        })
    }
}
