//! `POST /machine/map` as far as it changes what we know of a node, and what streams and time do to it.

use std::time::Duration;

use sandd_control_client::keys::{DiscoPublicKey, MachinePublicKey, NodePublicKey};
use sandd_control_client::wire::{Hostinfo, MapRequest, NetInfo};

use super::{Membership, NodeId, Now, name};

/// Endpoints kept of a node; more would only make peers probe in vain (S-16).
const MAX_ENDPOINTS: usize = 32;
/// Streams of one node at once: the one in use, and old ones that have not been noticed to be dead.
const MAX_STREAMS: u32 = 8;
const MAX_SERVICES: usize = 32;
const MAX_TAGS: usize = 32;
const MAX_TEXT: usize = 256;

/// Why a map request is not served; Headscale's texts, with status 404.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MapRefusal {
    #[error("node not found")]
    Unknown,
    #[error("node key in request does not match the one associated with this machine key")]
    OtherMachine,
}

impl Membership {
    /// Takes over what a map request says of its node.
    pub(crate) fn update(&mut self, machine: &MachinePublicKey, request: &MapRequest) -> Result<NodeId, MapRefusal> {
        let node_key = request.node_key.and_then(NodePublicKey::non_zero);
        let node_key = node_key.ok_or(MapRefusal::Unknown)?;
        if !self.by_key.contains_key(&node_key) {
            return Err(MapRefusal::Unknown);
        }
        let entry = self.owned(machine, &node_key).ok_or(MapRefusal::OtherMachine)?;
        let id = entry.record.id;
        if let Some(hostinfo) = &request.hostinfo {
            self.set_hostinfo(id, hostinfo);
        }
        let Some(entry) = self.nodes.get_mut(&id) else {
            return Err(MapRefusal::Unknown);
        };
        let record = &mut entry.record;
        let mut changed = false;
        if let Some(disco) = request.disco_key.and_then(DiscoPublicKey::non_zero) {
            changed |= record.disco.replace(disco) != Some(disco);
        }
        if let Some(endpoints) = &request.endpoints {
            let kept = &endpoints[..endpoints.len().min(MAX_ENDPOINTS)];
            if record.endpoints != kept {
                record.endpoints = kept.to_vec();
                changed = true;
            }
        }
        let capability = request.version.max(1);
        let is_introduction = record.capability == 0;
        changed |= record.capability != capability;
        record.capability = capability;
        if is_introduction {
            // Only now do peers see it, so only now does it count for who sees whom.
            self.touch_structure(id);
        } else if changed {
            self.touch(id);
        }
        Ok(id)
    }

    /// Takes over a description; one without `NetInfo` leaves the last one in place.
    pub(super) fn set_hostinfo(&mut self, id: NodeId, hostinfo: &Hostinfo) {
        let Some(entry) = self.nodes.get(&id) else {
            return;
        };
        let mut new = bounded(hostinfo);
        if new.net_info.is_none() {
            new.net_info.clone_from(&entry.record.hostinfo.net_info);
        }
        if new == entry.record.hostinfo {
            return;
        }
        let label = if new.hostname.is_empty() {
            entry.record.label.clone()
        } else {
            name::label(&new.hostname)
        };
        let name = if label == entry.record.label {
            entry.record.name.clone()
        } else {
            self.unique_name(&label, Some(id))
        };
        if let Some(entry) = self.nodes.get_mut(&id) {
            entry.record.hostinfo = new;
            entry.record.label = label;
            entry.record.name = name;
        }
        self.touch(id);
    }

    /// A map stream of the node begins; false when it has too many.
    pub(crate) fn stream_opened(&mut self, id: NodeId) -> bool {
        let Some(entry) = self.nodes.get_mut(&id).filter(|entry| entry.streams < MAX_STREAMS) else {
            return false;
        };
        entry.streams += 1;
        entry.away_since = None;
        if !entry.online {
            entry.online = true;
            self.revise(id);
        }
        true
    }

    /// A map stream of the node has ended; for a while it still counts as online.
    pub(crate) fn stream_closed(&mut self, id: NodeId, now: Now) {
        let Some(entry) = self.nodes.get_mut(&id) else {
            return;
        };
        entry.streams = entry.streams.saturating_sub(1);
        if entry.streams == 0 {
            entry.away_since = Some(now.instant);
            entry.record.last_seen = Some(now.wall);
        }
    }

    /// Carries out what is due: offline after the grace, expired keys, ephemeral nodes that stayed away.
    pub(crate) fn handle_timeout(&mut self, now: Now) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            let Some(entry) = self.nodes.get_mut(&id) else {
                continue;
            };
            let away = entry
                .away_since
                .map(|since| now.instant.saturating_duration_since(since));
            if entry.record.ephemeral && away.is_some_and(|away| away >= self.settings.ephemeral_timeout) {
                self.remove_node(id);
                continue;
            }
            let goes_offline = entry.online && away.is_some_and(|away| away >= self.settings.offline_grace);
            let expires = !entry.expired && entry.record.expiry.is_some_and(|expiry| expiry <= now.wall);
            if goes_offline {
                entry.online = false;
            }
            if expires {
                entry.expired = true;
            }
            if goes_offline || expires {
                self.touch(id);
            }
        }
        self.forget_old_logins(now);
    }

    /// How long until [`Self::handle_timeout`] has something to do.
    pub(crate) fn next_timeout(&self, now: Now) -> Option<Duration> {
        let after = |since: std::time::Instant, wait: Duration| {
            wait.saturating_sub(now.instant.saturating_duration_since(since))
        };
        self.nodes
            .values()
            .flat_map(|entry| {
                let gone = entry
                    .away_since
                    .filter(|_| entry.record.ephemeral)
                    .map(|since| after(since, self.settings.ephemeral_timeout));
                let offline = entry
                    .away_since
                    .filter(|_| entry.online)
                    .map(|since| after(since, self.settings.offline_grace));
                let expiry = entry
                    .record
                    .expiry
                    .filter(|_| !entry.expired)
                    .map(|expiry| expiry.duration_since(now.wall).unwrap_or_default());
                [gone, offline, expiry]
            })
            .flatten()
            .min()
    }
}

fn clip(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect()
}

/// What is kept of a description: what peers or the map need, each part bounded, because all peers get it.
pub(super) fn bounded(hostinfo: &Hostinfo) -> Hostinfo {
    let services = hostinfo.services.iter().take(MAX_SERVICES).cloned();
    let services = services.map(|mut service| {
        service.proto = clip(&service.proto);
        service.description = clip(&service.description);
        service
    });
    Hostinfo {
        ipn_version: clip(&hostinfo.ipn_version),
        os: clip(&hostinfo.os),
        os_version: clip(&hostinfo.os_version),
        hostname: clip(&hostinfo.hostname),
        shields_up: hostinfo.shields_up,
        services: services.collect(),
        userspace: hostinfo.userspace,
        net_info: hostinfo.net_info.as_ref().map(|info| NetInfo {
            preferred_derp: info.preferred_derp,
            ..NetInfo::default()
        }),
        ..Hostinfo::default()
    }
}

/// As [`bounded`], with the tags that a login asks for.
pub(super) fn bounded_with_tags(hostinfo: &Hostinfo) -> Hostinfo {
    let tags = hostinfo.request_tags.iter().take(MAX_TAGS);
    Hostinfo {
        request_tags: tags.map(|tag| clip(tag)).collect(),
        ..bounded(hostinfo)
    }
}
