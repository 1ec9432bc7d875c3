//! The lab's internet: one bridge, a server on it, and sites behind routers.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::{
        Arc, Once,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
};

use anyhow::{Context as _, Result};

use super::{
    ca::LabCa,
    nat::{NatKind, OBSTACLE_CLEARED, Obstacle},
    netns::{Namespace, PREFIX, remove_leftovers},
    process::Run,
};

/// Where coordinator, relay and STUN answer.
pub const SERVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

/// A second address of the server, so that mapping and filtering of a NAT can be told apart.
pub const SERVER_SECOND_ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

/// An address of the server as a company's network would have it; only to such may control be plain HTTP.
pub const SERVER_PRIVATE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);

/// The name under which every host of the lab knows [`SERVER_PRIVATE_ADDRESS`].
pub(crate) const SERVER_PRIVATE_NAME: &str = "private.lab";

/// The name under which every host of the lab knows [`SERVER_ADDRESS`].
pub(crate) const SERVER_NAME: &str = "control.lab";

static LEFTOVERS: Once = Once::new();
static LABS: AtomicU32 = AtomicU32::new(0);

/// One internet. Dropping it removes its namespaces and, unless `SANDD_LAB_KEEP` is set, its directory.
#[derive(Debug)]
pub struct Lab {
    ground: Arc<Ground>,
    server: Host,
    ca: LabCa,
    sites: AtomicU8,
    publics: AtomicU8,
}

/// What all hosts of a lab share.
#[derive(Debug)]
struct Ground {
    name: String,
    directory: PathBuf,
    bridge: Namespace,
    ports: AtomicU32,
}

/// A machine: a namespace with one interface.
#[derive(Debug)]
pub struct Host {
    name: String,
    namespace: Namespace,
    address: Ipv4Addr,
    ground: Arc<Ground>,
}

/// A router with the hosts behind it on one network.
#[derive(Debug)]
pub struct Site {
    index: u8,
    kind: NatKind,
    router: Namespace,
    hosts: AtomicU8,
    ground: Arc<Ground>,
}

impl Lab {
    /// Opens a lab: the bridge and the server, no site yet.
    pub fn open() -> Result<Self> {
        LEFTOVERS.call_once(remove_leftovers);
        let name = format!("{PREFIX}{}x{}", process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(&name);
        fs::create_dir_all(&directory).with_context(|| format!("{} could not be created", directory.display()))?;
        let bridge = Namespace::create(&name, "world", "")?;
        bridge.ip("link add br0 type bridge\nlink set br0 up")?;
        let ca = LabCa::create(&directory)?;
        let ground = Arc::new(Ground {
            name,
            directory,
            bridge,
            ports: AtomicU32::new(0),
        });
        let server = Host::on_bridge(&ground, "server", SERVER_ADDRESS)?;
        server.namespace.ip(&format!(
            "address add {SERVER_SECOND_ADDRESS}/24 dev eth0\naddress add {SERVER_PRIVATE_ADDRESS}/32 dev eth0"
        ))?;
        Ok(Self {
            ground,
            server,
            ca,
            sites: AtomicU8::new(0),
            publics: AtomicU8::new(0),
        })
    }

    /// Where logs, states and sockets of this lab lie.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.ground.directory
    }

    /// The host of coordinator, relay and STUN.
    #[must_use]
    pub fn server(&self) -> &Host {
        &self.server
    }

    /// The lab's certificate authority.
    #[must_use]
    pub fn ca(&self) -> &LabCa {
        &self.ca
    }

    /// Adds a site whose router is of that kind.
    pub fn site(&self, kind: NatKind) -> Result<Site> {
        let index = self.sites.fetch_add(1, Ordering::Relaxed) + 1;
        let router = self.ground.namespace(&format!("router{index}"))?;
        self.ground.plug(&router, "wan")?;
        let wan = Site::wan_of(index);
        router.ip(&format!(
            "address add {wan}/24 dev wan\nlink set wan up\nroute add {SERVER_PRIVATE_ADDRESS} dev wan\nlink add lan type bridge\n\
             address add 192.168.{index}.1/24 dev lan\nlink set lan up"
        ))?;
        router.sysctl("ipv4.ip_forward", "1")?;
        router.nft(&kind.ruleset(Site::host_of(index, 0)))?;
        Ok(Site {
            index,
            kind,
            router,
            hosts: AtomicU8::new(0),
            ground: Arc::clone(&self.ground),
        })
    }

    /// Adds a host with a public address and nothing before it.
    pub fn public_host(&self, name: &str) -> Result<Host> {
        let index = self.publics.fetch_add(1, Ordering::Relaxed);
        Host::on_bridge(&self.ground, name, Ipv4Addr::new(203, 0, 113, 100 + index))
    }

    /// Two hosts, `a` and `b`, each behind a router of its own.
    pub fn pair(&self, left: NatKind, right: NatKind) -> Result<(Site, Host, Site, Host)> {
        let (site_a, site_b) = (self.site(left)?, self.site(right)?);
        let (a, b) = (site_a.host("a")?, site_b.host("b")?);
        Ok((site_a, a, site_b, b))
    }
}

impl Ground {
    fn namespace(&self, role: &str) -> Result<Namespace> {
        Namespace::create(
            &self.name,
            role,
            &format!("{SERVER_ADDRESS} {SERVER_NAME}\n{SERVER_PRIVATE_ADDRESS} {SERVER_PRIVATE_NAME}\n"),
        )
    }

    /// Connects a new interface of `namespace` with the bridge.
    fn plug(&self, namespace: &Namespace, interface: &str) -> Result<()> {
        let port = format!("p{}", self.ports.fetch_add(1, Ordering::Relaxed));
        namespace.ip(&format!(
            "link add {interface} type veth peer name {port} netns {}",
            self.bridge.name()
        ))?;
        self.bridge.ip(&format!("link set {port} master br0 up"))
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if std::env::var_os("SANDD_LAB_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

impl Host {
    fn on_bridge(ground: &Arc<Ground>, name: &str, address: Ipv4Addr) -> Result<Self> {
        let namespace = ground.namespace(name)?;
        ground.plug(&namespace, "eth0")?;
        namespace.ip(&format!("address add {address}/24 dev eth0\nlink set eth0 up"))?;
        Ok(Self {
            name: name.to_owned(),
            namespace,
            address,
            ground: Arc::clone(ground),
        })
    }

    /// What the test calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its address in the underlay.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Where logs, states and sockets of its lab lie.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.ground.directory
    }

    /// A command that will run on this host, with the lab's root certificate trusted.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = self.namespace.command(program);
        command.env("SSL_CERT_FILE", self.ground.directory.join("ca.pem"));
        command
    }
}

impl Site {
    fn wan_of(index: u8) -> Ipv4Addr {
        Ipv4Addr::new(203, 0, 113, 10 + index)
    }

    fn host_of(index: u8, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, index, 2 + host)
    }

    /// The router's public address.
    #[must_use]
    pub fn wan(&self) -> Ipv4Addr {
        Self::wan_of(self.index)
    }

    /// The router's namespace, its interfaces being `wan` and `lan`.
    #[must_use]
    pub fn router(&self) -> &Namespace {
        &self.router
    }

    /// Adds a host to the site's network.
    pub fn host(&self, name: &str) -> Result<Host> {
        let host = self.hosts.fetch_add(1, Ordering::Relaxed);
        let address = Self::host_of(self.index, host);
        let namespace = self.ground.namespace(name)?;
        namespace.ip(&format!(
            "link add eth0 type veth peer name h{host} netns {}",
            self.router.name()
        ))?;
        self.router.ip(&format!("link set h{host} master lan up"))?;
        namespace.ip(&format!(
            "address add {address}/24 dev eth0\nlink set eth0 up\nroute add default via 192.168.{}.1",
            self.index
        ))?;
        Ok(Host {
            name: name.to_owned(),
            namespace,
            address,
            ground: Arc::clone(&self.ground),
        })
    }

    /// Makes the router a new one of that kind: its rules change and it forgets every UDP flow.
    pub fn become_kind(&mut self, kind: NatKind) -> Result<()> {
        self.kind = kind;
        self.router.nft(&kind.ruleset(Self::host_of(self.index, 0)))?;
        self.forget_udp_flows()
    }

    /// Puts `obstacle` into the router, in place of an earlier one. Flows under way meet it, too.
    pub fn obstruct(&self, obstacle: Obstacle) -> Result<()> {
        self.router.nft(&obstacle.ruleset())
    }

    /// Takes the obstacle away.
    pub fn clear(&self) -> Result<()> {
        self.router.nft(OBSTACLE_CLEARED)
    }

    /// Makes the router forget every UDP flow. TCP goes on: else the streams to the coordinator would hang for minutes.
    pub fn forget_udp_flows(&self) -> Result<()> {
        // Its status tells only whether there was any.
        Run::of(self.router.command("conntrack").args(["-D", "-p", "udp"])).map(drop)
    }
}
