//! [`Reach`]: how this node can be reached, and what the coordinator and the peers are told of it.
//!
//! It keeps the home region, asks STUN servers for our public addresses through the very sockets that carry data,
//! is told the interfaces' addresses, and turns it all into a list of endpoints. It is fed and drained by the driver; time and
//! addresses come in as arguments.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandd_control_client::netmap::{DerpMap, RegionId};
use sandd_control_client::{EndpointKind, NetInfo};

use super::resolve::StunServer;
use crate::path::agent::TxId;
use crate::stun;

/// Keeps the NAT's mapping and notices a new one.
const STUN_INTERVAL: Duration = Duration::from_secs(20);
/// Unanswered requests are repeated after this, three times.
const STUN_RETRY: Duration = Duration::from_millis(200);
const STUN_TRIES: u32 = 3;
/// All regions are measured anew.
const FULL_INTERVAL: Duration = Duration::from_secs(300);
/// Between two looks because of a silent path.
const DOUBT_GAP: Duration = Duration::from_secs(1);
/// A public address that is no longer seen is still told for so long.
const MAPPING_LIFETIME: Duration = Duration::from_secs(310);
/// A home whose relay is away for so long is given up where there is another region,
const HOME_PATIENCE: Duration = Duration::from_secs(5);
/// and is no home again before this, however well its STUN server answers.
const EXCLUDED_FOR: Duration = Duration::from_secs(300);
/// A new home must be so much faster than the old one.
const HOME_GAIN: Duration = Duration::from_millis(10);
/// Never tell more addresses than peers will try.
const MAX_ENDPOINTS: usize = 20;

#[derive(Debug)]
struct Request {
    server: StunServer,
    sent: Instant,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Reach {
    map: Arc<DerpMap>,
    servers: Vec<StunServer>,
    home: Option<RegionId>,
    in_flight: HashMap<TxId, Request>,
    round: Option<Round>,
    next_stun: Instant,
    next_full: Instant,
    latency: BTreeMap<RegionId, Duration>,
    mapped: BTreeMap<SocketAddr, Instant>,
    /// What the router has mapped for us.
    port_mapped: Option<SocketAddrV4>,
    /// How each server saw us last.
    seen_by: BTreeMap<SocketAddr, SocketAddr>,
    interfaces: BTreeSet<IpAddr>,
    ports: (u16, Option<u16>),
    varies: Option<bool>,
    last_v4: Option<(SocketAddr, Instant)>,
    last_doubt: Option<Instant>,
    /// Regions whose relay cannot be reached, and since when.
    failing: BTreeMap<RegionId, Instant>,
    /// Something that is told to peers or coordinator may be another than before.
    changed: bool,
}

#[derive(Debug)]
struct Round {
    started: Instant,
    tries: u32,
    next_try: Instant,
    pending: Vec<StunServer>,
}

impl Reach {
    /// `ports` are those of the IPv4 and IPv6 socket; `home` is the region of the last run.
    pub(crate) fn new(ports: (u16, Option<u16>), home: Option<RegionId>, now: Instant) -> Self {
        Self {
            map: Arc::default(),
            servers: Vec::new(),
            home,
            in_flight: HashMap::new(),
            round: None,
            next_stun: now,
            next_full: now,
            latency: BTreeMap::new(),
            mapped: BTreeMap::new(),
            port_mapped: None,
            seen_by: BTreeMap::new(),
            interfaces: BTreeSet::new(),
            ports,
            varies: None,
            last_v4: None,
            last_doubt: None,
            failing: BTreeMap::new(),
            changed: true,
        }
    }

    /// The home of the last run: good until measured better.
    pub(crate) fn set_home(&mut self, home: Option<RegionId>) {
        self.home = home;
    }

    /// Home region.
    pub(crate) fn home(&self) -> Option<RegionId> {
        self.home
    }

    /// The relays changed. A usable home is there at once; measuring may correct it later.
    pub(crate) fn set_map(&mut self, map: Arc<DerpMap>) {
        self.failing
            .retain(|region, _| self.map.regions.get(region) == map.regions.get(region));
        self.map = map;
        self.latency.retain(|region, _| self.map.regions.contains_key(region));
        self.adopt_home();
    }

    fn adopt_home(&mut self) {
        self.changed = true;
        if self.home.is_none_or(|home| !self.usable_home(home)) {
            self.home = self.fastest().or_else(|| {
                self.map
                    .regions
                    .keys()
                    .copied()
                    .find(|region| self.usable_home(*region))
            });
        }
    }

    /// The relay of this region has us logged in.
    pub(crate) fn relay_connected(&mut self, region: RegionId) {
        self.failing.remove(&region);
        self.adopt_home();
    }

    /// The relay of this region was lost or could not be reached.
    pub(crate) fn relay_failed(&mut self, region: RegionId, now: Instant) {
        self.failing.entry(region).or_insert(now);
        if self.home == Some(region) {
            self.kick(now);
        }
    }

    /// Leaves a home whose relay stays away, when there is another region. True when it did.
    pub(crate) fn leave_failing_home(&mut self, now: Instant) -> bool {
        self.failing
            .retain(|_, since| now.saturating_duration_since(*since) < EXCLUDED_FOR);
        if self.home_deadline().is_none_or(|deadline| now < deadline) {
            return false;
        }
        let before = self.home;
        let fallback = || {
            let mut all = self.map.regions.keys().copied();
            all.find(|region| Some(*region) != before && self.usable_home(*region))
        };
        self.home = self.fastest().or_else(fallback).or(before);
        self.changed = true;
        self.home != before
    }

    fn home_deadline(&self) -> Option<Instant> {
        let since = self.failing.get(&self.home?)?;
        let others = self
            .map
            .regions
            .keys()
            .any(|region| Some(*region) != self.home && self.usable_home(*region));
        others.then(|| *since + HOME_PATIENCE)
    }

    /// Addresses of the STUN servers are known now.
    pub(crate) fn set_servers(&mut self, servers: Vec<StunServer>, now: Instant) {
        self.servers = servers;
        let asked = &self.servers;
        self.seen_by
            .retain(|server, _| asked.iter().any(|known| known.addr == *server));
        self.next_full = now + FULL_INTERVAL;
        self.begin(self.servers.clone(), now);
    }

    /// Ask again at once: something about the network changed.
    pub(crate) fn kick(&mut self, now: Instant) {
        self.begin(self.servers.clone(), now);
    }

    /// A direct path is silent: is our mapping still the one that peers were told? Asked once a second at most.
    pub(crate) fn doubt(&mut self, now: Instant) {
        let lately = |at: Instant| now.saturating_duration_since(at) < DOUBT_GAP;
        if self.round.as_ref().is_none_or(|round| !lately(round.started)) && !self.last_doubt.is_some_and(lately) {
            self.last_doubt = Some(now);
            self.kick(now);
        }
    }

    /// Interface addresses as the system has them, and the ports of the sockets. A public address that was an interface's
    /// own goes with it; one that a NAT gave is told a while longer, since the way back may be the same.
    pub(crate) fn set_interfaces(&mut self, addresses: &BTreeSet<IpAddr>, ports: (u16, Option<u16>)) {
        self.changed |= *addresses != self.interfaces || ports != self.ports;
        let before = std::mem::replace(&mut self.interfaces, addresses.clone());
        self.ports = ports;
        self.mapped
            .retain(|mapped, _| addresses.contains(&mapped.ip()) || !before.contains(&mapped.ip()));
    }

    /// The router has mapped a port for us, or does so no more.
    pub(crate) fn set_port_mapped(&mut self, mapped: Option<SocketAddrV4>) {
        self.changed |= mapped != self.port_mapped;
        self.port_mapped = mapped;
    }

    /// Requests to send now. `active` tells whether anybody talks with us: an idle node keeps silent.
    pub(crate) fn poll_requests(&mut self, active: impl FnOnce() -> bool, now: Instant) -> Vec<(SocketAddr, Vec<u8>)> {
        if now >= self.next_full {
            self.next_full = now + FULL_INTERVAL;
            self.begin(self.servers.clone(), now);
        } else if now >= self.next_stun {
            self.next_stun = now + STUN_INTERVAL;
            if self.round.is_none() && active() {
                let home: Vec<_> = self
                    .servers
                    .iter()
                    .filter(|server| Some(server.region) == self.home)
                    .copied()
                    .collect();
                self.begin(home, now);
            }
        }
        let Some(round) = &mut self.round else {
            return Vec::new();
        };
        if now < round.next_try {
            return Vec::new();
        }
        if round.pending.is_empty() || round.tries >= STUN_TRIES {
            self.finish_round(now);
            return Vec::new();
        }
        round.tries += 1;
        round.next_try = now + STUN_RETRY * round.tries;
        let mut requests = Vec::with_capacity(round.pending.len());
        for server in &round.pending {
            let tx = crate::engine::new_tx();
            self.in_flight.insert(
                tx,
                Request {
                    server: *server,
                    sent: now,
                },
            );
            requests.push((server.addr, stun::binding_request(&tx)));
        }
        requests
    }

    /// A STUN answer. Only those we wait for count. True when the endpoints may have changed.
    pub(crate) fn handle_response(&mut self, datagram: &[u8], now: Instant) -> bool {
        let Some((tx, mapped)) = stun::parse_response(datagram) else {
            return false;
        };
        let Some(request) = self.in_flight.remove(&tx) else {
            return false;
        };
        let rtt = now.saturating_duration_since(request.sent);
        self.latency
            .entry(request.server.region)
            .and_modify(|known| *known = rtt.min(*known))
            .or_insert(rtt);
        if let Some(round) = &mut self.round {
            round.pending.retain(|server| *server != request.server);
            if round.pending.is_empty() {
                round.next_try = now;
            }
        }
        // A relay host behind its own 1:1 NAT sees our private side: that is no public address.
        if crate::path::candidate::is_private(mapped.ip())
            && !crate::path::candidate::is_private(request.server.addr.ip())
        {
            return false;
        }
        self.note_mapping(mapped, now);
        let is_new = self.mapped.insert(mapped, now).is_none();
        // The same server sees us elsewhere: the NAT gave up the mapping of before, and peers are to forget it.
        let before = self.seen_by.insert(request.server.addr, mapped);
        if let Some(dead) = before.filter(|before| *before != mapped)
            && !self.seen_by.values().any(|seen| *seen == dead)
        {
            self.mapped.remove(&dead);
        }
        self.changed |= is_new;
        is_new
    }

    /// A peer's pong told how our address looks from there.
    pub(crate) fn observe(&mut self, seen: SocketAddr, now: Instant) {
        if self.mapped.keys().any(|mapped| mapped.ip() == seen.ip()) {
            self.note_mapping(seen, now);
        }
    }

    fn note_mapping(&mut self, seen: SocketAddr, now: Instant) {
        if !seen.is_ipv4() {
            return;
        }
        if let Some((before, at)) = self.last_v4
            && now.saturating_duration_since(at) < Duration::from_secs(60)
        {
            let varies = Some(before != seen);
            self.changed |= varies != self.varies;
            self.varies = varies;
        }
        self.last_v4 = Some((seen, now));
    }

    /// When [`Self::poll_requests`] is wanted next.
    pub(crate) fn poll_timeout(&self) -> Instant {
        let round = self.round.as_ref().map(|round| round.next_try);
        let regular = self.next_stun.min(self.next_full);
        [round, self.home_deadline()]
            .into_iter()
            .flatten()
            .fold(regular, Instant::min)
    }

    /// True once after anything that [`Self::endpoints`] or [`Self::net_info`] tells may have changed.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// True while a round waits for answers.
    pub(crate) fn measuring(&self) -> bool {
        self.round.is_some()
    }

    /// What peers are told, best first.
    pub(crate) fn endpoints(&self) -> Vec<(SocketAddr, EndpointKind)> {
        let port_mapped = self.port_mapped.map(SocketAddr::V4);
        let mut all: Vec<_> = port_mapped
            .map(|addr| (addr, EndpointKind::PortMapped))
            .into_iter()
            .collect();
        let seen = self.mapped.keys().filter(|addr| Some(**addr) != port_mapped);
        all.extend(seen.map(|addr| (*addr, EndpointKind::Stun)));
        for ip in &self.interfaces {
            let port = if ip.is_ipv4() { Some(self.ports.0) } else { self.ports.1 };
            let Some(port) = port else { continue };
            let addr = SocketAddr::new(*ip, port);
            if !all.iter().any(|(known, _)| *known == addr) {
                all.push((addr, EndpointKind::Local));
            }
        }
        // Another port for each destination: what was seen is of no use to peers, but the router may forward the local one.
        let forwarded = self.mapped.keys().find(|addr| addr.is_ipv4());
        if let Some(seen) = forwarded.filter(|_| self.varies == Some(true)) {
            let addr = SocketAddr::new(seen.ip(), self.ports.0);
            if !all.iter().any(|(known, _)| *known == addr) {
                all.insert(0, (addr, EndpointKind::StunLocalPort));
            }
        }
        all.truncate(MAX_ENDPOINTS);
        all
    }

    /// What the coordinator is told of our network.
    pub(crate) fn net_info(&self) -> NetInfo {
        let latency = |(region, rtt): (&RegionId, &Duration)| (format!("{region}-v4"), rtt.as_secs_f64());
        NetInfo {
            preferred_derp: self.home.map_or(0, |home| i64::from(home.0)),
            working_udp: self.last_v4.is_some().then_some(true),
            mapping_varies_by_dest_ip: self.varies,
            derp_latency: self.latency.iter().map(latency).collect(),
            ..NetInfo::default()
        }
    }

    /// Latency of each region that answered.
    pub(crate) fn latency(&self) -> &BTreeMap<RegionId, Duration> {
        &self.latency
    }

    /// Our public addresses, newest sight first.
    pub(crate) fn mapped(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.mapped.keys().copied()
    }

    /// Whether the NAT gives another port for each destination, once known.
    pub(crate) fn varies(&self) -> Option<bool> {
        self.varies
    }

    fn begin(&mut self, pending: Vec<StunServer>, now: Instant) {
        self.in_flight.clear();
        self.round = (!pending.is_empty()).then_some(Round {
            started: now,
            tries: 0,
            next_try: now,
            pending,
        });
        self.next_stun = now + STUN_INTERVAL;
    }

    fn finish_round(&mut self, now: Instant) {
        let Some(round) = self.round.take() else { return };
        self.changed = true;
        let answered = self.mapped.values().any(|seen| *seen >= round.started);
        if answered {
            self.mapped
                .retain(|_, seen| now.saturating_duration_since(*seen) < MAPPING_LIFETIME);
        }
        let Some(best) = self.fastest() else { return };
        let gain = |home: RegionId| {
            let old = self.latency.get(&home).copied();
            let new = self.latency.get(&best).copied().unwrap_or_default();
            old.is_none_or(|old| old > new + HOME_GAIN && new * 3 < old * 2)
        };
        if self.home.is_none_or(|home| !self.usable_home(home) || gain(home)) {
            self.home = Some(best);
        }
    }

    fn usable_home(&self, region: RegionId) -> bool {
        let known = self.map.regions.get(&region);
        let usable =
            known.is_some_and(|region| !region.no_measure_no_home && region.nodes.iter().any(|node| !node.stun_only));
        usable && (Some(region) == self.home || !self.failing.contains_key(&region))
    }

    fn fastest(&self) -> Option<RegionId> {
        let scored = |(region, rtt): (&RegionId, &Duration)| {
            let factor = self
                .map
                .home_scores
                .get(region)
                .copied()
                .filter(|score| *score > 0.0)
                .unwrap_or(1.0);
            (*region, rtt.mul_f64(factor))
        };
        self.latency
            .iter()
            .filter(|(region, _)| self.usable_home(**region) && !self.failing.contains_key(region))
            .map(scored)
            .min_by_key(|(_, rtt)| *rtt)
            .map(|(region, _)| region)
    }
}

#[cfg(test)]
mod tests;
