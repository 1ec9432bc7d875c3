//! [`Judge`]: the reference model. It knows the network as it is, not as the nodes believe it to be, and states what must
//! hold now:
//!
//! - a packet given to a node some time after the last fault of its pair arrives, by relay if need be;
//! - a pair whose gates allow it is direct, on both sides, after some calm with traffic (RFC 4787 terms, docs/PROTOCOLS.md);
//! - nobody believes for long in an address that does not lead to the peer and back;
//! - pings keep within their limits (S-16), and who has nothing to say is silent.
//!
//! After a fault a pair is unsettled for a time that depends on the fault. Faults that follow each other add up.

use std::time::{Duration, Instant};

use super::nat::Dependence;
use super::plan::Traffic;
use super::world::World;
use crate::disco;
use crate::status::PeerPath;

/// Until traffic flows again, by relay, after UDP failed between two hosts.
pub(super) const SILENCE: Duration = Duration::from_millis(1_500);
/// After a cut has healed: nothing was lost by it.
pub(super) const AFTER_HEAL: Duration = Duration::from_millis(1_500);
/// After addresses or mappings have changed.
pub(super) const AFTER_CHANGE: Duration = Duration::from_millis(1_600);
/// After loss begins or ends: handshakes may wait for their next try.
pub(super) const AFTER_WEATHER: Duration = Duration::from_secs(8);
/// After the relay, which carried the pair, went or came.
pub(super) const AFTER_RELAY: Duration = Duration::from_secs(3);
pub(super) const AFTER_RESTART: Duration = Duration::from_secs(8);
/// After a restart of which the coordinator tells nobody: WireGuard notices that a peer has lost the session.
pub(super) const AFTER_SECRET_RESTART: Duration = Duration::from_secs(17);
pub(super) const AFTER_WAKE: Duration = Duration::from_secs(3);
/// After a node heard of peers.
pub(super) const AFTER_MAP: Duration = Duration::from_secs(2);
/// What a packet may take in calm: a handshake over the slowest relay way, and a repetition.
const TRANSIT: Duration = Duration::from_millis(1_000);
/// Until a direct path that can be is there: what a node knows of itself is renewed every 20 s.
const DIRECT_WITHIN: Duration = Duration::from_secs(26);
/// Until a path that is dead is given up.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(3);
/// Silence after which nothing is left to say,
const QUIET_AFTER: Duration = Duration::from_secs(60);
/// and after which nobody tries to call any more.
const CALLS_END_AFTER: Duration = Duration::from_secs(105);
/// Pings to one address in a second (S-16): five, those that another event asks for at once, and those of other sizes.
const PINGS_A_SECOND: u32 = 20;
/// Changes of a node's endpoints in a minute without a fault.
const TOLD_A_MINUTE: u32 = 4;
/// Bytes of a pong: the shortest ping is longer.
const PONG: usize = 122;

/// Two hosts.
#[derive(Debug, Clone)]
struct Pair {
    epoch: u64,
    settled: Instant,
    disturbed: Instant,
    /// What the last disturbance allows.
    bound: Duration,
    /// When a packet was last given to one of them for the other.
    used: Instant,
    talk: Option<(Traffic, Instant, u64)>,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Judge {
    hosts: usize,
    pairs: Vec<Pair>,
    talks: u64,
    last_injection: Instant,
    last_fault: Instant,
    last_call: Instant,
    /// Other endpoints of a node, which its peers are to hear.
    last_news: Instant,
}

impl Judge {
    pub(super) fn new(hosts: usize, start: Instant) -> Self {
        let pair = Pair {
            epoch: 0,
            settled: start + Duration::from_secs(5),
            disturbed: start,
            bound: SILENCE,
            used: start,
            talk: None,
        };
        Self {
            hosts,
            pairs: vec![pair; hosts * hosts],
            talks: 0,
            last_injection: start,
            last_fault: start,
            last_call: start,
            last_news: start,
        }
    }

    fn pair(&mut self, a: usize, b: usize) -> &mut Pair {
        let at = a.min(b) * self.hosts + a.max(b);
        &mut self.pairs[at]
    }

    fn seen(&self, a: usize, b: usize) -> &Pair {
        &self.pairs[a.min(b) * self.hosts + a.max(b)]
    }

    pub(super) fn epoch(&self, a: usize, b: usize) -> u64 {
        self.seen(a, b).epoch
    }

    pub(super) fn talk(&mut self, a: usize, b: usize, traffic: Traffic, now: Instant) -> u64 {
        self.talks += 1;
        let talk = self.talks;
        self.pair(a, b).talk = Some((traffic, now, talk));
        talk
    }

    pub(super) fn talking(&self, pair: (usize, usize), talk: u64) -> Option<Traffic> {
        let (traffic, _, current) = self.seen(pair.0, pair.1).talk?;
        (current == talk).then_some(traffic)
    }

    pub(super) fn hush(&mut self, a: usize, b: usize, _now: Instant) {
        self.pair(a, b).talk = None;
    }

    pub(super) fn hush_all(&mut self, _now: Instant) {
        for pair in &mut self.pairs {
            pair.talk = None;
        }
    }

    pub(super) fn injected(&mut self, a: usize, b: usize, now: Instant) {
        self.last_injection = now;
        self.pair(a, b).used = now;
    }
}

impl World {
    /// Something happened between two hosts that may cost packets for `bound`.
    pub(super) fn disturb(&mut self, a: usize, b: usize, bound: Duration) {
        let now = self.now;
        self.judge.last_fault = now;
        self.judge.pair(a, b).bound = bound;
        // What is noticed by silence is noticed a round trip later, and said over the relay.
        let bound = bound + 3 * (self.net.places[a].access + self.net.places[b].access);
        let pair = self.judge.pair(a, b);
        pair.epoch += 1;
        pair.disturbed = now;
        pair.settled = pair.settled.max(now) + bound;
    }

    pub(super) fn disturb_host(&mut self, host: usize, bound: Duration) {
        for other in (0..self.hosts.len()).filter(|other| *other != host) {
            self.disturb(host, other, bound);
        }
    }

    pub(super) fn disturb_all(&mut self, bound: Duration) {
        for a in 0..self.hosts.len() {
            for b in a + 1..self.hosts.len() {
                self.disturb(a, b, bound);
            }
        }
    }

    /// A relay of this host went or came: news for all that it does not reach directly.
    pub(super) fn disturb_relayed(&mut self, host: usize) {
        for other in (0..self.hosts.len()).filter(|other| *other != host) {
            let settled = self.judge.seen(host, other).settled <= self.now;
            if !settled || !self.direct_and_true(host, other) {
                self.disturb(host, other, AFTER_RELAY);
            }
        }
    }

    /// Traffic between two that were silent: what has broken meanwhile is noticed from now on.
    pub(super) fn notice_traffic(&mut self, a: usize, b: usize) {
        let pair = self.judge.seen(a, b);
        let broken = pair.disturbed > pair.used;
        if broken && self.now > pair.used + Duration::from_secs(3) {
            self.disturb(a, b, pair.bound);
        }
    }

    /// When a packet that is sent now must have arrived; nothing when it may be lost.
    pub(super) fn due(&self, from: usize, to: usize) -> Option<Instant> {
        let pair = self.judge.seen(from, to);
        let at_work = |host: usize| self.hosts[host].running() && self.hosts[host].lag.is_zero();
        let calm = self.calm() && at_work(from) && at_work(to);
        let way = || self.relay_carries(from, to) && self.relay_carries(to, from) || self.direct_and_true(from, to);
        (calm && self.now >= pair.settled && way()).then(|| self.now + TRANSIT)
    }

    fn calm(&self) -> bool {
        let weather = self.net.weather;
        weather.loss == 0 && weather.corruption == 0
    }

    /// What `from` sends to the relay that it thinks is the peer's home gets there.
    fn relay_carries(&self, from: usize, to: usize) -> bool {
        let key = self.hosts[to].public;
        let map = self.hosts[from].engine.map();
        let home = map
            .peers
            .values()
            .find(|node| node.key == key)
            .and_then(|node| node.home_derp);
        home.is_some_and(|home| self.relays.serves(to, home) && self.relays.reachable(from, home))
    }

    fn believed(&self, from: usize, to: usize) -> Option<std::net::SocketAddr> {
        let path = self.hosts[from].engine.path_to(super::control::mesh_ip(to).into());
        if let PeerPath::Direct(addr) = path {
            Some(addr)
        } else {
            None
        }
    }

    fn direct_and_true(&self, a: usize, b: usize) -> bool {
        let leads = |from, to| {
            let believed = self.believed(from, to);
            believed.is_some_and(|addr| self.net.would_answer(from, to, addr, self.now))
        };
        leads(a, b) && leads(b, a)
    }

    /// Looks at everything that is to be true now.
    pub(super) fn look(&mut self) {
        for (number, sent) in self.ledger.overdue(self.now) {
            if self.judge.epoch(sent.from, sent.to) == sent.epoch {
                let at = sent.at.saturating_duration_since(self.start).as_secs_f64();
                self.blame(format!(
                    "packet {number}, sent in calm at {at:.3} from host {} to host {}, did not arrive",
                    sent.from, sent.to
                ));
            }
        }
        for a in 0..self.hosts.len() {
            for b in (0..self.hosts.len()).filter(|b| *b != a) {
                self.look_at_path(a, b);
            }
        }
    }

    fn look_at_path(&mut self, from: usize, to: usize) {
        let pair = self.judge.seen(from, to);
        let Some((traffic, since, _)) = pair.talk else { return };
        let (calm, quick) = (self.calm(), traffic.gap <= Duration::from_secs(1) && traffic.both_ways);
        let running = self.hosts[from].running() && self.hosts[to].running();
        if !calm || !quick || !running {
            return;
        }
        let undisturbed = since.max(pair.settled);
        let believed = self.believed(from, to);
        if let Some(addr) = believed
            && self.now >= undisturbed + GIVEN_UP_WITHIN
            && !self.net.would_answer(from, to, addr, self.now)
        {
            self.blame(format!("host {from} believes that {addr} leads to host {to}"));
        }
        let relayed = self.relay_carries(from, to) && self.relay_carries(to, from);
        if believed.is_none() && relayed && self.now >= undisturbed + DIRECT_WITHIN && self.can_be_direct(from, to) {
            self.blame(format!(
                "host {from} has no direct path to host {to}, though there is one"
            ));
        }
    }

    /// True when there surely is a direct path that two nodes find together.
    fn can_be_direct(&self, a: usize, b: usize) -> bool {
        let (here, there) = (&self.net.places[a], &self.net.places[b]);
        let udp = [here, there].iter().all(|place| place.udp_in && place.udp_out);
        let cut = self.net.cut.contains(&(a, b)) || self.net.cut.contains(&(b, a));
        if !udp || cut {
            return false;
        }
        if here.site == there.site || (here.v6.is_some() && there.v6.is_some()) {
            return true;
        }
        let (up_a, up_b) = (self.net.ancestry(a), self.net.ancestry(b));
        if up_a.iter().any(|site| up_b.contains(site)) {
            return false;
        }
        let (mapping_a, filtering_a) = self.gates(&up_a);
        let (mapping_b, filtering_b) = self.gates(&up_b);
        let easy = |mapping| mapping == Dependence::EndpointIndependent;
        match (easy(mapping_a), easy(mapping_b)) {
            (true, true) => true,
            (false, true) => filtering_b < Dependence::AddressAndPort,
            (true, false) => filtering_a < Dependence::AddressAndPort,
            (false, false) => false,
        }
    }

    /// What gates one behind the other amount to.
    fn gates(&self, sites: &[usize]) -> (Dependence, Dependence) {
        let gates = sites.iter().filter_map(|site| self.net.sites.get(*site)?.gate.as_ref());
        let worst = (Dependence::EndpointIndependent, Dependence::EndpointIndependent);
        gates.fold(worst, |(mapping, filtering), gate| {
            (mapping.max(gate.kind.mapping), filtering.max(gate.kind.filtering))
        })
    }

    /// A host tells other endpoints than before. Without any reason it does not do so again and again.
    pub(super) fn watch_telling(&mut self, host: usize) {
        let number = super::host::count(&mut self.hosts[host].work.told, self.now, Duration::from_secs(60));
        let quiet = self.now.saturating_duration_since(self.judge.last_fault);
        self.judge.last_news = self.now;
        if number > TOLD_A_MINUTE && quiet > QUIET_AFTER {
            self.blame(format!("host {host} tells its endpoints {number} times in a minute"));
        }
    }

    /// A host sends something: over UDP to an address, or to a relay.
    pub(super) fn watch_sending(&mut self, host: usize, to: Option<std::net::SocketAddr>, payload: &[u8]) {
        let stun = crate::stun::looks_like(payload);
        let quiet = self.now.saturating_duration_since(
            self.judge
                .last_injection
                .max(self.judge.last_fault)
                .max(self.judge.last_news),
        );
        let first = payload.first().copied().unwrap_or(0);
        let calls = matches!(first, 1 | 2);
        // A call that comes in is asked where it came from.
        let called = self.now.saturating_duration_since(self.judge.last_call);
        let limit = if calls || called < QUIET_AFTER {
            CALLS_END_AFTER
        } else {
            QUIET_AFTER
        };
        if calls {
            self.judge.last_call = self.now;
        }
        if quiet > limit && !stun {
            self.blame(format!(
                "host {host} sends {} bytes (kind {first}) after {quiet:?} without traffic",
                payload.len()
            ));
        }
        let Some(to) = to.filter(|_| disco::looks_like(payload) && payload.len() > PONG) else {
            return;
        };
        let window = self.hosts[host].work.pings.entry(to).or_insert((self.now, 0));
        let mut counted = Some(*window);
        let number = super::host::count(&mut counted, self.now, Duration::from_secs(1));
        *window = counted.unwrap_or((self.now, number));
        if number > PINGS_A_SECOND {
            self.blame(format!("host {host} sends {number} pings to {to} in a second"));
        }
    }
}
