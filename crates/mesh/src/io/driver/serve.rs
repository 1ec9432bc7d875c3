//! Answers the handle's commands: status, ping, netcheck.

use std::time::Instant;

use super::{Command, Driver, WaitingPing};
use crate::engine::{PingOutcome, RelayRequest, seconds};
use crate::error::PingError;
use crate::io::netmon::Change;
use crate::metrics::Counters;
use crate::status::{MeshStatus, PingReply};

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

    pub(super) fn finish_ping(&mut self, outcome: PingOutcome) {
        let Some(waiting) = self.state.pings.remove(&outcome.seq) else {
            return;
        };
        let answer = match outcome.reply {
            Some((rtt, path)) => Ok(PingReply {
                name: waiting.name,
                address: waiting.to,
                rtt_ms: rtt.as_secs_f64() * 1e3,
                path,
            }),
            None => Err(PingError::TimedOut {
                peer: waiting.name,
                waited_ms: waiting.waited.as_millis(),
                path: self.engine.path_to(waiting.to).to_string(),
            }),
        };
        let _ = waiting.answer.send(answer);
    }

    fn status(&self, now: Instant) -> MeshStatus {
        let map = self.engine.map();
        let home = self.reach.home();
        let key_expiry = map.self_node.as_ref().and_then(|node| node.key_expiry);
        MeshStatus {
            name: map.self_node.as_ref().map(|node| node.name.clone()),
            addresses: self.engine.own_ips().to_vec(),
            node_key: self.engine.node_public().to_string(),
            device: self.device.name(),
            control: self.state.control.clone(),
            home_region: home.map(|home| home.0),
            relay_connected: home.is_some_and(|home| self.derp.is_connected(home)),
            endpoints: self.state.told_endpoints.clone(),
            port: self.udp.port(),
            coordinator: self.derp.control().to_string(),
            relay_trouble: home.and_then(|home| self.derp.trouble(home)),
            udp: self.reach.udp(),
            mapping_varies: self.reach.varies(),
            port_mapped: self.reach.port_mapped(),
            key_expiry: key_expiry.and_then(seconds),
            warnings: map.health.clone(),
            peer_relay: self.relay_server.as_ref().map(|server| server.status()),
            peers: self.engine.peer_status(now),
            counters: self.counters(),
        }
    }

    /// Our relay server's answer to a peer that may ask.
    pub(super) fn allocate_relay(&mut self, request: &RelayRequest, now: Instant) {
        let server = self.relay_server.as_ref();
        if let Some(endpoint) = server.and_then(|server| server.allocate(request.asking, request.clients, now)) {
            self.engine.answer_relay_request(request, endpoint);
        }
    }

    fn counters(&self) -> Counters {
        let drops = self.derp.drops();
        let mut counters = self.engine.counters();
        counters.dropped_queue_full +=
            self.engine.queue_dropped() + drops.sent + drops.received + self.device.refused();
        counters
    }
}
