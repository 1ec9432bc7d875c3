//! The lab's internet: one bridge, a server on it, and sites behind routers.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
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
    hop::Wire,
    nat::NatKind,
    netns::{Namespace, PREFIX, remove_leftovers},
    process::Process,
    site::{Site, SiteOptions},
};

/// Where coordinator, relay and STUN answer.
pub const SERVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

/// A second address of the server, so that mapping and filtering of a NAT can be told apart.
pub const SERVER_SECOND_ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

/// Where the server answers in a lab with IPv6.
pub const SERVER_IPV6: Ipv6Addr = wan_ipv6(1);

/// The router of the lab's IPv6 internet.
const IPV6_CORE: Ipv6Addr = wan_ipv6(0xffff);

/// An address of the server as a company's network would have it; only to such may control be plain HTTP.
pub const SERVER_PRIVATE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);

/// The name under which every host of the lab knows [`SERVER_PRIVATE_ADDRESS`].
pub(crate) const SERVER_PRIVATE_NAME: &str = "private.lab";

/// The name under which every host of the lab knows [`SERVER_ADDRESS`].
pub(crate) const SERVER_NAME: &str = "control.lab";

/// The name of the relay that [`super::Derper`] is.
pub(crate) const RELAY_NAME: &str = "relay.lab";

static LEFTOVERS: Once = Once::new();
static LABS: AtomicU32 = AtomicU32::new(0);

/// One internet. Dropping it removes its namespaces and, unless `SANDD_LAB_KEEP` is set, its directory.
#[derive(Debug)]
pub struct Lab {
    ground: Arc<Ground>,
    server: Host,
    ca: LabCa,
    publics: AtomicU8,
}

/// What a lab's internet is.
#[derive(Debug, Clone, Copy, Default)]
pub struct LabOptions {
    /// It has IPv6 beside IPv4, with a router between its networks and no translation.
    pub ipv6: bool,
}

/// What all hosts of a lab share.
#[derive(Debug)]
pub(crate) struct Ground {
    name: String,
    directory: PathBuf,
    bridge: Namespace,
    ports: AtomicU32,
    sites: AtomicU8,
    pub(crate) ipv6: bool,
}

/// A machine: a namespace with one interface.
#[derive(Debug)]
pub struct Host {
    pub(crate) name: String,
    pub(crate) namespace: Namespace,
    /// As a number: a host moves while its nodes run.
    pub(crate) address: AtomicU32,
    pub(crate) gateway: Option<Ipv4Addr>,
    pub(crate) ground: Arc<Ground>,
}

impl Lab {
    /// Opens a lab: the bridge and the server, no site yet.
    pub fn open() -> Result<Self> {
        Self::open_with(LabOptions::default())
    }

    /// Opens a lab with an internet of that kind.
    pub fn open_with(options: LabOptions) -> Result<Self> {
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
            sites: AtomicU8::new(0),
            ipv6: options.ipv6,
        });
        if options.ipv6 {
            ground.bridge.ip(&format!("address add {IPV6_CORE}/64 dev br0 nodad"))?;
            ground.bridge.sysctl("ipv6.conf.all.forwarding", "1")?;
        }
        let server = Host::on_bridge(&ground, "server", SERVER_ADDRESS)?;
        server.namespace.ip(&format!(
            "address add {SERVER_SECOND_ADDRESS}/24 dev eth0\naddress add {SERVER_PRIVATE_ADDRESS}/32 dev eth0"
        ))?;
        Ok(Self {
            ground,
            server,
            ca,
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

    /// Whether it has IPv6 beside IPv4.
    #[must_use]
    pub fn has_ipv6(&self) -> bool {
        self.ground.ipv6
    }

    /// Adds a site whose router is of that kind.
    pub fn site(&self, kind: NatKind) -> Result<Site> {
        Site::build(&self.ground, &SiteOptions::new(kind))
    }

    /// Adds a site as `options` say.
    pub fn site_with(&self, options: &SiteOptions<'_>) -> Result<Site> {
        Site::build(&self.ground, options)
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
    pub(crate) fn namespace(&self, role: &str) -> Result<Namespace> {
        let mut hosts = format!(
            "{SERVER_ADDRESS} {SERVER_NAME}\n{SERVER_SECOND_ADDRESS} {RELAY_NAME}\n{SERVER_PRIVATE_ADDRESS} {SERVER_PRIVATE_NAME}\n"
        );
        if self.ipv6 {
            hosts.push_str(&format!("{SERVER_IPV6} {SERVER_NAME}\n"));
        }
        let namespace = Namespace::create(&self.name, role, &hosts)?;
        // Nobody has these addresses, so nothing has to be waited for before they may be used.
        namespace.sysctl("ipv6.conf.all.accept_dad", "0")?;
        namespace.sysctl("ipv6.conf.default.accept_dad", "0")?;
        Ok(namespace)
    }

    /// The number of a new site.
    pub(crate) fn next_site(&self) -> u8 {
        self.sites.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Connects a new interface of `namespace` with the bridge; the process is the wire, if that is one of a kind.
    pub(crate) fn plug(&self, namespace: &Namespace, interface: &str, wire: Option<&Wire>) -> Result<Option<Process>> {
        self.plug_into((&self.bridge, "br0"), namespace, interface, wire)
    }

    /// Connects a new interface of `namespace` with the bridge of that name in another.
    pub(crate) fn plug_into(
        &self,
        (at, bridge): (&Namespace, &str),
        namespace: &Namespace,
        interface: &str,
        wire: Option<&Wire>,
    ) -> Result<Option<Process>> {
        let port = format!("p{}", self.ports.fetch_add(1, Ordering::Relaxed));
        let process = match wire {
            Some(wire) => Some(wire.lay(&self.directory, (namespace, interface), (at, &port))?),
            None => {
                namespace.ip(&format!(
                    "link add {interface} type veth peer name {port} netns {}",
                    at.name()
                ))?;
                None
            }
        };
        at.ip(&format!("link set {port} master {bridge} up"))?;
        Ok(process)
    }

    /// Tells the IPv6 internet that `network` lies behind the site of that number.
    pub(crate) fn route_ipv6(&self, network: &str, site: u8) -> Result<()> {
        self.bridge.ip(&format!("route add {network} via {}", site_ipv6(site)))
    }
}

/// An address of the lab's IPv6 internet.
const fn wan_ipv6(host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, host)
}

/// The outer IPv6 address of the site of that number.
pub(crate) const fn site_ipv6(site: u8) -> Ipv6Addr {
    wan_ipv6(10 + site as u16)
}

/// The line of `ip` that leads out of a network of the IPv6 internet.
pub(crate) fn ipv6_way_out() -> String {
    format!("route add default via {IPV6_CORE}")
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
        ground.plug(&namespace, "eth0", None)?;
        namespace.ip(&format!("address add {address}/24 dev eth0\nlink set eth0 up"))?;
        if ground.ipv6 {
            let address = wan_ipv6(u16::from(address.octets()[3]));
            namespace.ip(&format!("address add {address}/64 dev eth0 nodad\n{}", ipv6_way_out()))?;
        }
        Ok(Self {
            name: name.to_owned(),
            namespace,
            address: AtomicU32::new(address.to_bits()),
            gateway: None,
            ground: Arc::clone(ground),
        })
    }

    /// Gives the host another address in its network, as a move to another access point does. What was sent from the old
    /// one is not answered any more.
    pub fn move_to(&self, last: u8) -> Result<()> {
        let gateway = self.gateway.context("a host with a public address stays where it is")?;
        let present = self.address();
        let [a, b, c, _] = present.octets();
        let next = Ipv4Addr::new(a, b, c, last);
        self.namespace.ip(&format!(
            "address del {present}/24 dev eth0\naddress add {next}/24 dev eth0\nroute add default via {gateway}"
        ))?;
        self.address.store(next.to_bits(), Ordering::Relaxed);
        Ok(())
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

    /// Its IPv4 address in the underlay; unspecified where it has none.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.load(Ordering::Relaxed))
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
