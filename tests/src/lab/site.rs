//! A site: a router of some kind with hosts behind it, on the bridge of the world or behind another router.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
};

use anyhow::Result;

use super::{
    hop::Wire,
    nat::{NatKind, OBSTACLE_CLEARED, Obstacle},
    netns::Namespace,
    process::{Process, Run},
    world::{Ground, Host, SERVER_PRIVATE_ADDRESS, ipv6_way_out, site_ipv6},
};

/// Which versions of IP a site has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Families {
    /// IPv4 only.
    #[default]
    V4,
    /// Both; needs a lab with IPv6.
    Dual,
    /// IPv6 only; needs a lab with IPv6.
    V6,
}

/// What a site is.
#[derive(Debug, Clone, Copy)]
pub struct SiteOptions<'site> {
    /// How its router treats IPv4; IPv6 is never translated and always behind a stateful packet filter.
    pub kind: NatKind,
    /// Which versions of IP it has.
    pub families: Families,
    /// The wire between its router and what is outside; without one a packet takes no time.
    pub wire: Option<Wire>,
    /// The provider's router before it, whose customers have addresses of RFC 6598.
    pub behind: Option<&'site Site>,
    /// It is such a provider's router.
    pub carrier: bool,
}

impl SiteOptions<'_> {
    /// A site on the bridge with that router, IPv4 only, on a perfect wire.
    #[must_use]
    pub fn new(kind: NatKind) -> Self {
        Self {
            kind,
            families: Families::V4,
            wire: None,
            behind: None,
            carrier: false,
        }
    }
}

/// A router with the hosts behind it on one network.
#[derive(Debug)]
pub struct Site {
    index: u8,
    kind: NatKind,
    families: Families,
    carrier: bool,
    wan: Ipv4Addr,
    public: Ipv4Addr,
    router: Namespace,
    hosts: AtomicU8,
    rebinds: u8,
    ground: Arc<Ground>,
    /// Ends with the site.
    _wire: Option<Process>,
}

impl Site {
    pub(crate) fn build(ground: &Arc<Ground>, options: &SiteOptions<'_>) -> Result<Self> {
        let index = ground.next_site();
        let router = ground.namespace(&format!("router{index}"))?;
        let wire = options.wire.as_ref();
        let (wan, public, process) = match options.behind {
            Some(carrier) => {
                let process = ground.plug_into((&carrier.router, "lan"), &router, "wan", wire)?;
                let wan = carrier.inner(2 + carrier.hosts.fetch_add(1, Ordering::Relaxed));
                (wan, carrier.public, process)
            }
            None => {
                let wan = Ipv4Addr::new(203, 0, 113, 10 + index);
                (wan, wan, ground.plug(&router, "wan", wire)?)
            }
        };
        let site = Self {
            index,
            kind: options.kind,
            families: options.families,
            carrier: options.carrier,
            wan,
            public,
            router,
            hosts: AtomicU8::new(0),
            rebinds: 0,
            ground: Arc::clone(ground),
            _wire: process,
        };
        site.router
            .ip("link set wan up\nlink add lan type bridge\nlink set lan up")?;
        if site.families != Families::V6 {
            let way_out = options.behind.map_or_else(
                || format!("route add {SERVER_PRIVATE_ADDRESS} dev wan"),
                |carrier| format!("route add default via {}", carrier.inner(1)),
            );
            site.router.ip(&format!(
                "address add {wan}/24 dev wan\naddress add {}/24 dev lan\n{way_out}",
                site.inner(1)
            ))?;
            site.router.sysctl("ipv4.ip_forward", "1")?;
        }
        if site.families != Families::V4 {
            site.router.ip(&format!(
                "address add {}/64 dev wan nodad\naddress add {}1/64 dev lan nodad\n{}",
                site_ipv6(index),
                site.ipv6_prefix(),
                ipv6_way_out()
            ))?;
            site.router.sysctl("ipv6.conf.all.forwarding", "1")?;
            ground.route_ipv6(&format!("{}/64", site.ipv6_prefix()), index)?;
        }
        site.router.nft(&site.kind.ruleset(wan, site.inner(2)))?;
        Ok(site)
    }

    /// An address of the site's own network.
    fn inner(&self, last: u8) -> Ipv4Addr {
        if self.carrier {
            Ipv4Addr::new(100, 65, self.index, last)
        } else {
            Ipv4Addr::new(192, 168, self.index, last)
        }
    }

    fn ipv6_prefix(&self) -> String {
        format!("2001:db8:1:{:x}::", self.index)
    }

    /// The router's outer address.
    #[must_use]
    pub fn wan(&self) -> Ipv4Addr {
        self.wan
    }

    /// The address under which the internet sees the site; another than [`Self::wan`] behind a provider's router.
    #[must_use]
    pub fn public(&self) -> Ipv4Addr {
        self.public
    }

    /// The router's namespace, its interfaces being `wan` and `lan`.
    #[must_use]
    pub fn router(&self) -> &Namespace {
        &self.router
    }

    /// Adds a host to the site's network.
    pub fn host(&self, name: &str) -> Result<Host> {
        let number = self.hosts.fetch_add(1, Ordering::Relaxed);
        let namespace = self.ground.namespace(name)?;
        self.ground.plug_into((&self.router, "lan"), &namespace, "eth0", None)?;
        namespace.ip("link set eth0 up")?;
        let mut address = Ipv4Addr::UNSPECIFIED;
        if self.families != Families::V6 {
            address = self.inner(2 + number);
            namespace.ip(&format!(
                "address add {address}/24 dev eth0\nroute add default via {}",
                self.inner(1)
            ))?;
        }
        if self.families != Families::V4 {
            let prefix = self.ipv6_prefix();
            namespace.ip(&format!(
                "address add {prefix}{:x}/64 dev eth0 nodad\nroute add default via {prefix}1",
                2 + number
            ))?;
        }
        Ok(Host {
            name: name.to_owned(),
            namespace,
            address: AtomicU32::new(address.to_bits()),
            gateway: (self.families != Families::V6).then(|| self.inner(1)),
            ground: Arc::clone(&self.ground),
        })
    }

    /// Adds a host in a second network of the same router. `kept_apart` hosts do not reach the others by their inner
    /// addresses; through the router's outer address they may, if it turns such packets around.
    pub fn host_in_second_network(&self, name: &str, kept_apart: bool) -> Result<Host> {
        let inner = |last| Ipv4Addr::new(192, 168, 128 + self.index, last);
        let namespace = self.ground.namespace(name)?;
        namespace.ip(&format!(
            "link add eth0 type veth peer name lan2 netns {}",
            self.router.name()
        ))?;
        self.router
            .ip(&format!("address add {}/24 dev lan2\nlink set lan2 up", inner(1)))?;
        namespace.ip(&format!(
            "address add {}/24 dev eth0\nlink set eth0 up\nroute add default via {}",
            inner(2),
            inner(1)
        ))?;
        if kept_apart {
            self.router.nft(KEPT_APART)?;
        }
        Ok(Host {
            name: name.to_owned(),
            namespace,
            address: AtomicU32::new(inner(2).to_bits()),
            gateway: Some(inner(1)),
            ground: Arc::clone(&self.ground),
        })
    }

    /// Makes the router a new one of that kind: its rules change and it forgets every UDP flow.
    pub fn become_kind(&mut self, kind: NatKind) -> Result<()> {
        self.kind = kind;
        self.router.nft(&kind.ruleset(self.wan, self.inner(2)))?;
        self.forget_udp_flows()
    }

    /// Gives the site's UDP flows another public address, as a provider's router does that restarts: rule and flows change,
    /// for either alone changes nothing. Returns that address.
    pub fn rebind(&mut self) -> Result<Ipv4Addr> {
        self.rebinds = (self.rebinds + 1) % 20;
        let next = Ipv4Addr::new(203, 0, 113, 140 + (self.index % 4) * 20 + self.rebinds);
        self.router.ip(&format!("address replace {next}/24 dev wan"))?;
        self.router.nft(&format!(
            "flush chain ip nat post\nadd rule ip nat post oifname \"wan\" meta l4proto udp snat to {next}\n\
             add rule ip nat post oifname \"wan\" masquerade\n"
        ))?;
        self.forget_udp_flows()?;
        Ok(next)
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

/// What was translated to an inner address has come by the outer one.
const KEPT_APART: &str = "table inet apart {
  chain f { type filter hook forward priority filter; policy accept;
    ct status dnat accept
    iifname \"lan\" oifname \"lan2\" drop
    iifname \"lan2\" oifname \"lan\" drop
  }
}
";
