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

use crate::netcheck::{HomeChoice, Mapping, Plan, StunServer};
use crate::path::agent::TxId;
use crate::stun;

/// Keeps the NAT's mapping and notices a new one.
const STUN_INTERVAL: Duration = Duration::from_secs(15);
/// All regions are measured anew.
const FULL_INTERVAL: Duration = Duration::from_secs(300);
/// Between two looks because of a silent path.
const DOUBT_GAP: Duration = Duration::from_secs(1);
/// A public address that is no longer seen is still told for so long.
const MAPPING_LIFETIME: Duration = Duration::from_secs(310);
/// Requests whose answers still count; those of rounds before the last one are among them.
const MAX_IN_FLIGHT: usize = 512;
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
    home: HomeChoice,
    mapping: Mapping,
    plan: Option<Plan>,
    in_flight: HashMap<TxId, Request>,
    next_stun: Instant,
    next_full: Instant,
    /// When the latest round of all regions began, once it has ended.
    measured: Option<Instant>,
    /// The latest round trips by region and family, true for IPv6, with when they were measured.
    latency: BTreeMap<(RegionId, bool), (Instant, Duration)>,
    mapped: BTreeMap<SocketAddr, Instant>,
    /// What the router has mapped for us.
    port_mapped: Option<SocketAddrV4>,
    /// How each server saw us last.
    seen_by: BTreeMap<SocketAddr, SocketAddr>,
    interfaces: BTreeSet<IpAddr>,
    ports: (u16, Option<u16>),
    udp: Option<bool>,
    last_doubt: Option<Instant>,
    /// Peers could learn of a new home now.
    control_connected: bool,
    /// No STUN server answers: the relays are to be asked over TLS how far they are.
    wants_https: bool,
    /// Something that is told to peers or coordinator may be another than before.
    changed: bool,
}

impl Reach {
    /// `ports` are those of the IPv4 and IPv6 socket; `home` is the region of the last run.
    pub(crate) fn new(ports: (u16, Option<u16>), home: Option<RegionId>, now: Instant) -> Self {
        let mut choice = HomeChoice::default();
        choice.restore(home);
        Self {
            map: Arc::default(),
            servers: Vec::new(),
            home: choice,
            mapping: Mapping::default(),
            plan: None,
            in_flight: HashMap::new(),
            next_stun: now,
            next_full: now,
            measured: None,
            latency: BTreeMap::new(),
            mapped: BTreeMap::new(),
            port_mapped: None,
            seen_by: BTreeMap::new(),
            interfaces: BTreeSet::new(),
            ports,
            udp: None,
            last_doubt: None,
            control_connected: false,
            wants_https: false,
            changed: true,
        }
    }

    /// The home of the last run: good until measured better.
    pub(crate) fn set_home(&mut self, home: Option<RegionId>) {
        self.home.restore(home);
    }

    /// Home region.
    pub(crate) fn home(&self) -> Option<RegionId> {
        self.home.current()
    }

    /// The relays changed. A usable home is there at once; measuring may correct it later.
    pub(crate) fn set_map(&mut self, map: Arc<DerpMap>) {
        self.home.handle_map(&self.map, &map);
        self.latency.retain(|(region, _), _| map.regions.contains_key(region));
        self.map = map;
        self.changed = true;
    }

    /// The coordinator's stream stands, or does not: without it peers could not learn of another home.
    pub(crate) fn set_control_connected(&mut self, connected: bool, now: Instant) {
        self.control_connected = connected;
        if connected {
            self.conclude(now);
        }
    }

    /// The relay of this region has us logged in.
    pub(crate) fn relay_connected(&mut self, region: RegionId) {
        self.home.relay_connected(region);
        self.home.adopt(&self.map);
        self.changed = true;
    }

    /// The relay of this region was lost or could not be reached.
    pub(crate) fn relay_failed(&mut self, region: RegionId, now: Instant) {
        self.home.relay_failed(region, now);
        if self.home() == Some(region) {
            self.kick(now);
        }
    }

    /// Leaves a home whose relay stays away, when there is another region. True when it did.
    pub(crate) fn leave_failing_home(&mut self, now: Instant) -> bool {
        let left = self.home.leave_failing(&self.map, now);
        self.changed |= left;
        left
    }

    /// Addresses of the STUN servers are known now.
    pub(crate) fn set_servers(&mut self, servers: Vec<StunServer>, now: Instant) {
        self.servers = servers;
        let asked = &self.servers;
        self.seen_by
            .retain(|server, _| asked.iter().any(|known| known.addr == *server));
        self.begin_full(now);
    }

    /// Ask again at once: something about the network changed.
    pub(crate) fn kick(&mut self, now: Instant) {
        self.begin_full(now);
    }

    /// A direct path is silent: is our mapping still the one that peers were told? Asked once a second at most,
    /// and not while a round that asks the home, too, is under way.
    pub(crate) fn doubt(&mut self, now: Instant) {
        let lately = |at: Instant| now.saturating_duration_since(at) < DOUBT_GAP;
        if self.plan.is_none() && !self.last_doubt.is_some_and(lately) {
            self.last_doubt = Some(now);
            self.begin(Plan::home(&self.servers, self.home(), now), now);
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
            self.begin_full(now);
        } else if now >= self.next_stun {
            self.next_stun = now + STUN_INTERVAL;
            if self.plan.is_none() && active() {
                self.begin(Plan::home(&self.servers, self.home(), now), now);
            }
        }
        let Some(plan) = &mut self.plan else {
            return Vec::new();
        };
        let due = plan.due(now);
        if due.is_empty() && plan.is_over(now) {
            self.finish_round(now);
        }
        let request = |server: StunServer| {
            let tx = crate::engine::new_tx();
            if self.in_flight.len() < MAX_IN_FLIGHT {
                self.in_flight.insert(tx, Request { server, sent: now });
            }
            (server.addr, stun::binding_request(&tx))
        };
        due.into_iter().map(request).collect()
    }

    /// A STUN answer. Only those we wait for count. True when the endpoints may have changed.
    pub(crate) fn handle_response(&mut self, datagram: &[u8], now: Instant) -> bool {
        let Some((tx, mapped)) = stun::parse_response(datagram) else {
            return false;
        };
        let Some(request) = self.in_flight.remove(&tx) else {
            return false;
        };
        let server = request.server;
        let rtt = now.saturating_duration_since(request.sent);
        self.home.note_latency(server.region, rtt, now);
        self.latency.insert((server.region, server.addr.is_ipv6()), (now, rtt));
        if let Some(plan) = &mut self.plan {
            plan.answered(server, rtt);
        }
        self.changed |= self.udp.replace(true) != Some(true);
        // A relay host behind its own 1:1 NAT sees our private side: that is no public address.
        if crate::path::candidate::is_private(mapped.ip()) && !crate::path::candidate::is_private(server.addr.ip()) {
            return false;
        }
        self.changed |= self.mapping.observe(server.addr, mapped, now);
        let is_new = self.mapped.insert(mapped, now).is_none();
        // The same server sees us elsewhere: the NAT gave up the mapping of before, and peers are to forget it.
        let before = self.seen_by.insert(server.addr, mapped);
        if let Some(dead) = before.filter(|before| *before != mapped)
            && !self.seen_by.values().any(|seen| *seen == dead)
        {
            self.mapped.remove(&dead);
        }
        self.changed |= is_new;
        is_new
    }

    /// A peer's pong told how our address looks from there. What it sees inside a common network tells nothing.
    pub(crate) fn observe_mapped(&mut self, by: SocketAddr, seen: SocketAddr, now: Instant) {
        if self.mapped.keys().any(|mapped| mapped.ip() == seen.ip()) {
            self.changed |= self.mapping.observe(by, seen, now);
        }
    }

    /// How far relays are over TLS, when no STUN server answers.
    pub(crate) fn note_https(&mut self, answers: &[(RegionId, Duration)], now: Instant) {
        for (region, rtt) in answers {
            self.home.note_latency(*region, *rtt, now);
        }
        self.measured = Some(now);
        self.conclude(now);
    }

    /// True once after a round that no STUN server answered.
    pub(crate) fn take_wants_https(&mut self) -> bool {
        std::mem::take(&mut self.wants_https)
    }

    /// When [`Self::poll_requests`] is wanted next.
    pub(crate) fn poll_timeout(&self) -> Instant {
        let round = self.plan.as_ref().map(Plan::next);
        let regular = self.next_stun.min(self.next_full);
        [round, self.home.leave_at(&self.map)]
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
        self.plan.is_some()
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
        if let Some(seen) = forwarded.filter(|_| self.varies() == Some(true)) {
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
        let latency = |((region, v6), (_, rtt)): (&(RegionId, bool), &(Instant, Duration))| {
            let family = if *v6 { "v6" } else { "v4" };
            (format!("{region}-{family}"), rtt.as_secs_f64())
        };
        NetInfo {
            preferred_derp: self.home().map_or(0, |home| i64::from(home.0)),
            working_udp: self.udp,
            working_ipv6: self.udp.map(|_| self.answers(true)),
            os_has_ipv6: Some(self.ports.1.is_some()),
            mapping_varies_by_dest_ip: self.mapping.varies(),
            have_port_map: self.port_mapped().is_some(),
            derp_latency: self.latency.iter().map(latency).collect(),
            ..NetInfo::default()
        }
    }

    /// Latency of each region that answered lately.
    pub(crate) fn latency(&self) -> BTreeMap<RegionId, Duration> {
        self.home.latencies().collect()
    }

    /// Our public addresses.
    pub(crate) fn mapped(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.mapped.keys().copied()
    }

    /// Whether the NAT gives another port for each destination, once known.
    pub(crate) fn varies(&self) -> Option<bool> {
        self.mapping.varies()
    }

    /// Whether UDP gets out and back, once a round has come to its end.
    pub(crate) fn udp(&self) -> Option<bool> {
        self.udp
    }

    /// Whether a server has answered in this family lately; true stands for IPv6.
    pub(crate) fn answers(&self, v6: bool) -> bool {
        self.latency.keys().any(|(_, family)| *family == v6)
    }

    /// The address that a router maps to us on request.
    pub(crate) fn port_mapped(&self) -> Option<SocketAddr> {
        self.port_mapped.map(SocketAddr::V4)
    }

    /// Judges by the latest round of all regions.
    fn conclude(&mut self, now: Instant) {
        let Some(since) = self.measured else { return };
        self.home.conclude(&self.map, since, self.control_connected, now);
        self.changed = true;
    }

    fn begin_full(&mut self, now: Instant) {
        self.next_full = now + FULL_INTERVAL;
        self.begin(Plan::full(&self.servers, now), now);
    }

    fn begin(&mut self, plan: Plan, now: Instant) {
        self.in_flight
            .retain(|_, request| now.saturating_duration_since(request.sent) < STUN_INTERVAL);
        self.plan = (!plan.is_empty()).then_some(plan);
        self.next_stun = now + STUN_INTERVAL;
    }

    fn finish_round(&mut self, now: Instant) {
        let Some(plan) = self.plan.take() else { return };
        self.changed = true;
        if plan.has_answers() {
            self.mapped
                .retain(|_, seen| now.saturating_duration_since(*seen) < MAPPING_LIFETIME);
        } else if plan.is_full() {
            self.udp = Some(false);
            self.wants_https = true;
        }
        if plan.is_full() {
            self.latency.retain(|_, (at, _)| *at >= plan.started());
            self.measured = Some(plan.started());
            self.conclude(now);
        }
    }
}

#[cfg(test)]
mod tests;
