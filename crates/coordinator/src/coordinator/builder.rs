//! [`CoordinatorBuilder`]: what a coordinator needs to be told, all of it optional.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket as StdUdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Coordinator, Inner, Tls, bind, bind_stun};
use crate::error::StartError;
use crate::hooks::Hooks;
use crate::io::shared::{Core, Published, Shared};
use crate::io::store::{Loaded, Store};
use crate::io::tls::{Certificate, SelfMade};
use crate::limits::Limits;
use crate::membership::{Membership, Settings, WireGuardPeers};
use crate::policy::Policy;

/// Describes a coordinator; [`Self::start`] runs it.
#[derive(Debug, Clone)]
pub struct CoordinatorBuilder {
    listen: SocketAddr,
    stun: Option<SocketAddr>,
    url: Option<String>,
    names: Vec<String>,
    state: Option<PathBuf>,
    tls: Mode,
    policy: Option<Policy>,
    wireguard_peers: WireGuardPeers,
    base_domain: String,
    ephemeral_timeout: Duration,
    offline_grace: Duration,
    node_expiry: Option<Duration>,
    limits: Limits,
}

#[derive(Debug, Clone)]
enum Mode {
    Plain,
    SelfMade,
    Files { chain: PathBuf, key: PathBuf },
}

impl CoordinatorBuilder {
    pub(super) fn new() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            stun: None,
            url: None,
            names: Vec::new(),
            state: None,
            tls: Mode::Plain,
            policy: None,
            wireguard_peers: WireGuardPeers::default(),
            base_domain: "sandd.local".to_owned(),
            ephemeral_timeout: Duration::from_secs(120),
            offline_grace: Duration::from_secs(5),
            node_expiry: None,
            limits: Limits::default(),
        }
    }

    /// TCP address for everything; default: a free port of 127.0.0.1.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = address;
        self
    }

    /// UDP address for STUN; default: none, so that nodes do not learn their address behind a NAT.
    #[must_use]
    pub fn stun(mut self, address: SocketAddr) -> Self {
        self.stun = Some(address);
        self
    }

    /// The URL that nodes use, when it is not the listening address: behind a NAT or a proxy, or by name. Without it,
    /// each node is told the relay at the host by which it reached the coordinator.
    #[must_use]
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.url = Some(url.into());
        self
    }

    /// One more name or address for a self-made certificate.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.names.push(name.into());
        self
    }

    /// Keeps everything in one SQLite file, made with mode 0600; default: in memory, so that a restart forgets all nodes.
    #[must_use]
    pub fn state_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.state = Some(path.into());
        self
    }

    /// Speaks https, with a certificate chain and a key in PEM files. Nodes verify it by name.
    #[must_use]
    pub fn tls_files(mut self, chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        self.tls = Mode::Files {
            chain: chain.as_ref().to_owned(),
            key: key.as_ref().to_owned(),
        };
        self
    }

    /// Speaks https, with a certificate of its own making: nodes need it as a trusted root (see
    /// [`Coordinator::certificate_pem`]) for control, and are told its hash for the relay.
    ///
    /// Without any of the two, control is plain http, which our nodes accept on loopback, private and mesh addresses.
    /// The relay is reached over TLS on the same port all the same, as real clients want it.
    #[must_use]
    pub fn tls_self_made(mut self) -> Self {
        self.tls = Mode::SelfMade;
        self
    }

    /// Who may talk to whom; default: the policy in the state file, else everybody with everybody.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = Some(policy);
        self
    }

    /// Plain WireGuard peers; default: none. The state file does not keep them.
    #[must_use]
    pub fn wireguard_peers(mut self, peers: WireGuardPeers) -> Self {
        self.wireguard_peers = peers;
        self
    }

    /// Domain of the nodes' names; default `sandd.local`.
    #[must_use]
    pub fn base_domain(mut self, domain: impl Into<String>) -> Self {
        self.base_domain = domain.into();
        self
    }

    /// How long an ephemeral node may stay away before it is forgotten; default 120 s.
    #[must_use]
    pub fn ephemeral_timeout(mut self, timeout: Duration) -> Self {
        self.ephemeral_timeout = timeout;
        self
    }

    /// How long after its last stream a node still counts as online; default 5 s.
    #[must_use]
    pub fn offline_grace(mut self, grace: Duration) -> Self {
        self.offline_grace = grace;
        self
    }

    /// How long the keys of users' nodes live, unless a node asks otherwise; default: for ever.
    #[must_use]
    pub fn node_expiry(mut self, lifetime: Option<Duration>) -> Self {
        self.node_expiry = lifetime;
        self
    }

    /// Other limits than the usual ones.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Opens the state and the sockets, and serves.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then.
    pub async fn start(self) -> Result<Coordinator, StartError> {
        let listener = bind(self.listen).await?;
        let listen = listener.local_addr().map_err(|source| StartError::Listen {
            address: self.listen,
            source,
        })?;
        let stun = bind_stun(self.stun).await?;
        let stun_addr = stun.as_ref().and_then(|socket| socket.local_addr().ok());
        let (store, loaded) = match &self.state {
            None => Store::memory(),
            Some(path) => Store::open(path)?,
        };
        let mut published = self.published(listen, stun_addr.map(|address| address.port()))?;
        let (certificate, self_made) = self.certificate(&store, &loaded, &mut published)?;
        let tls = certificate.acceptor()?;
        let policy = self.policy_of(&store, loaded.policy.as_deref())?;
        let settings = Settings {
            login_url: format!("{}/register/", published.url()),
            ephemeral_timeout: self.ephemeral_timeout,
            offline_grace: self.offline_grace,
            node_expiry: self.node_expiry,
        };
        let random = Box::new(|bytes: &mut [u8]| {
            getrandom::fill(bytes).expect("the operating system provides randomness");
        });
        let mut membership = Membership::new(settings, loaded.saved, random, Shared::now());
        membership
            .set_plain(&self.wireguard_peers, Shared::now())
            .map_err(StartError::WireGuardPeers)?;
        store.save(membership.take_unsaved());
        store.flush().await?;
        let core = Core::new(membership, policy);
        let shared = Shared::new(
            core,
            store,
            loaded.identity,
            Hooks::new(),
            published,
            self.limits,
            &self.base_domain,
        );
        let shared = Arc::new(shared);
        let clock = Arc::clone(&shared);
        let inner = Inner {
            shared,
            listen,
            stun: stun_addr,
            tls: Tls(tls),
            certificate_pem: self_made.map(|made| made.pem()),
            tasks: Mutex::default(),
            time: Mutex::new(Some(tokio::spawn(async move {
                clock.keep_time().await;
            }))),
        };
        inner.spawn(listener, stun);
        Ok(Coordinator { inner: Arc::new(inner) })
    }

    fn published(&self, listen: SocketAddr, stun_port: Option<u16>) -> Result<Published, StartError> {
        let speaks_tls = !matches!(self.tls, Mode::Plain);
        let Some(text) = &self.url else {
            let host = if listen.ip().is_unspecified() {
                outward_address()
            } else {
                listen.ip()
            };
            return Ok(Published {
                tls: speaks_tls,
                host: host.to_canonical().to_string(),
                port: listen.port(),
                explicit: false,
                stun_port,
                fingerprint: None,
            });
        };
        let bad = || StartError::Url { url: text.clone() };
        let url = url::Url::parse(text).map_err(|_| bad())?;
        let is_bare = url.path() == "/" && url.query().is_none() && url.username().is_empty();
        let tls = match url.scheme() {
            "https" => true,
            "http" if !speaks_tls => false,
            _ => return Err(bad()),
        };
        let host = url.host_str().filter(|_| is_bare).ok_or_else(bad)?;
        Ok(Published {
            tls,
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: url.port_or_known_default().ok_or_else(bad)?,
            explicit: true,
            stun_port,
            fingerprint: None,
        })
    }

    fn certificate(
        &self,
        store: &Store,
        loaded: &Loaded,
        published: &mut Published,
    ) -> Result<(Certificate, Option<SelfMade>), StartError> {
        if let Mode::Files { chain, key } = &self.tls {
            return Ok((Certificate::load(chain, key)?, None));
        }
        let made = match &loaded.certificate {
            Some(made) => made.clone(),
            None => {
                let mut names = vec![published.host.clone(), "localhost".to_owned()];
                names.extend([Ipv4Addr::LOCALHOST.to_string(), self.listen.ip().to_string()]);
                names.extend(self.names.iter().cloned());
                names.extend(host_name());
                if matches!(self.tls, Mode::Plain) {
                    // Only the relay is reached with it, by its hash; but real clients compare the name, too, and a node
                    // may have come by any name without a dot.
                    names.push("*".to_owned());
                }
                names.sort();
                names.dedup();
                let made = SelfMade::generate(&names)?;
                store.save_certificate(&made);
                made
            }
        };
        published.fingerprint = Some(made.fingerprint());
        let certificate = made.with_meta(&loaded.identity.relay.public())?;
        Ok((certificate, Some(made)))
    }

    fn policy_of(&self, store: &Store, saved: Option<&str>) -> Result<Policy, StartError> {
        match (&self.policy, saved) {
            (Some(policy), _) => {
                store.save_policy(policy.text());
                Ok(policy.clone())
            }
            (None, Some(text)) => Ok(Policy::parse(text)?),
            (None, None) => Ok(Policy::allow_all()),
        }
    }
}

/// What this host calls itself, if that can stand in a certificate.
fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = name.trim();
    let fits = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    fits.then(|| name.to_owned())
}

/// The address by which others see this host: the one that the default route would use. Nothing is sent.
fn outward_address() -> IpAddr {
    let towards = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9));
    StdUdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .and_then(|socket| socket.connect(towards).and_then(|()| socket.local_addr()))
        .map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}
