//! The ways over a relay: connecting, what goes there and comes from there, and the loss of a connection.

use std::net::SocketAddr;
use std::time::Duration;

use sandd_control_client::keys::NodePublicKey;
use sandd_control_client::netmap::RegionId;

use super::host::Delivered;
use super::net::Transit;
use super::relay::LinkState;
use super::trace::relay_addr;
use super::world::{Arrival, World};

impl World {
    /// A host wants a connection to a relay.
    pub(super) fn connect(&mut self, host: usize, region: RegionId) {
        if let Some(generation) = self.relays.begin(host, region) {
            let handshake = self.net.places[host].access * 6;
            self.after(
                handshake,
                Arrival::Dial {
                    host,
                    region,
                    generation,
                },
            );
        }
    }

    pub(super) fn send_relayed(&mut self, host: usize, region: RegionId, key: NodePublicKey, payload: Vec<u8>) {
        self.connect(host, region);
        let way = self.net.places[host].access;
        let arrives = self.now + way;
        let Some(link) = self.relays.link(host, region) else {
            return;
        };
        if link.state == LinkState::Connecting {
            return link.wait(key, payload);
        }
        let (at, generation) = (link.in_order(true, arrives), link.generation);
        self.at(
            at,
            Arrival::AtRelay {
                from: host,
                region,
                generation,
                key,
                payload,
            },
        );
    }

    pub(super) fn at_relay(
        &mut self,
        from: usize,
        region: RegionId,
        generation: u64,
        key: NodePublicKey,
        payload: Vec<u8>,
    ) {
        let alive = |link: &mut super::relay::Link| link.alive && link.generation == generation;
        if !self.relays.link(from, region).is_some_and(alive) {
            return;
        }
        let to = self.hosts.iter().position(|host| host.public == key);
        let Some(to) = to.filter(|to| self.relays.serves(*to, region)) else {
            let way = self.net.places[from].access;
            return self.after(
                way,
                Arrival::Gone {
                    host: from,
                    region,
                    key,
                },
            );
        };
        let arrives = self.now + self.net.places[to].access;
        let source = self.hosts[from].public;
        let Some(link) = self.relays.link(to, region) else {
            return;
        };
        let (at, generation) = (link.in_order(false, arrives), link.generation);
        self.at(
            at,
            Arrival::Relayed {
                host: to,
                region,
                generation,
                key: source,
                payload,
            },
        );
    }

    pub(super) fn receive_relayed(
        &mut self,
        host: usize,
        region: RegionId,
        generation: u64,
        key: NodePublicKey,
        mut payload: Vec<u8>,
    ) {
        let mine = |link: &mut super::relay::Link| link.generation == generation && link.state == LinkState::Up;
        if !self.relays.link(host, region).is_some_and(mine) {
            return;
        }
        let from = self.hosts.iter().position(|host| host.public == key).unwrap_or(0);
        let transit = Transit {
            from: Some(from),
            site: 0,
            src: relay_addr(region.0),
            dst: SocketAddr::from((self.net.places[host].v4, region.0)),
        };
        self.trace.datagram(self.now, transit.src, transit.dst, &payload);
        let stride = payload.len();
        self.feed(host, |engine, now, out| {
            engine.handle_derp(region, key, &mut payload, stride, now, out);
        });
    }

    pub(super) fn dial(&mut self, host: usize, region: RegionId, generation: u64) {
        let reachable = self.relays.reachable(host, region);
        let Some(link) = self
            .relays
            .link(host, region)
            .filter(|link| link.generation == generation)
        else {
            return;
        };
        if !reachable {
            link.tries += 1;
            link.waiting.clear();
            let pause = Duration::from_millis(250 << link.tries.min(4));
            self.after(
                pause,
                Arrival::Dial {
                    host,
                    region,
                    generation,
                },
            );
            let state = &mut self.hosts[host];
            let now = state.clock(self.now);
            state.reach.relay_failed(region, now);
            return self.settle(host, Delivered::default());
        }
        link.state = LinkState::Up;
        link.alive = true;
        link.tries = 0;
        let waiting = std::mem::take(&mut link.waiting);
        self.trace
            .note(self.now, || format!("host {host}: relay {} is there", region.0));
        for (key, payload) in waiting {
            self.send_relayed(host, region, key, payload);
        }
        self.hosts[host].reach.relay_connected(region);
        self.feed(host, |engine, now, _| engine.handle_relay(region, true, now));
        self.disturb_relayed(host);
    }

    pub(super) fn link_lost(&mut self, host: usize, region: RegionId, generation: u64) {
        if self
            .relays
            .link(host, region)
            .is_none_or(|link| link.generation != generation)
        {
            return;
        }
        self.trace
            .note(self.now, || format!("host {host}: relay {} is lost", region.0));
        self.relays.forget(host, region);
        let state = &mut self.hosts[host];
        let now = state.clock(self.now);
        state.reach.relay_failed(region, now);
        self.feed(host, |engine, now, _| engine.handle_relay(region, false, now));
        self.disturb_relayed(host);
        self.connect(host, region);
    }
}
