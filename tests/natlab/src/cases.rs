//! All cells: every ordered pair of router types, and what does not fit such a table.

use e2e::lab::{Families, NatKind};

use crate::terrain::{Arrangement, Case, Hindrance, Side};

const TYPES: [(&str, Side); 8] = [
    ("none", Side::Public),
    ("prc", Side::Behind(NatKind::PortRestricted)),
    ("prc-shifted", Side::Behind(NatKind::PortRestrictedShifted)),
    ("hard", Side::Behind(NatKind::Hard)),
    ("full-cone", Side::Behind(NatKind::FullCone)),
    ("restricted", Side::Behind(NatKind::AddressRestricted)),
    ("hard+forward", Side::Behind(NatKind::HardWithForward)),
    ("1:1", Side::Behind(NatKind::OneToOne)),
];

const PRC: Side = Side::Behind(NatKind::PortRestricted);
const HARD: Side = Side::Behind(NatKind::Hard);
const CARELESS: Side = Side::Behind(NatKind::Careless);
const TWICE_PRC: Side = Side::BehindTwo {
    home: NatKind::PortRestricted,
    carrier: NatKind::PortRestricted,
};
const PRC_IN_HARD: Side = Side::BehindTwo {
    home: NatKind::PortRestricted,
    carrier: NatKind::Hard,
};
const PRC_IN_CONE: Side = Side::BehindTwo {
    home: NatKind::PortRestricted,
    carrier: NatKind::FullCone,
};

/// Every cell; the order is that of the report.
#[must_use]
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (left_name, left) in TYPES {
        for (right_name, right) in TYPES {
            cases.push(Case {
                name: format!("{left_name} x {right_name}"),
                arrangement: Arrangement::Apart(left, right),
            });
        }
    }
    for (name, left, right) in apart() {
        cases.push(Case {
            name: name.to_owned(),
            arrangement: Arrangement::Apart(left, right),
        });
    }
    for (name, arrangement) in together() {
        cases.push(Case {
            name: name.to_owned(),
            arrangement,
        });
    }
    cases
}

fn apart() -> Vec<(&'static str, Side, Side)> {
    let hindered = |hindrance| Side::Hindered(NatKind::PortRestricted, hindrance);
    let speaks = Side::Speaks;
    vec![
        ("double prc x prc", TWICE_PRC, PRC),
        ("prc x double prc", PRC, TWICE_PRC),
        ("double prc x double prc", TWICE_PRC, TWICE_PRC),
        ("prc in full cone x prc", PRC_IN_CONE, PRC),
        ("prc in full cone x hard", PRC_IN_CONE, HARD),
        ("prc in hard x prc", PRC_IN_HARD, PRC),
        ("prc in hard x none", PRC_IN_HARD, Side::Public),
        // The side that writes first keeps its port: the careless one must be the one that is called.
        ("prc x careless", PRC, CARELESS),
        (
            "restricted x careless",
            Side::Behind(NatKind::AddressRestricted),
            CARELESS,
        ),
        ("full-cone x careless", Side::Behind(NatKind::FullCone), CARELESS),
        ("careless x none", CARELESS, Side::Public),
        ("no udp x none", hindered(Hindrance::NoUdp), Side::Public),
        ("no udp x prc", hindered(Hindrance::NoUdp), PRC),
        ("hard x no udp", HARD, hindered(Hindrance::NoUdp)),
        (
            "no udp x no udp",
            hindered(Hindrance::NoUdp),
            hindered(Hindrance::NoUdp),
        ),
        ("only web x none", hindered(Hindrance::OnlyWeb), Side::Public),
        ("only web x prc", hindered(Hindrance::OnlyWeb), PRC),
        ("prc x only web", PRC, hindered(Hindrance::OnlyWeb)),
        (
            "only web x only web",
            hindered(Hindrance::OnlyWeb),
            hindered(Hindrance::OnlyWeb),
        ),
        ("deaf x prc", hindered(Hindrance::Deaf), PRC),
        ("none x deaf", Side::Public, hindered(Hindrance::Deaf)),
        ("pair blocked x prc", hindered(Hindrance::NoUdpWithPeer), PRC),
        ("pair blocked x none", hindered(Hindrance::NoUdpWithPeer), Side::Public),
        ("deaf to peer x prc", hindered(Hindrance::DeafToPeer), PRC),
        ("prc x deaf to peer", PRC, hindered(Hindrance::DeafToPeer)),
        ("mute to peer x prc", hindered(Hindrance::MuteToPeer), PRC),
        ("prc x mute to peer", PRC, hindered(Hindrance::MuteToPeer)),
        ("v6 only x v6 only", speaks(Families::V6), speaks(Families::V6)),
        ("dual x dual", speaks(Families::Dual), speaks(Families::Dual)),
        ("dual x v6 only", speaks(Families::Dual), speaks(Families::V6)),
        ("v6 only x dual", speaks(Families::V6), speaks(Families::Dual)),
        ("v6 only x v4 only", speaks(Families::V6), speaks(Families::V4)),
        ("v4 only x v6 only", speaks(Families::V4), speaks(Families::V6)),
    ]
}

fn together() -> Vec<(&'static str, Arrangement)> {
    let same_router = |kind, kept_apart| Arrangement::SameRouter { kind, kept_apart };
    let same_carrier = |carrier| Arrangement::SameCarrier {
        home: NatKind::PortRestricted,
        carrier,
    };
    vec![
        ("same lan, prc", Arrangement::SameLan(NatKind::PortRestricted)),
        ("same lan, hard", Arrangement::SameLan(NatKind::Hard)),
        ("same router, no hairpin", same_router(NatKind::PortRestricted, false)),
        ("same hard router, no hairpin", same_router(NatKind::Hard, false)),
        ("kept apart, hairpin", same_router(NatKind::FullConeHairpin, true)),
        ("kept apart, no hairpin", same_router(NatKind::FullCone, true)),
        ("same carrier, hairpin", same_carrier(NatKind::FullConeHairpin)),
        ("same carrier, no hairpin", same_carrier(NatKind::PortRestricted)),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_cell_has_a_name_of_its_own() {
        let names: HashSet<String> = cases().into_iter().map(|case| case.name).collect();
        assert_eq!(names.len(), cases().len());
    }
}
