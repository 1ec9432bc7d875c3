//! Carries out the events of a plan.

use std::time::Duration;

use sandd_control_client::netmap::RegionId;

use super::host::{Condition, Delivered};
use super::judge;
use super::net::{INTERNET, Weather};
use super::plan::{Event, Traffic};
use super::topology;
use super::world::{Arrival, World};
use crate::packet::vnet::VnetHeader;

impl World {
    pub(super) fn apply(&mut self, event: &Event) {
        match *event {
            Event::Talk { a, b, traffic } => self.talk(a, b, traffic),
            Event::Hush { a, b } => self.judge.hush(a, b, self.now),
            Event::Burst { a, b, count } => {
                for _ in 0..count {
                    self.inject(a, b, 400);
                }
            }
            Event::Idle { .. } => self.judge.hush_all(self.now),
            Event::Weather(weather) => {
                self.net.weather = weather;
                self.disturb_all(judge::AFTER_WEATHER);
            }
            Event::Calm => {
                let before = std::mem::take(&mut self.net.weather);
                if before != Weather::default() {
                    self.disturb_all(judge::AFTER_WEATHER);
                }
            }
            Event::Cut { from, to, both_ways } => {
                self.net.cut.insert((from, to));
                if both_ways {
                    self.net.cut.insert((to, from));
                }
                self.disturb(from, to, judge::SILENCE);
            }
            Event::Heal => {
                for (from, to) in std::mem::take(&mut self.net.cut) {
                    self.disturb(from, to, judge::AFTER_HEAL);
                }
            }
            Event::Rebind { host, readdress } => self.rebind(host, readdress),
            Event::Block { host, out, inward } => {
                self.net.places[host].udp_out &= !out;
                self.net.places[host].udp_in &= !inward;
                self.disturb_host(host, judge::SILENCE);
            }
            Event::Unblock { host } => {
                let place = &mut self.net.places[host];
                if !(place.udp_in && place.udp_out) {
                    (place.udp_in, place.udp_out) = (true, true);
                    self.disturb_host(host, judge::AFTER_CHANGE);
                }
            }
            Event::Move { host, roam, reported } => self.move_host(host, roam, reported),
            Event::RelayDown { region, silent } => {
                self.relays.down.insert(RegionId(region));
                self.break_relays(silent);
            }
            Event::RelayUp { region } => {
                self.relays.down.remove(&RegionId(region));
            }
            Event::RelayCut { host, silent } => {
                self.relays.unreachable.insert(host);
                self.break_relays(silent);
            }
            Event::RelayHeal { host } => {
                self.relays.unreachable.remove(&host);
            }
            Event::ControlDown => self.control_is(false),
            Event::ControlUp => self.control_is(true),
            Event::Restart { host, pause } => self.restart(host, pause),
            Event::Sleep {
                host,
                pause,
                clock_stops,
            } => self.sleep(host, pause, clock_stops),
        }
    }

    fn control_is(&mut self, up: bool) {
        self.control.up = up;
        for host in 0..self.hosts.len() {
            let state = &mut self.hosts[host];
            let now = state.clock(self.now);
            state.reach.set_control_connected(up, now);
            if state.running() {
                self.settle(host, Delivered::default());
            }
        }
    }

    fn talk(&mut self, a: usize, b: usize, traffic: Traffic) {
        let talk = self.judge.talk(a, b, traffic, self.now);
        self.after(Duration::ZERO, Arrival::Tick { pair: (a, b), talk });
    }

    pub(super) fn tick(&mut self, pair: (usize, usize), talk: u64) {
        let Some(traffic) = self.judge.talking(pair, talk) else {
            return;
        };
        self.inject(pair.0, pair.1, traffic.size);
        if traffic.both_ways {
            self.inject(pair.1, pair.0, traffic.size);
        }
        self.after(traffic.gap, Arrival::Tick { pair, talk });
    }

    /// Hands a packet to the device of a host.
    fn inject(&mut self, from: usize, to: usize, size: usize) {
        if !self.hosts[from].running() {
            return;
        }
        self.notice_traffic(from, to);
        let due = self.due(from, to);
        let epoch = self.judge.epoch(from, to);
        let packet = self.ledger.write(from, to, size, self.now, epoch);
        if let Some(due) = due {
            self.ledger.set_due(due);
        }
        self.judge.injected(from, to, self.now);
        self.feed(from, |engine, now, _| {
            engine.handle_overlay(&VnetHeader::default(), &packet, now)
        });
    }

    fn rebind(&mut self, host: usize, readdress: bool) {
        let turn = u8::try_from(self.rng.between(1, 90)).unwrap_or(1);
        let Some(site) = self.net.ancestry(host).into_iter().next() else {
            return;
        };
        let parent = self.net.sites[site].parent.unwrap_or(INTERNET);
        let state = &mut self.net.sites[site];
        for gate in state.gate.iter_mut().chain(&mut state.gate6) {
            gate.flush();
        }
        if let Some(gate) = state.gate.as_mut().filter(|gate| readdress && gate.kind.translates) {
            gate.outer = topology::outer_address(site, parent, turn);
        }
        for other in 0..self.hosts.len() {
            if self.net.ancestry(other).contains(&site) {
                self.disturb_host(other, judge::AFTER_CHANGE);
            }
        }
    }

    fn move_host(&mut self, host: usize, roam: bool, reported: bool) {
        let site = if roam {
            topology::add_site(&mut self.net, &mut self.rng)
        } else {
            self.net.places[host].site
        };
        let old = self.net.places[host].clone();
        let mut place = topology::place_in(&self.net, site, &mut self.rng);
        place.port = old.port;
        if !roam {
            place.mtu = old.mtu;
            place.access = old.access;
        }
        self.trace.note(self.now, || format!("host {host} is at {place:?}"));
        self.net.places[host] = place;
        self.disturb_host(host, judge::AFTER_CHANGE);
        if reported {
            self.network_changed(host);
        }
    }

    fn break_relays(&mut self, silent: bool) {
        for (host, region, generation) in self.relays.break_links() {
            let notices = if silent {
                self.rng.millis(500, 2_500)
            } else {
                self.net.places[host].access
            };
            self.after(
                notices,
                Arrival::Lost {
                    host,
                    region,
                    generation,
                },
            );
            self.disturb_relayed(host);
        }
    }

    fn restart(&mut self, host: usize, pause: Duration) {
        if !self.hosts[host].running() {
            return;
        }
        self.hosts[host].condition = Condition::Off;
        self.hosts[host].deadline = None;
        for region in self.relays.regions_of(host) {
            self.relays.forget(host, region);
        }
        self.disturb_host(host, judge::AFTER_RESTART);
        self.after(pause, Arrival::Start { host });
    }

    fn sleep(&mut self, host: usize, pause: Duration, clock_stops: bool) {
        if !self.hosts[host].running() {
            return;
        }
        self.hosts[host].condition = Condition::Asleep {
            since: self.now,
            keeps: !clock_stops,
        };
        self.hosts[host].deadline = None;
        self.disturb_host(host, judge::AFTER_WAKE);
        self.after(pause, Arrival::Wake { host });
    }

    pub(super) fn wake(&mut self, host: usize) {
        let state = &mut self.hosts[host];
        let Condition::Asleep { since, keeps } = state.condition else {
            return;
        };
        state.condition = Condition::Running;
        if !keeps {
            state.lag += self.now.saturating_duration_since(since);
        }
        let kept = std::mem::take(&mut state.kept);
        self.trace
            .note(self.now, || format!("host {host} wakes with {} arrivals", kept.len()));
        for arrival in kept {
            self.after(Duration::ZERO, arrival);
        }
        self.disturb_host(host, judge::AFTER_WAKE);
        self.network_changed(host);
    }
}
