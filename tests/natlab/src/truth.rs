//! What must come of a pair: a model of mapping and filtering in the terms of RFC 4787, and nothing of any node's code.

use e2e::lab::{Families, NatKind};
use serde::Serialize;

use crate::terrain::{Arrangement, Hindrance, Side};

/// Kind of path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// By UDP, straight.
    Direct,
    /// Through a relay.
    Relay,
}

/// Over which addresses a direct path must lead, where there is a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// Any.
    Any,
    /// The private ones.
    Private,
    /// IPv6.
    Ipv6,
}

/// What a pair must come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Expected {
    /// The kind of path at both ends.
    pub kind: Kind,
    /// Over which addresses.
    pub via: Via,
}

/// Who gets in by UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filter {
    /// Everybody.
    Open,
    /// Every port of an address that was written to.
    Address,
    /// Only exactly who was written to.
    AddressAndPort,
}

/// A side as the internet sees its UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Traits {
    /// Everyone sees the same outer port.
    one_mapping: bool,
    filter: Filter,
}

const OPEN: Traits = Traits {
    one_mapping: true,
    filter: Filter::Open,
};

const PORT_RESTRICTED: Traits = Traits {
    one_mapping: true,
    filter: Filter::AddressAndPort,
};

const HARD: Traits = Traits {
    one_mapping: false,
    filter: Filter::AddressAndPort,
};

/// What must come of two nodes that are placed like this, and that guess each other's ports or do not.
#[must_use]
pub fn expected(arrangement: &Arrangement, port_guessing: bool) -> Expected {
    let any = |kind| Expected { kind, via: Via::Any };
    match arrangement {
        Arrangement::SameLan(_) | Arrangement::SameRouter { kept_apart: false, .. } => Expected {
            kind: Kind::Direct,
            via: Via::Private,
        },
        Arrangement::SameRouter { kind, .. } | Arrangement::SameCarrier { carrier: kind, .. } => {
            any(if *kind == NatKind::FullConeHairpin {
                Kind::Direct
            } else {
                Kind::Relay
            })
        }
        Arrangement::Apart(Side::Speaks(left), Side::Speaks(right)) => {
            let ipv6 = *left != Families::V4 && *right != Families::V4;
            let ipv4 = *left != Families::V6 && *right != Families::V6;
            Expected {
                kind: if ipv4 || ipv6 { Kind::Direct } else { Kind::Relay },
                via: if ipv6 { Via::Ipv6 } else { Via::Any },
            }
        }
        Arrangement::Apart(left, right) => any(match (traits(*left), traits(*right)) {
            (Some(left), Some(right)) if gets_in(left, right) || gets_in(right, left) => Kind::Direct,
            // One port to be found among those of one side; among those of both there are too many pairs.
            (Some(left), Some(right)) if port_guessing && left.one_mapping != right.one_mapping => Kind::Direct,
            _ => Kind::Relay,
        }),
    }
}

/// Whether a packet of `from` gets in at `to`: then its answer goes back the way it came, and the path stands.
fn gets_in(from: Traits, to: Traits) -> bool {
    // The address that `to` has told must be the one at which it lets `from` in, and under a strict filter it must know
    // from where that will write.
    match to.filter {
        Filter::Open => true,
        Filter::Address => to.one_mapping,
        Filter::AddressAndPort => to.one_mapping && from.one_mapping,
    }
}

/// `None` where no UDP passes between the two.
fn traits(side: Side) -> Option<Traits> {
    match side {
        Side::Public => Some(OPEN),
        Side::Behind(kind) => Some(traits_of(kind)),
        Side::BehindTwo { home, carrier } => {
            let (home, carrier) = (traits_of(home), traits_of(carrier));
            Some(Traits {
                one_mapping: home.one_mapping && carrier.one_mapping,
                filter: if home.filter == Filter::Open {
                    carrier.filter
                } else {
                    home.filter
                },
            })
        }
        // The IPv4 half of such a site is an ordinary home router.
        Side::Speaks(Families::V4 | Families::Dual) => Some(PORT_RESTRICTED),
        Side::Speaks(Families::V6) => None,
        Side::Hindered(_, hindrance) => match hindrance {
            Hindrance::NoUdp
            | Hindrance::OnlyWeb
            | Hindrance::Deaf
            | Hindrance::NoUdpWithPeer
            | Hindrance::DeafToPeer
            | Hindrance::MuteToPeer => None,
        },
    }
}

fn traits_of(kind: NatKind) -> Traits {
    match kind {
        NatKind::PortRestricted | NatKind::PortRestrictedShifted => PORT_RESTRICTED,
        // A peer's early packet takes the port away that STUN has told: towards that peer it is as good as hard.
        NatKind::Hard | NatKind::Careless => HARD,
        NatKind::FullCone | NatKind::FullConeHairpin | NatKind::OneToOne => OPEN,
        NatKind::AddressRestricted => Traits {
            one_mapping: true,
            filter: Filter::Address,
        },
        // The forwarded port is told beside the others, and everybody gets in there.
        NatKind::HardWithForward => OPEN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_gives_the_table_that_was_measured() {
        let sides = [
            Side::Behind(NatKind::FullCone),
            Side::Behind(NatKind::AddressRestricted),
            Side::Behind(NatKind::PortRestricted),
            Side::Behind(NatKind::Hard),
        ];
        let table = ["dddd", "dddd", "dddr", "ddrr"];
        for (left, row) in sides.iter().zip(table) {
            for (right, expected_kind) in sides.iter().zip(row.chars()) {
                let kind = expected(&Arrangement::Apart(*left, *right), false).kind;
                let wanted = if expected_kind == 'd' {
                    Kind::Direct
                } else {
                    Kind::Relay
                };
                assert_eq!(kind, wanted, "{left:?} x {right:?}");
            }
        }
    }

    #[test]
    fn versions_of_ip_that_do_not_meet_need_the_relay() {
        let meet = |left, right| expected(&Arrangement::Apart(Side::Speaks(left), Side::Speaks(right)), false);
        assert_eq!(meet(Families::V6, Families::V4).kind, Kind::Relay);
        assert_eq!(meet(Families::Dual, Families::V6).via, Via::Ipv6);
        assert_eq!(meet(Families::Dual, Families::V4).kind, Kind::Direct);
    }
}
