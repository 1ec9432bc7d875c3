//! What a site's router does to packets, as nft rules.
//!
//! Interfaces are called `wan` and `lan` in every router. nft 1.0.6 wants a newline before each closing brace.

use std::net::Ipv4Addr;

/// How a router maps and filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NatKind {
    /// Port-restricted cone, the usual home router: one mapping for all, answers only from who was written to.
    PortRestricted,
    /// As before, but the outer port is never the inner one.
    PortRestrictedShifted,
    /// A mapping for each destination ("symmetric").
    Hard,
    /// One mapping for all, open to everyone.
    FullCone,
    /// One mapping for all, open to every address that was written to.
    AddressRestricted,
    /// A mapping for each destination, but port 41641 is forwarded to the first host.
    HardWithForward,
    /// A public address for the first host alone, translated both ways, as clouds do it.
    OneToOne,
    /// [`Self::FullCone`] whose inner hosts reach each other by their outer addresses, too.
    FullConeHairpin,
    /// Port-restricted without the drop of early packets: a router that spoils its own mappings.
    Careless,
}

/// A hindrance that can be put into a router and taken away while traffic flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// No UDP leaves the site.
    UdpBlocked,
    /// Only TCP to ports 80 and 443 leaves the site.
    OnlyWeb,
    /// UDP to and from this address is lost, all else passes: kills a direct path and leaves the relay.
    Pair(Ipv4Addr),
    /// UDP comes in no more, but still goes out.
    Deaf,
    /// UDP from this address does not come in, all else passes: the direct path works in one direction.
    DeafTo(Ipv4Addr),
    /// UDP to this address does not go out, all else passes: the mirror of [`Self::DeafTo`].
    MuteTo(Ipv4Addr),
    /// Every n-th UDP packet of a hundred is lost at random.
    Loss(u8),
}

/// Early packets must not reach the router itself: conntrack would confirm them and our own flow would lose its port.
const INPUT_DROP: &str = "table inet fw {
  chain input { type filter hook input priority filter; policy accept;
    iifname \"wan\" ct state established,related accept
    iifname \"wan\" meta l4proto ipv6-icmp accept
    iifname \"wan\" drop
  }
}
";

/// No IPv6 is translated; only what was asked for comes in.
const IPV6_FIREWALL: &str = "table ip6 fw6 {
  chain forward { type filter hook forward priority filter; policy accept;
    iifname \"wan\" ct state established,related accept
    iifname \"wan\" meta l4proto ipv6-icmp accept
    iifname \"wan\" drop
  }
}
";

const CONE_MAP: &str =
    "  map fc { type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout 5m; size 65536; }
  chain post { type nat hook postrouting priority srcnat; policy accept;
    oifname \"wan\" meta l4proto udp update @fc { udp sport timeout 5m : ip saddr . udp sport }
    oifname \"wan\" masquerade
  }
";

impl NatKind {
    /// The complete ruleset of a router with the outer address `wan`, whose first host is `first_host`.
    #[must_use]
    pub fn ruleset(self, wan: Ipv4Addr, first_host: Ipv4Addr) -> String {
        let post = |rules: &str| {
            format!("  chain post {{ type nat hook postrouting priority srcnat; policy accept;\n{rules}\n  }}\n")
        };
        let nat = match self {
            Self::PortRestricted | Self::Careless => post("    oifname \"wan\" masquerade"),
            Self::PortRestrictedShifted => {
                post("    oifname \"wan\" meta l4proto udp masquerade to :20000-29999\n    oifname \"wan\" masquerade")
            }
            Self::Hard => post("    oifname \"wan\" masquerade random,fully-random"),
            Self::HardWithForward => format!(
                "{}  chain pre {{ type nat hook prerouting priority dstnat; policy accept;\n    \
                 iifname \"wan\" udp dport 41641 dnat to {first_host}\n  }}\n",
                post("    oifname \"wan\" masquerade random,fully-random"),
            ),
            Self::OneToOne => format!(
                "  chain pre {{ type nat hook prerouting priority dstnat; policy accept;\n    \
                 iifname \"wan\" dnat to {first_host}\n  }}\n{}",
                post(&format!("    oifname \"wan\" snat to {wan}")),
            ),
            Self::FullConeHairpin => format!(
                "{}  chain pre {{ type nat hook prerouting priority dstnat; policy accept;\n    \
                 ip daddr {wan} meta l4proto udp dnat ip to udp dport map @fc\n  }}\n",
                CONE_MAP.replace(
                    "    oifname \"wan\" masquerade\n",
                    &format!(
                        "    oifname \"wan\" masquerade\n    oifname != \"wan\" ct status dnat snat ip to {wan}\n"
                    ),
                ),
            ),
            Self::FullCone => format!(
                "{CONE_MAP}  chain pre {{ type nat hook prerouting priority dstnat; policy accept;\n    \
                 iifname \"wan\" meta l4proto udp dnat ip to udp dport map @fc\n  }}\n"
            ),
            Self::AddressRestricted => format!(
                "{CONE_MAP}  set peers {{ type inet_service . ipv4_addr; flags dynamic,timeout; timeout 5m; size 65536; }}\n  \
                 chain pre {{ type nat hook prerouting priority dstnat; policy accept;\n    \
                 iifname \"wan\" meta l4proto udp udp dport . ip saddr @peers dnat ip to udp dport map @fc\n  }}\n  \
                 chain track {{ type filter hook postrouting priority mangle; policy accept;\n    \
                 oifname \"wan\" meta l4proto udp update @peers {{ udp sport . ip daddr timeout 5m }}\n  }}\n"
            ),
        };
        let input = if self == Self::Careless { "" } else { INPUT_DROP };
        format!("flush ruleset\n{input}{IPV6_FIREWALL}table ip nat {{\n{nat}}}\n")
    }
}

impl Obstacle {
    /// The rules that put this obstacle, and no other, into a router.
    #[must_use]
    pub fn ruleset(self) -> String {
        let rules = match self {
            Self::UdpBlocked => "oifname \"wan\" meta l4proto udp udp dport != 53 drop".to_owned(),
            Self::OnlyWeb => "oifname \"wan\" meta l4proto udp udp dport != 53 drop\n    \
                              oifname \"wan\" tcp dport != { 80, 443 } drop"
                .to_owned(),
            Self::Pair(address) => {
                format!("ip saddr {address} meta l4proto udp drop\n    ip daddr {address} meta l4proto udp drop")
            }
            Self::DeafTo(address) => format!("iifname \"wan\" ip saddr {address} meta l4proto udp drop"),
            Self::MuteTo(address) => format!("oifname \"wan\" ip daddr {address} meta l4proto udp drop"),
            Self::Deaf => "iifname \"wan\" meta l4proto udp drop".to_owned(),
            Self::Loss(percent) => format!("meta l4proto udp numgen random mod 100 < {percent} drop"),
        };
        format!(
            "{OBSTACLE_CLEARED}table inet obstacle {{\n  chain f {{ type filter hook forward priority filter; policy accept;\n    \
             {rules}\n  }}\n}}\n"
        )
    }
}

/// Takes every obstacle away.
pub(crate) const OBSTACLE_CLEARED: &str = "table inet obstacle\ndelete table inet obstacle\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_careless_router_lets_early_packets_in() {
        let rules = |kind: NatKind| kind.ruleset(Ipv4Addr::new(203, 0, 113, 11), Ipv4Addr::new(192, 168, 1, 2));
        let drops = |kind: NatKind| rules(kind).contains("chain input");
        assert!(drops(NatKind::PortRestricted));
        assert!(!drops(NatKind::Careless));
    }
}
