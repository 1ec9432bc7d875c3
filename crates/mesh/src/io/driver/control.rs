//! The coordinator's events, carried into the engine, the relays and the device; and what it is told in turn.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use sandd_control_client::netmap::NetmapUpdate;
use sandd_control_client::{ControlEvent, ControlState};
use tokio::sync::oneshot;

use super::Driver;
use crate::disco::Nat;
use crate::engine::Snapshot;
use crate::event::MeshEvent;
use crate::io::resolve;
use crate::status::ControlStatus;

impl Driver {
    pub(super) async fn handle_control(&mut self, event: ControlEvent, now: Instant) {
        match event {
            ControlEvent::Netmap(update) => self.apply_netmap(&update, now).await,
            ControlEvent::NodeKey(key) => {
                self.derp.set_node_key(key.clone());
                self.engine.set_node_key(&key);
                self.publish_snapshot(None);
            }
            ControlEvent::State(state) => self.control_state(state, now),
            other => tracing::debug!(event = ?other, "an event of a later control client"),
        }
    }

    async fn apply_netmap(&mut self, update: &NetmapUpdate, now: Instant) {
        let started = Instant::now();
        if update.map.lock_enabled {
            let reason = "tailnet lock is on in this tailnet and is not supported: there are no peers".to_owned();
            self.tell(MeshEvent::NeedsAttention { reason });
        }
        self.engine.handle_netmap(update, now);
        if update.delta.derp_map {
            let map = Arc::clone(&update.map.derp_map);
            self.derp.set_map(Arc::clone(&map));
            self.reach.set_map(Arc::clone(&map));
            let (answer, resolving) = oneshot::channel();
            // Ends by itself when the answer is no longer wanted or the system's DNS gives up.
            self.runtime.spawn(async move {
                let _ = answer.send(resolve::stun_servers(map).await);
            });
            self.state.resolving = Some(resolving);
        }
        let own = self.engine.own_ips().to_vec();
        let routes = self.engine.take_device_routes();
        let moved = update.delta.self_node || routes.is_some();
        if moved && let Err(error) = self.device.configure(&own, routes.as_deref()).await {
            self.engine.mark_device_routes();
            let reason = format!("the device cannot be configured: {error}; it is tried again with the next change");
            self.tell(MeshEvent::NeedsAttention { reason });
        }
        self.publish_snapshot(Some(update.cached));
        // Thousands of newcomers would push it out of reach of whoever waits for it.
        self.drain_outputs(now);
        self.tell(MeshEvent::NetmapApplied {
            peers: update.map.peers.len(),
            cached: update.cached,
            took: started.elapsed(),
        });
    }

    fn control_state(&mut self, state: ControlState, now: Instant) {
        self.reach
            .set_control_connected(matches!(state, ControlState::Connected), now);
        let status = &mut self.state.control;
        let event = match state {
            ControlState::Connecting => {
                status.state = "connecting".to_owned();
                None
            }
            ControlState::LoginRequired { url } => {
                *status = ControlStatus {
                    state: "login-required".to_owned(),
                    error: None,
                    login_url: Some(url.clone()),
                };
                Some(MeshEvent::LoginRequired { url })
            }
            ControlState::Registered => None,
            ControlState::Connected => {
                *status = ControlStatus {
                    state: "connected".to_owned(),
                    ..ControlStatus::default()
                };
                // A relay that asks the coordinator whom to admit may do so now.
                self.derp.probe();
                Some(MeshEvent::ControlConnected)
            }
            ControlState::Disconnected { error, retry_in } => {
                status.state = "disconnected".to_owned();
                status.error = Some(error.to_string());
                Some(MeshEvent::ControlDisconnected {
                    reason: error.to_string(),
                    retry_in,
                })
            }
            ControlState::Stopped { error } => {
                status.state = "stopped".to_owned();
                status.error = Some(error.to_string());
                let reason = error.to_string();
                self.fail_snapshot(error);
                Some(MeshEvent::NeedsAttention { reason })
            }
            ControlState::LoggedOut => {
                *status = ControlStatus {
                    state: "logged-out".to_owned(),
                    ..ControlStatus::default()
                };
                Some(MeshEvent::NeedsAttention {
                    reason: "this node was logged out".to_owned(),
                })
            }
            other => {
                tracing::debug!(state = ?other, "a state of a later control client");
                None
            }
        };
        if let Some(event) = event {
            self.tell(event);
        }
    }

    /// Tells the coordinator, the peers and the relays how this node is reached, when that has changed.
    pub(super) fn publish_reach(&mut self, now: Instant) {
        if let Some(addresses) = self.changed_endpoints() {
            self.engine.set_endpoints(addresses, now);
        }
        self.engine.set_nat(match self.reach.varies() {
            Some(true) => Nat::Hard,
            Some(false) => Nat::Easy,
            None => Nat::Unknown,
        });
        let home = self.reach.home();
        let info = self.reach.net_info();
        let told = self.state.told_net_info.as_ref();
        let same = told.is_some_and(|told| told.basically_equal(&info));
        if !same && home.is_some() {
            self.state.told_net_info = Some(info.clone());
            self.derp.set_home(home);
            self.control.set_net_info(info);
        }
    }

    /// What the next run needs for a short login.
    pub(super) fn keep_relay_keys(&self) {
        let keys = self.derp.server_keys();
        if keys != self.control.relay_keys() {
            self.control.set_relay_keys(keys);
        }
    }

    /// Tells the coordinator our endpoints if they are others than before, and gives them to be told to the peers.
    pub(super) fn changed_endpoints(&mut self) -> Option<Vec<SocketAddr>> {
        let endpoints = self.reach.endpoints();
        let mut addresses: Vec<_> = endpoints.iter().map(|(addr, _)| *addr).collect();
        addresses.sort();
        if addresses == self.state.told_endpoints {
            return None;
        }
        tracing::debug!(?endpoints, "endpoints changed");
        self.state.told_endpoints.clone_from(&addresses);
        self.control.set_endpoints(endpoints);
        Some(addresses)
    }

    pub(super) fn publish_snapshot(&self, applied: Option<bool>) {
        let map = self.engine.map();
        let names = self.engine.names();
        let own = self.engine.own_ips().to_vec();
        let node_key = self.engine.node_public();
        self.snapshot.send_modify(|current| {
            let mut next = Snapshot::clone(current);
            next.map = map;
            next.names = names;
            next.own_ips = own;
            next.node_key = Some(node_key);
            next.applied |= applied.is_some();
            if applied == Some(false) {
                next.failed = None;
            }
            *current = Arc::new(next);
        });
    }

    fn fail_snapshot(&self, error: Arc<sandd_control_client::ControlError>) {
        self.snapshot.send_modify(|current| {
            let mut next = Snapshot::clone(current);
            next.failed = Some(error);
            *current = Arc::new(next);
        });
    }
}
