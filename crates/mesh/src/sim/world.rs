//! [`World`]: hosts, network, relays and coordinator under one invented clock. It goes from one arrival or deadline to the
//! next, whichever is first; nothing in it waits.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sandd_control_client::keys::NodePublicKey;
use sandd_control_client::netmap::{DerpMap, RegionId};
use std::sync::Arc;

use super::control::{self, Control, Members, Statement};
use super::host::{Condition, Delivered, Host};
use super::judge::Judge;
use super::ledger::Ledger;
use super::net::{Net, Target, Transit};
use super::plan::{Event, Plan};
use super::relay::Relays;
use super::rng::Rng;
use super::topology;
use super::trace::Trace;

/// Something that reaches somebody at some time.
#[derive(Debug)]
pub(super) enum Arrival {
    /// A datagram at the end of its first leg.
    Edge(Transit, Vec<u8>),
    /// A datagram at a host.
    Datagram {
        host: usize,
        transit: Transit,
        payload: Vec<u8>,
    },
    /// A packet at a relay.
    AtRelay {
        from: usize,
        region: RegionId,
        generation: u64,
        key: NodePublicKey,
        payload: Vec<u8>,
    },
    /// A packet that a relay hands out.
    Relayed {
        host: usize,
        region: RegionId,
        generation: u64,
        key: NodePublicKey,
        payload: Vec<u8>,
    },
    /// A relay says that a client is not there.
    Gone {
        host: usize,
        region: RegionId,
        key: NodePublicKey,
    },
    /// A host tries to connect to a relay.
    Dial {
        host: usize,
        region: RegionId,
        generation: u64,
    },
    /// A host notices that a connection is dead.
    Lost {
        host: usize,
        region: RegionId,
        generation: u64,
    },
    /// The coordinator hears from a host.
    Heard {
        host: usize,
        statement: Statement,
    },
    /// A host that has just started asks the coordinator.
    Asks {
        host: usize,
    },
    /// The coordinator tells what it has gathered.
    Tell,
    Map {
        host: usize,
        members: Members,
    },
    /// Traffic between two hosts: the next packet. The number tells one conversation from the one before.
    Tick {
        pair: (usize, usize),
        talk: u64,
    },
    /// A host starts, or goes on.
    Start {
        host: usize,
    },
    Wake {
        host: usize,
    },
    /// The judge looks at everything.
    Look,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct World {
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) rng: Rng,
    pub(super) net: Net,
    pub(super) relays: Relays,
    pub(super) relay_map: Arc<DerpMap>,
    pub(super) control: Control,
    pub(super) hosts: Vec<Host>,
    agenda: BTreeMap<(Instant, u64), Arrival>,
    numbers: u64,
    looks: u64,
    pub(super) ledger: Ledger,
    pub(super) judge: Judge,
    pub(super) trace: Trace,
    /// What was found wrong first.
    pub(super) offence: Option<String>,
}

impl World {
    pub(super) fn new(plan: &Plan, start: Instant, records: bool) -> Self {
        let mut rng = Rng::new(plan.seed, 1);
        let net = topology::draw(&mut rng, plan.hosts);
        let mut control = Control::new(&mut rng);
        let hosts: Vec<_> = net
            .places
            .iter()
            .map(|place| Host::new(&mut rng, place.port, start))
            .collect();
        for host in &hosts {
            control.admit(host.public);
        }
        let mut world = Self {
            start,
            now: start,
            rng,
            judge: Judge::new(plan.hosts, start),
            net,
            relays: Relays::default(),
            relay_map: control::relays(),
            control,
            hosts,
            agenda: BTreeMap::new(),
            numbers: 0,
            looks: 0,
            ledger: Ledger::default(),
            trace: Trace::new(start, records),
            offence: None,
        };
        for host in 0..plan.hosts {
            let delay = world.rng.millis(0, 1_500);
            world.after(delay, Arrival::Start { host });
        }
        world.after(Duration::from_millis(500), Arrival::Look);
        world.describe();
        world
    }

    fn describe(&mut self) {
        for host in 0..self.hosts.len() {
            let place = self.net.places[host].clone();
            let gates: Vec<_> = self
                .net
                .ancestry(host)
                .into_iter()
                .filter_map(|site| self.net.sites.get(site)?.gate.as_ref())
                .map(|gate| (gate.outer, gate.kind))
                .collect();
            self.trace
                .note(self.now, || format!("host {host}: {place:?} behind {gates:?}"));
        }
        let control = &self.control;
        self.trace.note(self.now, || format!("{control:?}"));
    }

    /// Plays a plan. Stops at the first offence; returns the number of steps done.
    pub(super) fn play(&mut self, plan: &Plan) -> usize {
        self.advance(Duration::from_secs(6));
        for (number, step) in plan.steps.iter().enumerate() {
            if self.offence.is_some() {
                return number;
            }
            self.trace.note(self.now, || format!("step {number}: {:?}", step.event));
            self.apply(&step.event);
            let pause = if let Event::Idle { pause } = step.event {
                pause
            } else {
                Duration::ZERO
            };
            self.advance(pause + step.wait);
        }
        self.advance(Duration::from_secs(3));
        plan.steps.len()
    }

    /// Something comes after `delay`.
    pub(super) fn after(&mut self, delay: Duration, arrival: Arrival) {
        self.at(self.now + delay, arrival);
    }

    pub(super) fn at(&mut self, at: Instant, arrival: Arrival) {
        self.numbers += 1;
        self.agenda.insert((at, self.numbers), arrival);
    }

    /// The first offence counts.
    pub(super) fn blame(&mut self, what: String) {
        self.trace.note(self.now, || format!("OFFENCE {what}"));
        if self.offence.is_none() {
            for (number, host) in self.hosts.iter().enumerate() {
                let counters = host.engine.counters();
                self.trace.note(self.now, || format!("host {number}: {counters:?}"));
            }
        }
        self.offence.get_or_insert(what);
    }

    fn advance(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.offence.is_none() {
            let arrival = self.agenda.first_key_value().map(|((at, _), _)| *at);
            let due = self
                .hosts
                .iter()
                .enumerate()
                .filter_map(|(host, state)| Some((state.deadline?, host)))
                .min();
            match (arrival, due) {
                (Some(at), due) if at <= end && due.is_none_or(|(deadline, _)| at <= deadline) => {
                    self.now = self.now.max(at);
                    if let Some((_, arrival)) = self.agenda.pop_first() {
                        self.handle(arrival);
                    }
                }
                (_, Some((deadline, host))) if deadline <= end => {
                    self.now = self.now.max(deadline);
                    self.timeout(host);
                }
                _ => break,
            }
        }
        self.now = self.now.max(end);
    }

    fn handle(&mut self, arrival: Arrival) {
        let Some(arrival) = self.keep_while_asleep(arrival) else {
            return;
        };
        match arrival {
            Arrival::Edge(transit, payload) => self.at_edge(&transit, payload),
            Arrival::Datagram { host, transit, payload } => self.receive(host, &transit, payload),
            Arrival::AtRelay {
                from,
                region,
                generation,
                key,
                payload,
            } => {
                self.at_relay(from, region, generation, key, payload);
            }
            Arrival::Relayed {
                host,
                region,
                generation,
                key,
                payload,
            } => {
                self.receive_relayed(host, region, generation, key, payload);
            }
            Arrival::Gone { host, region, key } => {
                self.feed(host, |engine, _, _| engine.handle_peer_gone(region, &key));
            }
            Arrival::Dial {
                host,
                region,
                generation,
            } => self.dial(host, region, generation),
            Arrival::Lost {
                host,
                region,
                generation,
            } => self.link_lost(host, region, generation),
            Arrival::Heard { host, statement } => self.control_hears(host, &statement),
            Arrival::Asks { host } => self.control_answers(host),
            Arrival::Tell => self.control_tells(),
            Arrival::Map { host, members } => self.receive_map(host, members, false),
            Arrival::Tick { pair, talk } => self.tick(pair, talk),
            Arrival::Start { host } => self.start_host(host),
            Arrival::Wake { host } => self.wake(host),
            Arrival::Look => {
                self.look();
                self.looks += 1;
                if self.looks.is_multiple_of(20) {
                    self.read_interfaces();
                }
                self.after(Duration::from_millis(500), Arrival::Look);
            }
        }
    }

    /// A host that is asleep finds it when it wakes; one that is off never does.
    fn keep_while_asleep(&mut self, arrival: Arrival) -> Option<Arrival> {
        const KEPT: usize = 400;
        let host = match &arrival {
            Arrival::Datagram { host, .. }
            | Arrival::Relayed { host, .. }
            | Arrival::Gone { host, .. }
            | Arrival::Dial { host, .. }
            | Arrival::Lost { host, .. }
            | Arrival::Map { host, .. } => *host,
            Arrival::Edge(..)
            | Arrival::AtRelay { .. }
            | Arrival::Heard { .. }
            | Arrival::Asks { .. }
            | Arrival::Tell
            | Arrival::Tick { .. }
            | Arrival::Start { .. }
            | Arrival::Wake { .. }
            | Arrival::Look => return Some(arrival),
        };
        let state = self.hosts.get_mut(host)?;
        match state.condition {
            Condition::Running => Some(arrival),
            Condition::Asleep { keeps, .. } => {
                let lossy = matches!(arrival, Arrival::Datagram { .. });
                if !lossy || (keeps && state.kept.len() < KEPT) {
                    state.kept.push_back(arrival);
                }
                None
            }
            Condition::Off => None,
        }
    }

    fn at_edge(&mut self, transit: &Transit, payload: Vec<u8>) {
        match self.net.arrive(transit, self.now) {
            Some(Target::Host(host)) => {
                if payload.len() + 28 > self.net.places[host].mtu {
                    return;
                }
                let leg = self.net.second_leg(transit, host);
                let transit = *transit;
                self.after(leg, Arrival::Datagram { host, transit, payload });
            }
            Some(Target::Stun) => self.answer_stun(transit, &payload),
            None => {}
        }
    }

    fn answer_stun(&mut self, transit: &Transit, payload: &[u8]) {
        let Some(tx) = crate::stun::parse_request(payload) else {
            return;
        };
        let answer = Transit {
            from: None,
            site: super::net::INTERNET,
            src: transit.dst,
            dst: transit.src,
        };
        let leg = self.net.first_leg(&answer);
        let response = crate::stun::binding_response(&tx, transit.src);
        self.after(leg, Arrival::Edge(answer, response));
    }

    fn receive(&mut self, host: usize, transit: &Transit, mut payload: Vec<u8>) {
        self.trace.datagram(self.now, transit.src, transit.dst, &payload);
        let from = transit.src;
        if crate::stun::looks_like(&payload) {
            let state = &mut self.hosts[host];
            let now = state.clock(self.now);
            state.reach.handle_response(&payload, now);
            return self.settle(host, Delivered::default());
        }
        let stride = payload.len();
        self.feed(host, |engine, now, out| {
            engine.handle_udp(from, 0, &mut payload, stride, now, out)
        });
    }

    /// Gives a host something and carries out what follows.
    pub(super) fn feed(
        &mut self,
        host: usize,
        input: impl FnOnce(&mut crate::engine::Engine, Instant, &mut Delivered),
    ) {
        let Some(state) = self.hosts.get_mut(host).filter(|state| state.running()) else {
            return;
        };
        let now = state.clock(self.now);
        let mut delivered = Delivered::default();
        input(&mut state.engine, now, &mut delivered);
        self.settle(host, delivered);
    }
}
