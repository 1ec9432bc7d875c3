//! Where two nodes stand, and the building of it.

use anyhow::Result;
use e2e::lab::{Families, Host, Lab, LabOptions, NatKind, Obstacle, Site, SiteOptions};

/// One end of a pair that shares nothing with the other end but the internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// A public address and nothing before it.
    Public,
    /// A router.
    Behind(NatKind),
    /// A router behind a provider's router.
    BehindTwo {
        /// The inner one.
        home: NatKind,
        /// The provider's.
        carrier: NatKind,
    },
    /// A home router with these versions of IP, of which IPv6 has a stateful packet filter and no translation.
    Speaks(Families),
    /// A router with a hindrance.
    Hindered(NatKind, Hindrance),
}

/// What is in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hindrance {
    /// No UDP goes out.
    NoUdp,
    /// Only TCP to ports 80 and 443 goes out.
    OnlyWeb,
    /// UDP goes out, none comes in.
    Deaf,
    /// No UDP to or from the peer.
    NoUdpWithPeer,
    /// None from the peer.
    DeafToPeer,
    /// None to the peer.
    MuteToPeer,
}

/// How the two stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrangement {
    /// Only the internet between them.
    Apart(Side, Side),
    /// In one network.
    SameLan(NatKind),
    /// In two networks of one router.
    SameRouter {
        /// The router.
        kind: NatKind,
        /// It does not route between them.
        kept_apart: bool,
    },
    /// Each behind a home router of its own, both behind the same provider's.
    SameCarrier {
        /// Each home's router.
        home: NatKind,
        /// The provider's.
        carrier: NatKind,
    },
}

/// A cell of the matrix.
#[derive(Debug, Clone)]
pub struct Case {
    /// What it is called.
    pub name: String,
    /// Where the two stand.
    pub arrangement: Arrangement,
}

/// The built place of two nodes.
#[derive(Debug)]
pub(crate) struct Plot {
    pub(crate) left: Host,
    pub(crate) right: Host,
    /// Behind one outer address two nodes cannot have the same port.
    pub(crate) right_port: Option<u16>,
    /// Gone when these are dropped.
    _sites: Vec<Site>,
}

/// The port of the right node where both share an outer address.
const OTHER_PORT: u16 = 41642;

impl Arrangement {
    /// The internet that it needs.
    pub(crate) fn internet(&self) -> LabOptions {
        let speaks = |side: &Side| matches!(side, Side::Speaks(_));
        LabOptions {
            ipv6: matches!(self, Self::Apart(left, right) if speaks(left) || speaks(right)),
        }
    }

    /// Builds it in `lab`, with hosts `a` and `b`.
    pub(crate) fn build(&self, lab: &Lab) -> Result<Plot> {
        let (sites, left, right, right_port) = match *self {
            Self::Apart(left, right) => {
                let (mut sites, a) = left.build(lab, "a")?;
                let (others, b) = right.build(lab, "b")?;
                left.hinder(&sites, public_address(&others, &b))?;
                right.hinder(&others, public_address(&sites, &a))?;
                sites.extend(others);
                (sites, a, b, None)
            }
            Self::SameLan(kind) => {
                let site = lab.site(kind)?;
                let (a, b) = (site.host("a")?, site.host("b")?);
                (vec![site], a, b, Some(OTHER_PORT))
            }
            Self::SameRouter { kind, kept_apart } => {
                let site = lab.site(kind)?;
                let (a, b) = (site.host("a")?, site.host_in_second_network("b", kept_apart)?);
                (vec![site], a, b, Some(OTHER_PORT))
            }
            Self::SameCarrier { home, carrier } => {
                let provider = lab.site_with(&SiteOptions {
                    carrier: true,
                    ..SiteOptions::new(carrier)
                })?;
                let customer = SiteOptions {
                    behind: Some(&provider),
                    ..SiteOptions::new(home)
                };
                let (one, other) = (lab.site_with(&customer)?, lab.site_with(&customer)?);
                let (a, b) = (one.host("a")?, other.host("b")?);
                (vec![one, other, provider], a, b, Some(OTHER_PORT))
            }
        };
        Ok(Plot {
            left,
            right,
            right_port,
            _sites: sites,
        })
    }
}

impl Side {
    fn build(self, lab: &Lab, name: &str) -> Result<(Vec<Site>, Host)> {
        let options = match self {
            Self::Public => return Ok((Vec::new(), lab.public_host(name)?)),
            Self::Behind(kind) | Self::Hindered(kind, _) => SiteOptions::new(kind),
            Self::Speaks(families) => SiteOptions {
                families,
                ..SiteOptions::new(NatKind::PortRestricted)
            },
            Self::BehindTwo { home, carrier } => {
                let provider = lab.site_with(&SiteOptions {
                    carrier: true,
                    ..SiteOptions::new(carrier)
                })?;
                let site = lab.site_with(&SiteOptions {
                    behind: Some(&provider),
                    ..SiteOptions::new(home)
                })?;
                let host = site.host(name)?;
                return Ok((vec![site, provider], host));
            }
        };
        let site = lab.site_with(&options)?;
        let host = site.host(name)?;
        Ok((vec![site], host))
    }

    fn hinder(self, sites: &[Site], peer: std::net::Ipv4Addr) -> Result<()> {
        let (Self::Hindered(_, hindrance), Some(site)) = (self, sites.first()) else {
            return Ok(());
        };
        site.obstruct(match hindrance {
            Hindrance::NoUdp => Obstacle::UdpBlocked,
            Hindrance::OnlyWeb => Obstacle::OnlyWeb,
            Hindrance::Deaf => Obstacle::Deaf,
            Hindrance::NoUdpWithPeer => Obstacle::Pair(peer),
            Hindrance::DeafToPeer => Obstacle::DeafTo(peer),
            Hindrance::MuteToPeer => Obstacle::MuteTo(peer),
        })
    }
}

fn public_address(sites: &[Site], host: &Host) -> std::net::Ipv4Addr {
    sites.first().map_or(host.address(), Site::public)
}
