//! What a change of the network under the node does: everything is asked anew at once, and nothing that still works is
//! closed. A UDP socket bound to no address survives a change of addresses, and so does the NAT's mapping for it.

use std::time::{Duration, Instant};

use super::Driver;
use crate::io::netmon::Change;
use crate::io::portmap;

/// Between two attempts to open a broken socket anew: where security software breaks them again and again, each new
/// one would only undo the path that the last one has begun to find.
const REOPEN_INTERVAL: Duration = Duration::from_secs(5);

impl Driver {
    /// Looks after the network when there is reason to.
    pub(super) fn watch_network(&mut self, now: Instant) {
        if let Some(change) = self.netmon.poll(self.engine.own_ips(), now) {
            self.handle_network_change(change, now);
        }
    }

    pub(super) fn handle_network_change(&mut self, change: Change, now: Instant) {
        tracing::info!(?change, "the network has changed");
        self.udp.open_missing();
        self.take_addresses();
        if change == Change::Moved {
            // Another NAT, perhaps: what was won at the old one is worth nothing, and a new attempt may be.
            self.udp.release_won();
            self.engine.forget_guesses();
        }
        if change != Change::Gained {
            // The peers first, then STUN: what is sent first is answered first.
            let endpoints = self.changed_endpoints();
            self.engine.handle_network_change(endpoints, now);
        }
        if matches!(change, Change::Moved | Change::Slept(_)) {
            // The connection is bound to an address that may be gone, and the coordinator is wanted for the new one.
            self.control.reconnect_now();
        }
        if matches!(change, Change::Slept(_)) {
            self.engine.handle_wake(now);
        }
        self.reach.kick(now);
        self.derp.probe();
    }

    /// Gives the router's port back.
    pub(super) async fn release_mapping(&mut self) {
        if let Some(mapping) = &mut self.port_mapping {
            mapping.shutdown().await;
        }
    }

    /// A socket cannot be used any more.
    pub(super) fn reopen(&mut self, v6: bool, now: Instant) {
        if self.state.next_reopen.is_some_and(|at| now < at) {
            return;
        }
        self.state.next_reopen = Some(now + REOPEN_INTERVAL);
        if let Err(error) = self.udp.reopen(v6) {
            tracing::warn!(%error, "a UDP socket broke and cannot be opened anew");
            return;
        }
        self.take_addresses();
        let endpoints = self.changed_endpoints();
        self.engine.handle_network_change(endpoints, now);
        self.reach.kick(now);
    }

    fn take_addresses(&mut self) {
        let ports = (self.udp.port(), self.udp.port_v6());
        let addresses = &self.netmon.network().addresses;
        self.reach.set_interfaces(addresses, ports);
        if let Some(server) = &self.relay_server {
            server.set_interfaces(addresses);
        }
        self.want_mapping();
    }

    /// Asks the router of the way out for a port.
    pub(super) fn want_mapping(&self) {
        if let Some(mapping) = &self.port_mapping {
            let uplink = self.netmon.network().v4;
            let gateway = uplink.and_then(|uplink| uplink.gateway);
            let own = uplink.and_then(|uplink| uplink.source);
            mapping.set_place(portmap::place(gateway, own, self.udp.port()));
        }
    }
}
