//! Answers the handle's commands: status, ping, netcheck.

use std::time::Instant;

use super::{Command, Driver, WaitingPing};
use crate::error::PingError;
use crate::io::netmon::Change;
use crate::metrics::Counters;
use crate::status::{MeshStatus, NetReport, RegionLatency};

impl Driver {
    pub(super) fn handle_command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Status(answer) => {
                let _ = answer.send(self.status(now));
            }
            Command::Ping {
                name,
                to,
                timeout,
                answer,
            } => match self.engine.ping(to, timeout, now) {
                Some(seq) => {
                    self.state.pings.insert(
                        seq,
                        WaitingPing {
                            name,
                            to,
                            waited: timeout,
                            answer,
                        },
                    );
                }
                None => {
                    let _ = answer.send(Err(PingError::NoSuchPeer(name)));
                }
            },
            Command::Netcheck(answer) => {
                self.reach.kick(now);
                self.state.netchecks.push(answer);
            }
            Command::NetworkChanged => self.handle_network_change(Change::Moved, now),
            Command::Shutdown(done) => {
                let _ = done.send(());
            }
        }
    }

    fn status(&self, now: Instant) -> MeshStatus {
        let map = self.engine.map();
        MeshStatus {
            name: map.self_node.as_ref().map(|node| node.name.clone()),
            addresses: self.engine.own_ips().to_vec(),
            node_key: self.engine.node_public().to_string(),
            device: self.device.name(),
            control: self.state.control.clone(),
            home_region: self.reach.home().map(|home| home.0),
            relay_connected: self.reach.home().is_some_and(|home| self.derp.is_connected(home)),
            endpoints: self.state.told_endpoints.clone(),
            port: self.udp.port(),
            peers: self.engine.peer_status(now),
            counters: self.counters(),
        }
    }

    fn counters(&self) -> Counters {
        let drops = self.derp.drops();
        let mut counters = self.engine.counters();
        counters.dropped_queue_full +=
            self.engine.queue_dropped() + drops.sent + drops.received + self.device.refused();
        counters
    }

    pub(super) fn answer_netchecks(&mut self) {
        if self.state.netchecks.is_empty() {
            return;
        }
        let regions = &self.engine.map().derp_map.regions;
        let report = NetReport {
            udp: self.reach.mapped().next().is_some(),
            public_addresses: self.reach.mapped().collect(),
            mapping_varies: self.reach.varies(),
            home_region: self.reach.home().map(|home| home.0),
            relay_connected: self.reach.home().is_some_and(|home| self.derp.is_connected(home)),
            regions: regions
                .iter()
                .map(|(id, region)| RegionLatency {
                    region: id.0,
                    name: region.name.clone(),
                    latency_ms: self.reach.latency().get(id).map(|rtt| rtt.as_secs_f64() * 1e3),
                })
                .collect(),
        };
        for answer in self.state.netchecks.drain(..) {
            let _ = answer.send(report.clone());
        }
    }
}
