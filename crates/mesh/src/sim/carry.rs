//! What a host's driver does: timers, what the engine wants sent and said, the words to coordinator and relays.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::control::{Statement, update_for};
use super::host::{Condition, Delivered, count};
use super::world::{Arrival, World};
use crate::disco::Nat;
use crate::engine::{Output, Underlay};
use crate::event::MeshEvent;
use crate::netcheck::StunServer;
use sandd_control_client::netmap::RegionId;

/// Turns of a host at one moment without anything from outside.
const SPINS: u32 = 20;
/// Timeouts of a host in a second.
const TIMEOUTS: u32 = 400;

impl World {
    /// A host's deadline has come.
    pub(super) fn timeout(&mut self, host: usize) {
        let state = &mut self.hosts[host];
        let now = state.clock(self.now);
        let spins = match state.work.spins {
            Some((at, spins)) if at == self.now => spins + 1,
            Some(_) | None => 1,
        };
        state.work.spins = Some((self.now, spins));
        let busy = count(&mut state.work.timeouts, self.now, Duration::from_secs(1));
        if state.engine.poll_timeout().is_some_and(|at| at <= now) {
            state.engine.handle_timeout(now);
        }
        if state.reach.poll_timeout() <= now {
            state.reach.leave_failing_home(now);
        }
        self.settle(host, Delivered::default());
        if spins > SPINS || busy > TIMEOUTS {
            self.blame(format!(
                "host {host} never rests: {spins} timeouts at one moment, {busy} in a second"
            ));
        }
    }

    /// Carries out what a host wants after it was given something.
    pub(super) fn settle(&mut self, host: usize, delivered: Delivered) {
        for packet in delivered.0 {
            self.deliver(host, &packet);
        }
        let state = &mut self.hosts[host];
        let now = state.clock(self.now);
        let engine = &state.engine;
        let requests = state.reach.poll_requests(|| engine.has_sessions(), now);
        for (to, request) in requests {
            state.engine.queue().push(Underlay::Udp(to), &request);
        }
        if self.hosts[host].reach.take_changed() {
            self.publish_reach(host, now);
        }
        self.drain_outputs(host, now);
        let mut sends = Vec::new();
        let queue = self.hosts[host].engine.queue();
        while let Some(batch) = queue.front() {
            let to = batch.to();
            sends.extend(
                batch
                    .contents()
                    .chunks(batch.stride())
                    .map(|datagram| (to, datagram.to_vec())),
            );
            queue.pop();
        }
        for (to, datagram) in sends {
            let address = match to {
                Underlay::Udp(addr) => Some(addr),
                Underlay::Derp { .. } => None,
                // No policy here grants a relay among peers.
                Underlay::PeerRelay(_) => continue,
            };
            self.watch_sending(host, address, &datagram);
            match to {
                Underlay::Udp(addr) => self.send_udp(host, addr, datagram),
                Underlay::Derp { region, key } => self.send_relayed(host, region, key, datagram),
                Underlay::PeerRelay(_) => {}
            }
        }
        self.hosts[host].rearm();
    }

    fn drain_outputs(&mut self, host: usize, now: Instant) {
        while let Some(output) = self.hosts[host].engine.poll_output() {
            match output {
                Output::Deliver(packet) => self.deliver(host, &packet),
                Output::Observed { by, seen } => self.hosts[host].reach.observe_mapped(by, seen, now),
                Output::MapOutdated => {
                    let way = self.net.places[host].access * 4;
                    self.after(way, Arrival::Asks { host });
                }
                Output::Event(MeshEvent::PathChanged { name, path, .. }) => {
                    self.trace.note(self.now, || format!("host {host}: {name} is {path}"));
                }
                Output::Event(MeshEvent::PeerConnected { name, .. }) => {
                    self.trace
                        .note(self.now, || format!("host {host}: session with {name}"));
                }
                Output::Suspected => self.hosts[host].reach.doubt(now),
                Output::Event(_)
                | Output::Ponged(_)
                | Output::PeerMtu { .. }
                | Output::OpenGuess(_)
                | Output::CloseGuess
                | Output::AllocateRelay(_) => {}
            }
        }
    }

    fn deliver(&mut self, host: usize, packet: &[u8]) {
        if let Err(offence) = self.ledger.read(host, packet, self.now) {
            self.blame(offence);
        }
    }

    fn publish_reach(&mut self, host: usize, now: Instant) {
        let moved = self.changed_endpoints(host);
        let state = &mut self.hosts[host];
        state.engine.set_nat(match state.reach.varies() {
            Some(true) => Nat::Hard,
            Some(false) => Nat::Easy,
            None => Nat::Unknown,
        });
        let home = state.reach.home();
        let another_home = home != state.home;
        state.home = home;
        if let Some(home) = home {
            self.connect(host, home);
        }
        if let Some(endpoints) = moved {
            self.hosts[host].engine.set_endpoints(endpoints, now);
        } else if another_home {
            self.tell_control(host);
        }
    }

    /// Our endpoints, told to the coordinator, when they are others than before.
    fn changed_endpoints(&mut self, host: usize) -> Option<Vec<SocketAddr>> {
        let state = &mut self.hosts[host];
        let mut endpoints: Vec<_> = state.reach.endpoints().into_iter().map(|(addr, _)| addr).collect();
        endpoints.sort();
        if endpoints == state.told_endpoints {
            return None;
        }
        state.told_endpoints.clone_from(&endpoints);
        self.watch_telling(host);
        self.tell_control(host);
        Some(endpoints)
    }

    fn tell_control(&mut self, host: usize) {
        let state = &self.hosts[host];
        let statement = Statement {
            disco: state.disco,
            endpoints: state.told_endpoints.clone(),
            home: state.reach.home(),
        };
        self.trace.note(self.now, || {
            format!("host {host} tells {:?} {:?}", statement.home, statement.endpoints)
        });
        let way = self.net.places[host].access + Duration::from_millis(20);
        self.after(way, Arrival::Heard { host, statement });
    }

    /// The system says that the network is another one, or that the machine has slept.
    pub(super) fn network_changed(&mut self, host: usize) {
        let addresses = self.net.places[host].addresses();
        let state = &mut self.hosts[host];
        if !state.running() {
            return;
        }
        let now = state.clock(self.now);
        state.set_interfaces(addresses);
        let endpoints = self.changed_endpoints(host);
        let state = &mut self.hosts[host];
        state.engine.handle_network_change(endpoints, now);
        state.reach.kick(now);
        self.settle(host, Delivered::default());
    }

    /// Interfaces are read now and then, too, where no message tells of a change.
    pub(super) fn read_interfaces(&mut self) {
        for host in 0..self.hosts.len() {
            if self.hosts[host].running() && self.hosts[host].interfaces != self.net.places[host].addresses() {
                self.network_changed(host);
            }
        }
    }

    pub(super) fn control_hears(&mut self, host: usize, statement: &Statement) {
        if !self.control.up {
            // Its client says it again until it is heard.
            let statement = statement.clone();
            return self.after(Duration::from_millis(500), Arrival::Heard { host, statement });
        }
        // What a node says while it restarts may be of its last life.
        if self.hosts[host].disco != statement.disco {
            return;
        }
        if self.control.hear(host, statement) && !self.control.gathering {
            self.control.gathering = true;
            self.after(self.control.delay, Arrival::Tell);
        }
    }

    pub(super) fn control_tells(&mut self) {
        if !self.control.up {
            return self.after(Duration::from_millis(500), Arrival::Tell);
        }
        self.control.gathering = false;
        let members = self.control.members();
        for host in 0..self.hosts.len() {
            let way = self.net.places[host].access + Duration::from_millis(5);
            let members = members.clone();
            self.after(way, Arrival::Map { host, members });
        }
    }

    /// A node that has just started wants to know what is so now.
    pub(super) fn control_answers(&mut self, host: usize) {
        if !self.control.up {
            return self.after(Duration::from_millis(500), Arrival::Asks { host });
        }
        let way = self.net.places[host].access;
        let members = self.control.members();
        self.after(way, Arrival::Map { host, members });
    }

    pub(super) fn receive_map(&mut self, host: usize, members: super::control::Members, cached: bool) {
        let relay_map = self.relay_map.clone();
        let state = &mut self.hosts[host];
        if !state.running() {
            return;
        }
        let now = state.clock(self.now);
        let before = state.engine.map();
        let mut update = update_for(host, &members, &before, &relay_map);
        update.cached = cached;
        state.members = Some(members);
        let known = before.peers.len();
        if update.delta.derp_map {
            state.reach.set_map(relay_map);
            let servers = self.net.stun.iter().zip(1..).map(|(addr, number)| StunServer {
                region: RegionId(number),
                addr: *addr,
            });
            let servers = servers.collect();
            self.hosts[host].reach.set_servers(servers, now);
        }
        self.feed(host, |engine, now, _| engine.handle_netmap(&update, now));
        if update.map.peers.len() != known {
            self.disturb_host(host, super::judge::AFTER_MAP);
        }
    }

    fn send_udp(&mut self, host: usize, to: SocketAddr, mut payload: Vec<u8>) {
        let mtu = self.net.places[host].mtu;
        let Some(transit) = self.net.depart(host, to, self.now) else {
            return;
        };
        let weather = self.net.weather;
        if payload.len() + 28 > mtu || self.rng.per_mille(weather.loss) {
            return;
        }
        let leg = self.net.first_leg(&transit);
        if self.rng.per_mille(weather.duplication) {
            let again = leg + self.jitter();
            self.after(again, Arrival::Edge(transit, payload.clone()));
        }
        if self.rng.per_mille(weather.corruption) {
            let at = self.rng.index(payload.len());
            payload[at] ^= 1 << self.rng.index(8);
        }
        let leg = leg + self.jitter();
        self.after(leg, Arrival::Edge(transit, payload));
    }

    fn jitter(&mut self) -> Duration {
        let most = u64::try_from(self.net.weather.jitter.as_micros()).unwrap_or(0);
        Duration::from_micros(self.rng.below(most + 1))
    }

    pub(super) fn start_host(&mut self, host: usize) {
        let port = self.net.places[host].port;
        let (start, now) = (self.start, self.now);
        self.hosts[host].renew(&mut self.rng, port, start, now);
        self.hosts[host].condition = Condition::Running;
        let connected = self.control.up;
        self.hosts[host].reach.set_control_connected(connected, now);
        self.trace.note(self.now, || format!("host {host} starts"));
        let addresses = self.net.places[host].addresses();
        self.hosts[host].set_interfaces(addresses);
        if let Some(members) = self.hosts[host].members.clone() {
            self.receive_map(host, members, true);
        }
        let way = self.net.places[host].access * 4;
        self.after(way, Arrival::Asks { host });
        self.settle(host, Delivered::default());
        let bound = if connected {
            super::judge::AFTER_RESTART
        } else {
            super::judge::AFTER_SECRET_RESTART
        };
        self.disturb_host(host, bound);
    }
}
