//! [`Host`]: a real engine with a real [`Reach`], and what of their driver is not a socket.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use sandd_control_client::keys::{DiscoPrivateKey, DiscoPublicKey, NodePrivateKey, NodePublicKey};
use sandd_control_client::netmap::RegionId;

use super::control::Members;
use super::rng::Rng;
use super::world::Arrival;
use crate::engine::{Engine, Overlay};
use crate::io::reach::Reach;
use crate::wg::Clock;

/// What came out of an engine towards its device.
#[derive(Debug, Default)]
pub(super) struct Delivered(pub(super) Vec<Vec<u8>>);

impl Overlay for Delivered {
    fn deliver(&mut self, packet: &mut [u8]) {
        self.0.push(packet.to_vec());
    }
}

/// Whether a host does anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    Running,
    /// Its program stands still. What comes is kept, or not.
    Asleep {
        since: Instant,
        keeps: bool,
    },
    Off,
}

/// See the module's text.
pub(super) struct Host {
    key: NodePrivateKey,
    pub(super) public: NodePublicKey,
    pub(super) disco: DiscoPublicKey,
    pub(super) engine: Engine,
    pub(super) reach: Reach,
    pub(super) condition: Condition,
    port: u16,
    pub(super) interfaces: BTreeSet<IpAddr>,
    /// How far its clock is behind the world's.
    pub(super) lag: Duration,
    /// When it wants to be asked, by the world's clock.
    pub(super) deadline: Option<Instant>,
    pub(super) told_endpoints: Vec<SocketAddr>,
    pub(super) home: Option<RegionId>,
    /// The last map, as its state file has it.
    pub(super) members: Option<Members>,
    /// What came while it was asleep.
    pub(super) kept: VecDeque<Arrival>,
    pub(super) work: Work,
}

/// How much a host does, as far as there are bounds to it.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// Timeouts handled at one moment.
    pub(super) spins: Option<(Instant, u32)>,
    /// Timeouts in the running second.
    pub(super) timeouts: Option<(Instant, u32)>,
    /// Times that it told other endpoints, in the running minute.
    pub(super) told: Option<(Instant, u32)>,
    /// Pings to one address in the running second.
    pub(super) pings: BTreeMap<SocketAddr, (Instant, u32)>,
}

/// Counts one more in the time of this length that began with `window`.
pub(super) fn count(window: &mut Option<(Instant, u32)>, now: Instant, length: Duration) -> u32 {
    let (since, number) = match *window {
        Some((since, number)) if now.saturating_duration_since(since) < length => (since, number + 1),
        Some(_) | None => (now, 1),
    };
    *window = Some((since, number));
    number
}

impl Host {
    pub(super) fn new(rng: &mut Rng, port: u16, start: Instant) -> Self {
        let key = NodePrivateKey::from_bytes(rng.key());
        let home = Some(RegionId(u16::try_from(rng.between(1, 2)).unwrap_or(1)));
        let (engine, disco) = engine(&key, rng, start);
        Self {
            public: key.public(),
            key,
            disco,
            engine,
            reach: Reach::new((port, Some(port)), home, start),
            condition: Condition::Off,
            port,
            interfaces: BTreeSet::new(),
            lag: Duration::ZERO,
            deadline: None,
            told_endpoints: Vec::new(),
            home: None,
            members: None,
            kept: VecDeque::new(),
            work: Work::default(),
        }
    }

    /// The program starts anew: same node key, new disco key, nothing remembered but the state file.
    pub(super) fn renew(&mut self, rng: &mut Rng, port: u16, start: Instant, now: Instant) {
        (self.engine, self.disco) = engine(&self.key, rng, start);
        self.reach = Reach::new((port, Some(port)), self.home, now);
        self.lag = Duration::ZERO;
        self.told_endpoints.clear();
        self.home = None;
        self.kept.clear();
        self.work = Work::default();
    }

    pub(super) fn running(&self) -> bool {
        self.condition == Condition::Running
    }

    /// The time on its clock.
    pub(super) fn clock(&self, world: Instant) -> Instant {
        world.checked_sub(self.lag).unwrap_or(world)
    }

    /// Asks engine and reach when they want to be asked.
    pub(super) fn rearm(&mut self) {
        let reach = self.reach.poll_timeout();
        let at = self.engine.poll_timeout().map_or(reach, |at| at.min(reach));
        self.deadline = self.running().then(|| at + self.lag);
    }

    /// What its interfaces say.
    pub(super) fn set_interfaces(&mut self, addresses: BTreeSet<IpAddr>) {
        self.reach.set_interfaces(&addresses, (self.port, Some(self.port)));
        self.interfaces = addresses;
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host")
            .field("condition", &self.condition)
            .finish_non_exhaustive()
    }
}

fn engine(key: &NodePrivateKey, rng: &mut Rng, start: Instant) -> (Engine, DiscoPublicKey) {
    let disco = DiscoPrivateKey::from_bytes(rng.key());
    let public = disco.public();
    let mtu = if rng.per_mille(500) { 1_280 } else { 1_420 };
    // A clock of day that goes with the invented time.
    let clock = Clock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_750_000_000), start);
    let mut engine = Engine::new(key, disco, mtu, clock);
    // Its sockets are the shell's, and there is none here.
    engine.set_port_guessing(false);
    (engine, public)
}
