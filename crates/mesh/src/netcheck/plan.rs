//! [`Plan`]: one round of STUN requests: whom to ask when, and when there is nothing more to wait for.
//!
//! A set is one region in one family. It is asked three or four times, each time another of its servers, until one
//! answers. Where a single set would leave open what kind of NAT there is, a second server is asked beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use sandd_control_client::netmap::RegionId;

use super::StunServer;

/// When a region is asked again in a round of all, since the round's begin,
const FULL: &[Duration] = &[Duration::ZERO, Duration::from_millis(100), Duration::from_millis(200)];
/// and in a round of the home alone.
const HOME: &[Duration] = &[
    Duration::ZERO,
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
];
/// Answers are waited for no longer than this.
const LONGEST: Duration = Duration::from_secs(3);
/// With so many regions known, the slow ones are not waited for.
const ENOUGH: usize = 3;

#[derive(Debug)]
struct ProbeSet {
    servers: Vec<StunServer>,
    tries: usize,
    answered: bool,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Plan {
    started: Instant,
    times: &'static [Duration],
    sets: Vec<ProbeSet>,
    regions: BTreeSet<RegionId>,
    slowest: Duration,
}

impl Plan {
    /// A round of all regions, and of a second IPv4 server where there is only one set.
    pub(crate) fn full(servers: &[StunServer], now: Instant) -> Self {
        let mut sets = sets(servers);
        let mut v4 = sets.iter().filter(|set| set.servers[0].addr.is_ipv4());
        let second = match (v4.next(), v4.next()) {
            (Some(only), None) => only.servers.get(1).copied(),
            _ => None,
        };
        sets.extend(second.map(|server| ProbeSet {
            servers: vec![server],
            tries: 0,
            answered: false,
        }));
        Self::new(sets, FULL, now)
    }

    /// A round of one region alone: it keeps the NAT's mapping, and shows a new one.
    pub(crate) fn home(servers: &[StunServer], home: Option<RegionId>, now: Instant) -> Self {
        let of_home: Vec<_> = servers
            .iter()
            .filter(|server| Some(server.region) == home)
            .copied()
            .collect();
        Self::new(sets(&of_home), HOME, now)
    }

    fn new(sets: Vec<ProbeSet>, times: &'static [Duration], now: Instant) -> Self {
        Self {
            started: now,
            times,
            sets,
            regions: BTreeSet::new(),
            slowest: Duration::ZERO,
        }
    }

    /// There is nobody to ask.
    pub(crate) fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// When it began.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// True for a round of all regions.
    pub(crate) fn is_full(&self) -> bool {
        std::ptr::eq(self.times, FULL)
    }

    /// Whether any server has answered in it.
    pub(crate) fn has_answers(&self) -> bool {
        !self.regions.is_empty()
    }

    /// Servers to ask now.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<StunServer> {
        let (started, times) = (self.started, self.times);
        let mut due = Vec::new();
        if self.is_over(now) {
            return due;
        }
        for set in self.sets.iter_mut().filter(|set| !set.answered) {
            if times.get(set.tries).is_some_and(|after| now >= started + *after) {
                due.push(set.servers[set.tries % set.servers.len()]);
                set.tries += 1;
            }
        }
        due
    }

    /// A server has answered after `rtt`.
    pub(crate) fn answered(&mut self, server: StunServer, rtt: Duration) {
        self.regions.insert(server.region);
        self.slowest = self.slowest.max(rtt);
        // The set that asked for this very server, which for a second opinion is that one.
        let asked = |set: &&mut ProbeSet| !set.answered && set.servers.contains(&server);
        let narrowest = self.sets.iter_mut().filter(asked).min_by_key(|set| set.servers.len());
        if let Some(set) = narrowest {
            set.answered = true;
        }
    }

    /// When [`Self::due`] or [`Self::is_over`] may say something else than now.
    pub(crate) fn next(&self) -> Instant {
        let waiting = self.sets.iter().filter(|set| !set.answered);
        let tries = waiting.filter_map(|set| self.times.get(set.tries));
        tries.map(|after| self.started + *after).fold(self.end(), Instant::min)
    }

    /// Nothing more is waited for.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        now >= self.end()
    }

    fn end(&self) -> Instant {
        if self.sets.iter().all(|set| set.answered) {
            return self.started;
        }
        if self.regions.len() >= ENOUGH {
            let last_try = self.times.last().copied().unwrap_or_default();
            return self.started + (self.slowest * 2).max(last_try).min(LONGEST);
        }
        self.started + LONGEST
    }
}

fn sets(servers: &[StunServer]) -> Vec<ProbeSet> {
    let mut sets: BTreeMap<(RegionId, bool), Vec<StunServer>> = BTreeMap::new();
    for server in servers {
        sets.entry((server.region, server.addr.is_ipv6()))
            .or_default()
            .push(*server);
    }
    let sets = sets.into_values().map(|servers| ProbeSet {
        servers,
        tries: 0,
        answered: false,
    });
    sets.collect()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn server(region: u16, host: u8) -> StunServer {
        StunServer {
            region: RegionId(region),
            addr: SocketAddr::from(([192, 0, 2, host], 3478)),
        }
    }

    /// All requests of a round in which nobody answers, as `(milliseconds, host)`.
    fn asked(mut plan: Plan, now: Instant) -> Vec<(u128, u8)> {
        let mut all = Vec::new();
        let mut at = now;
        while !plan.is_over(at) {
            for server in plan.due(at) {
                let SocketAddr::V4(addr) = server.addr else { panic!() };
                all.push(((at - now).as_millis(), addr.ip().octets()[3]));
            }
            let next = plan.next();
            assert!(next > at, "it would spin");
            at = next;
        }
        assert_eq!(at - now, LONGEST);
        all
    }

    #[test]
    fn a_region_is_asked_three_times_each_time_another_server() {
        let now = Instant::now();
        let plan = Plan::full(&[server(1, 1), server(1, 2), server(2, 9)], now);
        assert_eq!(
            asked(plan, now),
            [(0, 1), (0, 9), (100, 2), (100, 9), (200, 1), (200, 9)]
        );
    }

    #[test]
    fn a_second_server_settles_what_kind_of_nat_it_is() {
        let now = Instant::now();
        let both = [server(1, 1), server(1, 2)];
        let first = |mut plan: Plan| plan.due(now).len();
        assert_eq!(first(Plan::full(&both, now)), 2);
        assert_eq!(first(Plan::full(&both[..1], now)), 1);
        let mut plan = Plan::full(&both, now);
        plan.due(now);
        plan.answered(server(1, 1), Duration::from_millis(5));
        assert!(!plan.is_over(now));
        plan.answered(server(1, 2), Duration::from_millis(5));
        assert!(plan.is_over(now));
    }

    #[test]
    fn the_home_alone_is_asked_four_times() {
        let now = Instant::now();
        let plan = Plan::home(&[server(1, 1), server(2, 2)], Some(RegionId(2)), now);
        assert_eq!(asked(plan, now), [(0, 2), (200, 2), (400, 2), (800, 2)]);
        assert!(Plan::home(&[server(1, 1)], None, now).is_empty());
    }

    #[test]
    fn slow_regions_are_not_waited_for_once_three_are_known() {
        let now = Instant::now();
        let servers: Vec<_> = (1..=5).map(|id| server(id.into(), id)).collect();
        let mut plan = Plan::full(&servers, now);
        plan.due(now);
        for known in &servers[..3] {
            plan.answered(*known, Duration::from_millis(150));
        }
        assert!(!plan.is_over(now + Duration::from_millis(299)));
        assert!(plan.is_over(now + Duration::from_millis(300)));
    }
}
