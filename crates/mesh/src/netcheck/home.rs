//! [`HomeChoice`]: which region's relay is home.
//!
//! A usable region is adopted at once, that of the last run first; measuring corrects it. A home that works is left only
//! for one that is clearly faster, and not while the coordinator is away, since peers could not learn of it. A home whose
//! relay stays away is left for another, however well its STUN server answers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use sandd_control_client::netmap::{DerpMap, RegionId};

/// The lowest latency of so long counts: a full queue in between does not move the home.
const HISTORY: Duration = Duration::from_secs(305);
const MAX_SAMPLES: usize = 32;
/// A home whose relay is away for so long is given up where there is another region,
const PATIENCE: Duration = Duration::from_secs(5);
/// and is no home again before this.
const EXCLUDED_FOR: Duration = Duration::from_secs(300);
/// A new home must be so much faster than the old one, and take no more than two thirds of its time.
const GAIN: Duration = Duration::from_millis(10);

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct HomeChoice {
    current: Option<RegionId>,
    latency: BTreeMap<RegionId, VecDeque<(Instant, Duration)>>,
    /// Regions whose relay has us logged in.
    connected: BTreeSet<RegionId>,
    /// Regions whose relay cannot be reached, and since when.
    failing: BTreeMap<RegionId, Instant>,
}

impl HomeChoice {
    /// The home.
    pub(crate) fn current(&self) -> Option<RegionId> {
        self.current
    }

    /// The home of the last run: good until measured better.
    pub(crate) fn restore(&mut self, home: Option<RegionId>) {
        self.current = home;
    }

    /// The relays are other ones now.
    pub(crate) fn handle_map(&mut self, old: &DerpMap, new: &DerpMap) {
        self.failing
            .retain(|region, _| old.regions.get(region) == new.regions.get(region));
        self.latency.retain(|region, _| new.regions.contains_key(region));
        self.adopt(new);
    }

    /// Takes a usable home where there is none.
    pub(crate) fn adopt(&mut self, map: &DerpMap) {
        if self.current.is_none_or(|home| !self.is_usable(map, home)) {
            let first = || map.regions.keys().copied().find(|region| self.is_usable(map, *region));
            self.current = self.fastest(map, None).or_else(first);
        }
    }

    /// A server of this region answered.
    pub(crate) fn note_latency(&mut self, region: RegionId, rtt: Duration, now: Instant) {
        let samples = self.latency.entry(region).or_default();
        samples.retain(|(at, _)| now.saturating_duration_since(*at) < HISTORY);
        if samples.len() >= MAX_SAMPLES {
            samples.pop_front();
        }
        samples.push_back((now, rtt));
    }

    /// The lowest latency that is still believed, by region.
    pub(crate) fn latencies(&self) -> impl Iterator<Item = (RegionId, Duration)> + '_ {
        let regions = self.latency.iter();
        regions.filter_map(|(region, samples)| Some((*region, samples.iter().map(|(_, rtt)| *rtt).min()?)))
    }

    /// The relay of this region has us logged in.
    pub(crate) fn relay_connected(&mut self, region: RegionId) {
        self.connected.insert(region);
        self.failing.remove(&region);
    }

    /// The relay of this region was lost or could not be reached.
    pub(crate) fn relay_failed(&mut self, region: RegionId, now: Instant) {
        self.connected.remove(&region);
        self.failing.entry(region).or_insert(now);
    }

    /// Judges by the round that began at `since` and has ended. The home moves only when `may_move`.
    pub(crate) fn conclude(&mut self, map: &DerpMap, since: Instant, may_move: bool, now: Instant) {
        let Some(best) = self.fastest(map, Some(since)) else {
            return;
        };
        let Some(home) = self.current.filter(|home| self.is_usable(map, *home)) else {
            self.current = Some(best);
            return;
        };
        let rtt_of = |region| self.lowest(region, Some(since)).unwrap_or_default();
        let (old, new) = (rtt_of(home), rtt_of(best));
        let lost = self.failing.get(&home);
        let is_coming_back = lost.is_some_and(|lost| now.saturating_duration_since(*lost) < PATIENCE);
        let is_alive = self.connected.contains(&home) || old > Duration::ZERO || is_coming_back;
        let is_faster = old > new + GAIN && new * 3 < old * 2;
        if may_move && (is_faster || !is_alive) {
            self.current = Some(best);
        }
    }

    /// Leaves a home whose relay stays away, when there is another region. True when it did.
    pub(crate) fn leave_failing(&mut self, map: &DerpMap, now: Instant) -> bool {
        self.failing
            .retain(|_, since| now.saturating_duration_since(*since) < EXCLUDED_FOR);
        if self.leave_at(map).is_none_or(|at| now < at) {
            return false;
        }
        let before = self.current;
        let mut others = map.regions.keys().copied();
        let other = others.find(|region| Some(*region) != before && self.is_usable(map, *region));
        self.current = self.fastest(map, None).or(other).or(before);
        self.current != before
    }

    /// When a failing home is to be left.
    pub(crate) fn leave_at(&self, map: &DerpMap) -> Option<Instant> {
        let since = self.failing.get(&self.current?)?;
        let mut others = map.regions.keys().filter(|region| Some(**region) != self.current);
        others
            .any(|region| self.is_usable(map, *region))
            .then(|| *since + PATIENCE)
    }

    fn is_usable(&self, map: &DerpMap, region: RegionId) -> bool {
        let known = map.regions.get(&region);
        let usable =
            known.is_some_and(|region| !region.no_measure_no_home && region.nodes.iter().any(|node| !node.stun_only));
        usable && (Some(region) == self.current || !self.failing.contains_key(&region))
    }

    /// The region with the lowest latency after the map's factors; only those that answered since a time, if one is given.
    fn fastest(&self, map: &DerpMap, since: Option<Instant>) -> Option<RegionId> {
        let candidates = self.latency.keys().copied();
        let candidates = candidates.filter(|region| self.is_usable(map, *region) && !self.failing.contains_key(region));
        let scored = candidates.filter_map(|region| {
            self.lowest(region, since)?;
            let factor = map.home_scores.get(&region).copied().filter(|score| *score > 0.0);
            let rtt = self.lowest(region, None)?.mul_f64(factor.unwrap_or(1.0).min(1e6));
            Some((rtt, region))
        });
        scored.min().map(|(_, region)| region)
    }

    fn lowest(&self, region: RegionId, since: Option<Instant>) -> Option<Duration> {
        let samples = self.latency.get(&region)?.iter();
        let recent = samples.filter(|(at, _)| since.is_none_or(|since| *at >= since));
        recent.map(|(_, rtt)| *rtt).min()
    }
}
