//! [`RelayServer`]: the machine of a relay server. It allocates endpoints for pairs of clients, lets both prove their
//! addresses, and says where a packet goes on. It opens none of the clients' packets and owns no socket.
//!
//! ```text
//!  allocated -- bind, challenge, answer of both --> bound -- 5 minutes without packets of one --> gone
//!      \------------ 30 s -------------> gone
//! ```
//!
//! Until an address is proven nothing is sent there but a challenge, to whoever holds a client's disco key, and that is
//! no longer than what asked for it (S-16). A client may bind again from another address at any time.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use blake2::Blake2sMac256;
use blake2::digest::Mac;
use sandd_control_client::keys::{DiscoPrivateKey, DiscoPublicKey};
use zeroize::Zeroizing;

use super::{MAX_VNI, Via, sorted_pair};
use crate::disco::{DiscoBox, GeneveHeader, Message, RelayEndpoint, RelayHandshake, sender};

/// How long both clients may take to bind.
const BIND_LIFETIME: Duration = Duration::from_secs(30);
/// How long a bound endpoint lives without packets from one of its clients.
const STEADY_LIFETIME: Duration = Duration::from_secs(300);
/// The secret of the challenges changes after this; the one before it still counts.
const SECRET_LIFETIME: Duration = Duration::from_secs(120);
/// Most messages of one client that are answered in a second.
const MAX_CONTROL_PER_SECOND: u32 = 16;
/// Most addresses told to clients.
const MAX_ADDRESSES: usize = 16;

/// What a server takes upon itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Endpoints at a time.
    pub(crate) endpoints: usize,
    /// Of them for one client that asked.
    pub(crate) endpoints_per_client: usize,
    /// Bytes a second of one pair, both ways together.
    pub(crate) bytes_per_second: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            endpoints: 4_096,
            endpoints_per_client: 512,
            bytes_per_second: None,
        }
    }
}

/// Plain counts since the server started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) dropped: u64,
}

/// See the module's text.
pub(crate) struct RelayServer {
    key: DiscoPrivateKey,
    public: DiscoPublicKey,
    limits: Limits,
    secrets: Secrets,
    addresses: Vec<SocketAddr>,
    lamport: u64,
    last_vni: u32,
    by_pair: HashMap<[DiscoPublicKey; 2], u32>,
    by_vni: HashMap<u32, Box<Endpoint>>,
    counts: Counts,
}

struct Endpoint {
    lamport: u64,
    /// Who asked for it.
    client: DiscoPublicKey,
    allocated: Instant,
    legs: [Leg; 2],
    budget: Option<Budget>,
}

struct Leg {
    key: DiscoPublicKey,
    sealed: Option<DiscoBox>,
    /// Number of the handshake under way.
    generation: Option<u32>,
    bound: Option<SocketAddr>,
    seen: Instant,
    /// Start of the running second and the messages answered in it.
    control: (Instant, u32),
}

/// Bytes left at a time.
struct Budget {
    left: u64,
    at: Instant,
}

struct Secrets {
    current: Zeroizing<[u8; 32]>,
    previous: Option<Zeroizing<[u8; 32]>>,
    since: Instant,
}

impl RelayServer {
    /// A server without endpoints and, until [`Self::set_addresses`], without an address to name.
    pub(crate) fn new(key: DiscoPrivateKey, limits: Limits, now: Instant) -> Self {
        Self {
            public: key.public(),
            key,
            limits,
            secrets: Secrets::new(now),
            addresses: Vec::new(),
            lamport: 0,
            last_vni: 0,
            by_pair: HashMap::new(),
            by_vni: HashMap::new(),
            counts: Counts::default(),
        }
    }

    /// Where clients may reach the server's sockets.
    pub(crate) fn set_addresses(&mut self, mut addresses: Vec<SocketAddr>) {
        addresses.truncate(MAX_ADDRESSES);
        self.addresses = addresses;
    }

    /// What [`Self::set_addresses`] was told last.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Endpoints, and those of them that both clients are bound to.
    pub(crate) fn endpoints(&self) -> (usize, usize) {
        let bound = self.by_vni.values().filter(|endpoint| endpoint.is_bound()).count();
        (self.by_vni.len(), bound)
    }

    /// See [`Counts`].
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// The endpoint of this pair, a new one if there is none. `asking` is the client that asks, one of the two. Nothing
    /// when no address is known yet or all endpoints are taken.
    pub(crate) fn allocate(
        &mut self,
        asking: DiscoPublicKey,
        clients: [DiscoPublicKey; 2],
        now: Instant,
    ) -> Option<RelayEndpoint> {
        let [a, b] = clients;
        if self.addresses.is_empty() || a == b || clients.contains(&self.public) || !clients.contains(&asking) {
            return None;
        }
        let pair = sorted_pair(a, b);
        if let Some(vni) = self.by_pair.get(&pair).copied() {
            match self.by_vni.get(&vni) {
                Some(endpoint) if !endpoint.has_expired(now) => return Some(self.told(vni, endpoint)),
                _ => self.remove(vni),
            }
        }
        self.make_room(asking, now)?;
        let vni = self.free_vni()?;
        self.lamport += 1;
        let endpoint = Box::new(Endpoint {
            lamport: self.lamport,
            client: asking,
            allocated: now,
            legs: pair.map(|key| Leg::new(key, now)),
            budget: self.limits.bytes_per_second.map(|left| Budget { left, at: now }),
        });
        let told = self.told(vni, &endpoint);
        self.by_pair.insert(pair, vni);
        self.by_vni.insert(vni, endpoint);
        Some(told)
    }

    fn told(&self, vni: u32, endpoint: &Endpoint) -> RelayEndpoint {
        let nanoseconds = |lifetime: Duration| u64::try_from(lifetime.as_nanos()).unwrap_or(u64::MAX);
        RelayEndpoint {
            server: self.public,
            clients: endpoint.legs.each_ref().map(|leg| leg.key),
            lamport_id: endpoint.lamport,
            vni,
            bind_lifetime_ns: nanoseconds(BIND_LIFETIME),
            steady_lifetime_ns: nanoseconds(STEADY_LIFETIME),
            addresses: self.addresses.clone(),
        }
    }

    fn make_room(&mut self, asking: DiscoPublicKey, now: Instant) -> Option<()> {
        let of = |all: &HashMap<u32, Box<Endpoint>>| all.values().filter(|one| one.client == asking).count();
        let full = |server: &Self| {
            server.by_vni.len() >= server.limits.endpoints || of(&server.by_vni) >= server.limits.endpoints_per_client
        };
        if full(self) {
            self.sweep(now);
        }
        (!full(self)).then_some(())
    }

    fn free_vni(&mut self) -> Option<u32> {
        // As many tries as there may be taken ones, and one more.
        for _ in 0..=self.by_vni.len() {
            self.last_vni = if self.last_vni >= MAX_VNI { 1 } else { self.last_vni + 1 };
            if !self.by_vni.contains_key(&self.last_vni) {
                return Some(self.last_vni);
            }
        }
        None
    }

    /// Forgets what has expired; to be called now and then.
    pub(crate) fn sweep(&mut self, now: Instant) {
        let expired = self.by_vni.iter().filter(|(_, endpoint)| endpoint.has_expired(now));
        let expired: Vec<u32> = expired.map(|(vni, _)| *vni).collect();
        expired.into_iter().for_each(|vni| self.remove(vni));
    }

    fn remove(&mut self, vni: u32) {
        if let Some(endpoint) = self.by_vni.remove(&vni) {
            self.by_pair.remove(&endpoint.legs.each_ref().map(|leg| leg.key));
        }
    }

    /// Packets of one endpoint, `count` of them with `bytes` together, came from `from` without the control flag: where
    /// they go on, as they are.
    pub(crate) fn forward(
        &mut self,
        from: SocketAddr,
        vni: u32,
        count: usize,
        bytes: usize,
        now: Instant,
    ) -> Option<SocketAddr> {
        let to = self.by_vni.get_mut(&vni).and_then(|endpoint| {
            let to = endpoint.other_end(from, now)?;
            let limit = self.limits.bytes_per_second;
            let within = endpoint
                .budget
                .as_mut()
                .zip(limit)
                .is_none_or(|(budget, limit)| budget.take(bytes as u64, limit, now));
            within.then_some(to)
        });
        match to {
            Some(_) => {
                self.counts.packets += count as u64;
                self.counts.bytes += bytes as u64;
            }
            None => self.counts.dropped += count as u64,
        }
        to
    }

    /// A disco packet with the control flag: what is to be sent back to `from`, Geneve header included.
    pub(crate) fn handle_control(
        &mut self,
        from: SocketAddr,
        vni: u32,
        packet: &[u8],
        now: Instant,
    ) -> Option<Vec<u8>> {
        let reply = self.answer_control(from, vni, packet, now);
        if reply.is_err() {
            self.counts.dropped += 1;
        }
        reply.ok().flatten()
    }

    fn answer_control(
        &mut self,
        from: SocketAddr,
        vni: u32,
        packet: &[u8],
        now: Instant,
    ) -> Result<Option<Vec<u8>>, Refused> {
        let key = sender(packet).ok_or(Refused)?;
        let endpoint = self.by_vni.get_mut(&vni).ok_or(Refused)?;
        if endpoint.has_expired(now) {
            return Err(Refused);
        }
        let at = endpoint.legs.iter().position(|leg| leg.key == key).ok_or(Refused)?;
        let remote = endpoint.legs[1 - at].key;
        let leg = &mut endpoint.legs[at];
        let own = &self.key;
        let sealed = leg.sealed.get_or_insert_with(|| DiscoBox::new(own, &key));
        let message = sealed.open(packet).map_err(|_| Refused)?;
        let fits = |told: &RelayHandshake| told.vni == vni && told.remote == remote && told.generation != 0;
        self.secrets.rotate(now);
        if let Message::Bind(told) = message
            && fits(&told)
            && within_second(&mut leg.control, now)
        {
            leg.generation = Some(told.generation);
            let challenge = RelayHandshake {
                challenge: self.secrets.challenge(&told, from),
                ..told
            };
            let mut reply = Via { addr: from, vni }.disco_header(true).to_vec();
            reply.extend(sealed.seal(&self.public, &Message::BindChallenge(challenge)));
            return Ok((reply.len() <= packet.len() + GeneveHeader::LEN).then_some(reply));
        }
        if let Message::BindAnswer(told) = message
            && fits(&told)
            && leg.generation == Some(told.generation)
            && self.secrets.accepts(&told, from)
        {
            leg.generation = None;
            leg.bound = Some(from);
            leg.seen = now;
            return Ok(None);
        }
        Err(Refused)
    }
}

/// Nothing is told to whoever sent such a message.
struct Refused;

fn within_second((since, count): &mut (Instant, u32), now: Instant) -> bool {
    if now.saturating_duration_since(*since) >= Duration::from_secs(1) {
        (*since, *count) = (now, 0);
    }
    *count += 1;
    *count <= MAX_CONTROL_PER_SECOND
}

impl Endpoint {
    fn is_bound(&self) -> bool {
        self.legs.iter().all(|leg| leg.bound.is_some())
    }

    fn has_expired(&self, now: Instant) -> bool {
        if !self.is_bound() {
            return now.saturating_duration_since(self.allocated) > BIND_LIFETIME;
        }
        let silent = |leg: &Leg| now.saturating_duration_since(leg.seen) > STEADY_LIFETIME;
        self.legs.iter().any(silent)
    }

    /// The bound address of the client other than the one at `from`.
    fn other_end(&mut self, from: SocketAddr, now: Instant) -> Option<SocketAddr> {
        if !self.is_bound() || self.has_expired(now) {
            return None;
        }
        let at = self.legs.iter().position(|leg| leg.bound == Some(from))?;
        self.legs[at].seen = now;
        self.legs[1 - at].bound
    }
}

impl Leg {
    fn new(key: DiscoPublicKey, now: Instant) -> Self {
        Self {
            key,
            sealed: None,
            generation: None,
            bound: None,
            seen: now,
            control: (now, 0),
        }
    }
}

impl Budget {
    /// A second's worth may be saved up.
    fn take(&mut self, bytes: u64, limit: u64, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_micros();
        let gained = u64::try_from(passed.saturating_mul(limit.into()) / 1_000_000).unwrap_or(limit);
        if gained > 0 {
            self.at = now;
            self.left = self.left.saturating_add(gained).min(limit);
        }
        let enough = self.left >= bytes;
        self.left -= if enough { bytes } else { 0 };
        enough
    }
}

impl Secrets {
    fn new(now: Instant) -> Self {
        Self {
            current: new_secret(),
            previous: None,
            since: now,
        }
    }

    fn rotate(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.since);
        if age < SECRET_LIFETIME {
            return;
        }
        let old = std::mem::replace(&mut self.current, new_secret());
        self.previous = (age < SECRET_LIFETIME * 2).then_some(old);
        self.since = now;
    }

    fn challenge(&self, told: &RelayHandshake, from: SocketAddr) -> [u8; 32] {
        mac(&self.current, told, from).finalize().into_bytes().into()
    }

    fn accepts(&self, told: &RelayHandshake, from: SocketAddr) -> bool {
        [Some(&self.current), self.previous.as_ref()]
            .into_iter()
            .flatten()
            .any(|secret| mac(secret, told, from).verify_slice(&told.challenge).is_ok())
    }
}

fn new_secret() -> Zeroizing<[u8; 32]> {
    let mut secret = Zeroizing::new([0u8; 32]);
    getrandom::fill(&mut *secret).expect("the operating system provides randomness");
    secret
}

/// Over what a challenge stands for: the endpoint, the handshake, the other client, and the address to be proven.
fn mac(secret: &[u8; 32], told: &RelayHandshake, from: SocketAddr) -> Blake2sMac256 {
    let mut mac = <Blake2sMac256 as Mac>::new_from_slice(secret).expect("BLAKE2s takes keys of 32 bytes");
    mac.update(&told.vni.to_be_bytes());
    mac.update(&told.generation.to_be_bytes());
    mac.update(told.remote.as_bytes());
    match from.ip() {
        IpAddr::V4(ip) => mac.update(&ip.octets()),
        IpAddr::V6(ip) => mac.update(&ip.octets()),
    }
    mac.update(&from.port().to_be_bytes());
    mac
}

impl std::fmt::Debug for RelayServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RelayServer({} endpoints)", self.by_vni.len())
    }
}

#[cfg(test)]
mod tests;
