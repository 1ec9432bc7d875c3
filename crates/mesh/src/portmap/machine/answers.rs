//! What NAT-PMP and PCP answers mean to [`Portmapper`]. Only those count that were asked for, by port and nonce.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use super::{Asked, OTHERS, Phase, Portmapper, Protocol};
use crate::portmap::{LEAST_PORT, nat_pmp, pcp};

/// An epoch may be so much behind: clocks differ, datagrams overtake each other.
const EPOCH_SLACK: u64 = 2;

impl Portmapper {
    pub(super) fn handle_nat_pmp(&mut self, response: nat_pmp::Response, now: Instant) {
        match response {
            nat_pmp::Response::Address { epoch, address } => {
                self.note_epoch(epoch, now);
                self.heard.address = Some(address).filter(|address| !address.is_unspecified());
                let Some(address) = self.heard.address else { return };
                let kept = self
                    .mapping
                    .as_ref()
                    .filter(|mapping| mapping.protocol == Protocol::NatPmp);
                match self.phase {
                    Phase::Probing { .. } => {
                        self.heard.nat_pmp = true;
                        self.ask(Asked::NatPmp, now);
                    }
                    Phase::Waiting(_) if kept.is_some_and(|mapping| *mapping.external.ip() != address) => {
                        self.renew(now);
                    }
                    Phase::Waiting(_) | Phase::Asking { .. } | Phase::Talking(_) => {}
                }
            }
            nat_pmp::Response::Mapped {
                epoch,
                internal,
                external,
                lifetime,
            } => {
                self.note_epoch(epoch, now);
                let ours = self.place.is_some_and(|place| place.port == internal) && self.asking(Asked::NatPmp);
                if !ours || external < LEAST_PORT || lifetime == 0 {
                    return;
                }
                if let Some(address) = self.heard.address {
                    let life = Duration::from_secs(lifetime.into());
                    self.keep(Protocol::NatPmp, SocketAddrV4::new(address, external), life, now);
                }
            }
            nat_pmp::Response::Refused { mapping, .. } => {
                if mapping && self.asking(Asked::NatPmp) {
                    self.forget(Asked::NatPmp);
                    self.choose(now);
                }
            }
        }
    }

    pub(super) fn handle_pcp(&mut self, response: pcp::Response, now: Instant) {
        match response {
            pcp::Response::Announce { epoch } => {
                self.note_epoch(epoch, now);
                self.heard.pcp = true;
                if let Phase::Probing { decide, .. } = &mut self.phase {
                    *decide = Some(decide.map_or(now + OTHERS, |at| at.min(now + OTHERS)));
                }
            }
            pcp::Response::Mapped {
                epoch,
                nonce,
                internal,
                external,
                address,
                lifetime,
            } => {
                let ours = self.place.is_some_and(|place| place.port == internal) && nonce == self.nonce;
                if !ours || !self.asking(Asked::Pcp) {
                    return;
                }
                self.note_epoch(epoch, now);
                if external < LEAST_PORT || lifetime == 0 || address.is_unspecified() {
                    return;
                }
                let life = Duration::from_secs(lifetime.into());
                self.keep(Protocol::Pcp, SocketAddrV4::new(address, external), life, now);
            }
            pcp::Response::Refused { mapping, .. } => {
                if mapping && self.asking(Asked::Pcp) {
                    self.forget(Asked::Pcp);
                    self.choose(now);
                }
            }
        }
    }

    /// Notes the gateway's clock. When it went back, what the gateway gave before is lost, and asked for anew.
    fn note_epoch(&mut self, epoch: u32, now: Instant) {
        let restarted = self.epoch.is_some_and(|(before, at)| {
            let passed = now.saturating_duration_since(at).as_secs() * 7 / 8;
            u64::from(epoch) + EPOCH_SLACK < u64::from(before) + passed
        });
        self.epoch = Some((epoch, now));
        let by_epoch = self
            .mapping
            .as_ref()
            .is_some_and(|mapping| !matches!(mapping.protocol, Protocol::Igd(_)));
        if restarted
            && by_epoch
            && let Phase::Waiting(_) = self.phase
        {
            self.renew(now);
        }
    }
}
