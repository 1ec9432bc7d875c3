//! [`Plan`]: what happens in a world, drawn from its seed before it begins. It is data, so a plan that shows an offence is
//! made smaller by leaving steps out.

use std::time::Duration;

use super::net::Weather;
use super::rng::Rng;

/// Traffic between two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) gap: Duration,
    pub(super) size: usize,
    pub(super) both_ways: bool,
}

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Event {
    /// Traffic between two begins or becomes another.
    Talk {
        a: usize,
        b: usize,
        traffic: Traffic,
    },
    /// It ends.
    Hush {
        a: usize,
        b: usize,
    },
    /// So many packets at once.
    Burst {
        a: usize,
        b: usize,
        count: usize,
    },
    /// All traffic ends for this long.
    Idle {
        pause: Duration,
    },
    /// Loss, doubling, damage and jitter begin.
    Weather(Weather),
    /// They end.
    Calm,
    /// No UDP passes from one to the other, or both ways.
    Cut {
        from: usize,
        to: usize,
        both_ways: bool,
    },
    /// It passes again, everywhere.
    Heal,
    /// The gates of a host's site forget everything; with another outer address, if told.
    Rebind {
        host: usize,
        readdress: bool,
    },
    /// The host's network lets no UDP out, or in.
    Block {
        host: usize,
        out: bool,
        inward: bool,
    },
    /// It does again.
    Unblock {
        host: usize,
    },
    /// The host gets another address, at another site if told. The system may tell it at once.
    Move {
        host: usize,
        roam: bool,
        reported: bool,
    },
    /// The relays of a region are away; connections die loudly or in silence.
    RelayDown {
        region: u16,
        silent: bool,
    },
    RelayUp {
        region: u16,
    },
    /// A host reaches no relay.
    RelayCut {
        host: usize,
        silent: bool,
    },
    RelayHeal {
        host: usize,
    },
    ControlDown,
    ControlUp,
    /// The program starts anew, after a pause.
    Restart {
        host: usize,
        pause: Duration,
    },
    /// The host does nothing for a while; its clock stops, too, or not.
    Sleep {
        host: usize,
        pause: Duration,
        clock_stops: bool,
    },
}

/// An event and how long nothing else happens after it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Step {
    pub(super) event: Event,
    pub(super) wait: Duration,
}

/// See the module's text.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) hosts: usize,
    pub(super) steps: Vec<Step>,
}

/// How close events follow each other.
#[derive(Debug, Clone, Copy)]
enum Pace {
    Storm,
    Mixed,
    Calm,
}

impl Plan {
    pub(super) fn draw(seed: u64, steps: usize) -> Self {
        let mut rng = Rng::new(seed, 100);
        let hosts = [2, 2, 2, 3, 3, 4][rng.index(6)];
        let pace = [Pace::Storm, Pace::Mixed, Pace::Mixed, Pace::Calm][rng.index(4)];
        let steps = (0..steps)
            .map(|number| Step {
                event: event(&mut rng, hosts, number),
                wait: wait(&mut rng, pace),
            })
            .collect();
        Self { seed, hosts, steps }
    }
}

fn wait(rng: &mut Rng, pace: Pace) -> Duration {
    let storm = match pace {
        Pace::Storm => 800,
        Pace::Mixed => 300,
        Pace::Calm => 50,
    };
    if rng.per_mille(storm) {
        return rng.millis(0, 1_500);
    }
    match rng.below(40) {
        0 => rng.millis(40_000, 200_000),
        1..=8 => rng.millis(8_000, 20_000),
        _ => rng.millis(1_500, 7_000),
    }
}

fn event(rng: &mut Rng, hosts: usize, number: usize) -> Event {
    let host = rng.index(hosts);
    let other = (host + 1 + rng.index(hosts - 1)) % hosts;
    let region = u16::try_from(rng.between(1, 2)).unwrap_or(1);
    if number == 0 {
        return talk(rng, host, other);
    }
    match rng.below(100) {
        0..=15 => talk(rng, host, other),
        16..=19 => Event::Hush { a: host, b: other },
        20..=27 => Event::Burst {
            a: host,
            b: other,
            count: rng.index(60) + 1,
        },
        28 | 29 => Event::Idle {
            pause: rng.millis(20_000, 150_000),
        },
        30..=34 => Event::Weather(Weather {
            loss: rng.below(200),
            duplication: rng.below(50),
            corruption: rng.below(20),
            jitter: rng.millis(0, 60),
        }),
        35..=43 => Event::Calm,
        44..=50 => Event::Cut {
            from: host,
            to: other,
            both_ways: rng.per_mille(600),
        },
        51..=58 => Event::Heal,
        59..=65 => Event::Rebind {
            host,
            readdress: rng.per_mille(600),
        },
        66..=68 => Event::Block {
            host,
            out: rng.per_mille(600),
            inward: rng.per_mille(600),
        },
        69..=73 => Event::Unblock { host },
        74..=78 => Event::Move {
            host,
            roam: rng.per_mille(500),
            reported: rng.per_mille(600),
        },
        79..=80 => Event::RelayDown {
            region,
            silent: rng.per_mille(300),
        },
        81..=84 => Event::RelayUp { region },
        85 => Event::RelayCut {
            host,
            silent: rng.per_mille(300),
        },
        86..=88 => Event::RelayHeal { host },
        89 => Event::ControlDown,
        90..=92 => Event::ControlUp,
        93..=95 => Event::Restart {
            host,
            pause: rng.millis(0, 3_000),
        },
        _ => Event::Sleep {
            host,
            pause: rng.millis(200, 95_000),
            clock_stops: rng.per_mille(300),
        },
    }
}

fn talk(rng: &mut Rng, a: usize, b: usize) -> Event {
    let gaps = [50, 100, 100, 200, 300, 1_000, 3_000];
    Event::Talk {
        a,
        b,
        traffic: Traffic {
            gap: Duration::from_millis(gaps[rng.index(gaps.len())]),
            size: 40 + rng.index(1_200),
            both_ways: rng.per_mille(700),
        },
    }
}
