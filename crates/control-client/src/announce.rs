//! What the coordinator is told of this node, and when: pure.
//!
//! Every update makes Headscale send this whole node to every peer, so identical data is not sent, bursts become one
//! update, and a bucket of tokens keeps the steady rate at one a second. The first updates of a connection go out almost
//! at once: peers wait for the home relay and the endpoints in them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::config::EndpointKind;
use crate::keys::{DiscoPublicKey, NodePublicKey};
use crate::noise::CAPABILITY_VERSION;
use crate::wire::{Hostinfo, MapRequest, NetInfo};

/// Peers gain nothing from more.
const MAX_ENDPOINTS: usize = 20;
const QUICK_DEBOUNCE: Duration = Duration::from_millis(5);
const DEBOUNCE: Duration = Duration::from_millis(150);
const MAX_TOKENS: u32 = 4;
const TOKEN_INTERVAL: Duration = Duration::from_secs(1);

/// Everything that a map request says of us.
#[derive(Debug, Clone)]
pub(crate) struct Announcement {
    pub(crate) disco_key: DiscoPublicKey,
    pub(crate) hostinfo: Hostinfo,
    pub(crate) net_info: Option<NetInfo>,
    /// Nothing until somebody has looked.
    pub(crate) endpoints: Option<Vec<(SocketAddr, EndpointKind)>>,
}

impl Announcement {
    /// The complete description: Headscale forgets what a request leaves out.
    pub(crate) fn full_hostinfo(&self) -> Hostinfo {
        Hostinfo {
            net_info: self.net_info.clone(),
            ..self.hostinfo.clone()
        }
    }

    pub(crate) fn map_request(&self, node_key: NodePublicKey, stream: bool) -> MapRequest {
        let endpoints = self.endpoints.as_ref();
        MapRequest {
            version: CAPABILITY_VERSION.into(),
            compress: if stream { "zstd".to_owned() } else { String::new() },
            keep_alive: stream,
            node_key: Some(node_key),
            disco_key: Some(self.disco_key),
            stream,
            hostinfo: Some(self.full_hostinfo()),
            endpoints: endpoints.map(|list| list.iter().map(|(address, _)| *address).collect()),
            endpoint_types: endpoints.into_iter().flatten().map(|(_, kind)| *kind as i64).collect(),
            omit_peers: !stream,
            ..MapRequest::default()
        }
    }

    /// Takes a new list, without repetitions and not too long.
    pub(crate) fn set_endpoints(&mut self, endpoints: Vec<(SocketAddr, EndpointKind)>) {
        let mut unique: Vec<(SocketAddr, EndpointKind)> = Vec::new();
        for (address, kind) in endpoints {
            if unique.len() < MAX_ENDPOINTS && unique.iter().all(|(known, _)| *known != address) {
                unique.push((address, kind));
            }
        }
        self.endpoints = Some(unique);
    }

    /// True when telling `other` instead would be news to nobody: the order of endpoints and latencies do not count.
    pub(crate) fn says_the_same_as(&self, other: &Self) -> bool {
        let sorted = |announcement: &Self| {
            let mut endpoints = announcement.endpoints.clone().unwrap_or_default();
            endpoints.sort_unstable();
            endpoints
        };
        let same_network = match (&self.net_info, &other.net_info) {
            (Some(ours), Some(theirs)) => ours.basically_equal(theirs),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        same_network
            && self.disco_key == other.disco_key
            && self.hostinfo == other.hostinfo
            && sorted(self) == sorted(other)
    }
}

/// Decides when the next update goes out.
#[derive(Debug)]
pub(crate) struct UpdatePacer {
    told: Announcement,
    due: Option<Instant>,
    tokens: u32,
    refilled: Instant,
}

impl UpdatePacer {
    /// A stream request has told `announcement`.
    pub(crate) fn new(announcement: Announcement, now: Instant) -> Self {
        Self {
            told: announcement,
            due: None,
            tokens: MAX_TOKENS,
            refilled: now,
        }
    }

    /// Something may have changed.
    pub(crate) fn changed(&mut self, current: &Announcement, now: Instant) {
        if current.says_the_same_as(&self.told) {
            self.due = None;
        } else if self.due.is_none() {
            self.refill(now);
            let debounce = if self.tokens >= 2 { QUICK_DEBOUNCE } else { DEBOUNCE };
            let permitted = if self.tokens == 0 {
                self.refilled + TOKEN_INTERVAL
            } else {
                now
            };
            self.due = Some(permitted.max(now + debounce));
        }
    }

    /// An update is to be sent by then, whatever it says.
    pub(crate) fn require(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// An update with this content is on its way.
    pub(crate) fn sending(&mut self, now: Instant) {
        self.refill(now);
        self.tokens = self.tokens.saturating_sub(1);
        self.due = None;
    }

    /// The coordinator has taken it.
    pub(crate) fn acknowledged(&mut self, announcement: Announcement) {
        self.told = announcement;
    }

    fn refill(&mut self, now: Instant) {
        while self.tokens < MAX_TOKENS && now.duration_since(self.refilled) >= TOKEN_INTERVAL {
            self.tokens += 1;
            self.refilled += TOKEN_INTERVAL;
        }
        if self.tokens == MAX_TOKENS {
            self.refilled = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{DiscoPrivateKey, NodePrivateKey};

    fn announcement() -> Announcement {
        Announcement {
            disco_key: DiscoPrivateKey::generate().public(),
            hostinfo: Hostinfo {
                hostname: "a".into(),
                ..Hostinfo::default()
            },
            net_info: None,
            endpoints: None,
        }
    }

    fn endpoint(port: u16) -> (SocketAddr, EndpointKind) {
        (SocketAddr::from(([192, 0, 2, 1], port)), EndpointKind::Local)
    }

    #[test]
    fn requests_are_complete_and_lists_are_parallel() {
        let mut told = announcement();
        let key = NodePrivateKey::generate().public();
        assert_eq!(told.map_request(key, true).endpoints, None);
        told.set_endpoints(vec![endpoint(1), (endpoint(2).0, EndpointKind::Stun), endpoint(1)]);
        told.net_info = Some(NetInfo {
            preferred_derp: 9,
            ..NetInfo::default()
        });
        let request = told.map_request(key, true);
        assert!(request.stream && !request.omit_peers && request.compress == "zstd");
        assert_eq!(
            (request.endpoints.unwrap().len(), request.endpoint_types),
            (2, vec![1, 2])
        );
        assert_eq!(request.hostinfo.unwrap().net_info.unwrap().preferred_derp, 9);
        let lite = told.map_request(key, false);
        assert!(!lite.stream && lite.omit_peers);
        told.set_endpoints((1..100).map(endpoint).collect());
        assert_eq!(told.endpoints.unwrap().len(), MAX_ENDPOINTS);
    }

    #[test]
    fn order_and_latency_are_no_news() {
        let mut first = announcement();
        first.set_endpoints(vec![endpoint(1), endpoint(2)]);
        first.net_info = Some(NetInfo {
            preferred_derp: 1,
            ..NetInfo::default()
        });
        let mut second = first.clone();
        second.set_endpoints(vec![endpoint(2), endpoint(1)]);
        second.net_info = Some(NetInfo {
            preferred_derp: 1,
            derp_latency: [("1-v4".into(), 0.1)].into(),
            ..NetInfo::default()
        });
        assert!(first.says_the_same_as(&second));
        second.set_endpoints(vec![endpoint(2)]);
        assert!(!first.says_the_same_as(&second));
    }

    #[test]
    fn the_first_updates_are_quick_and_a_flood_is_one_a_second() {
        let start = Instant::now();
        let mut current = announcement();
        let mut pacer = UpdatePacer::new(current.clone(), start);
        pacer.changed(&current, start);
        assert_eq!(pacer.due(), None);
        let (mut now, mut sent) = (start, 0);
        for port in 1..=10_000u16 {
            now += Duration::from_millis(1);
            current.set_endpoints(vec![endpoint(port)]);
            pacer.changed(&current, now);
            if pacer.due().is_some_and(|due| due <= now) {
                if sent == 0 {
                    assert!(now - start <= Duration::from_millis(10));
                }
                sent += 1;
                pacer.sending(now);
                pacer.acknowledged(current.clone());
            }
        }
        assert!((10..=14).contains(&sent), "{sent} updates in 10 s");
    }

    #[test]
    fn a_change_taken_back_is_not_sent_but_a_required_update_is() {
        let now = Instant::now();
        let before = announcement();
        let mut after = before.clone();
        after.set_endpoints(vec![endpoint(1)]);
        let mut pacer = UpdatePacer::new(before.clone(), now);
        pacer.changed(&after, now);
        assert!(pacer.due().is_some());
        pacer.changed(&before, now);
        assert_eq!(pacer.due(), None);
        pacer.require(now);
        assert_eq!(pacer.due(), Some(now));
    }
}
