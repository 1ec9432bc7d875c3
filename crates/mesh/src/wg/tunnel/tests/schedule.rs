//! Random networks: loss, duplication, reordering, silence and restarts in any order.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;

use super::replay::Random;
use super::world::World;

/// What is done to the two ends.
#[derive(Debug, Clone)]
enum Step {
    Say {
        from: usize,
        count: u8,
    },
    Pass {
        millis: u32,
    },
    Initiate {
        from: usize,
    },
    /// From here on the link loses and doubles so many of a hundred, and delays up to that long.
    Link {
        loss: u8,
        double: u8,
        delay: u16,
    },
    Restart {
        at: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..2usize, 1..40u8).prop_map(|(from, count)| Step::Say { from, count }),
        8 => prop_oneof![4 => 0..300u32, 2 => 0..20_000u32, 1 => 60_000..200_000u32].prop_map(|millis| Step::Pass { millis }),
        1 => (0..2usize).prop_map(|from| Step::Initiate { from }),
        2 => (prop_oneof![0..30u8, Just(100)], 0..30u8, 0..900u16)
            .prop_map(|(loss, double, delay)| Step::Link { loss, double, delay }),
        1 => (0..2usize).prop_map(|at| Step::Restart { at }),
    ];
    prop::collection::vec(step, 1..60)
}

fn run(steps: &[Step], seed: u64) {
    let mut world = World::new();
    let quality = Rc::new(RefCell::new((0usize, 0usize, 0usize)));
    let mut random = Random(seed | 1);
    let link = Rc::clone(&quality);
    world.link = Box::new(move |_, _| {
        let (loss, double, delay) = *link.borrow();
        let copies = usize::from(random.below(100) >= loss) + usize::from(random.below(100) < double);
        (0..copies)
            .map(|_| Duration::from_millis(random.below(delay + 1) as u64))
            .collect()
    });
    let mut said = [0u32; 2];
    for step in steps {
        match step {
            Step::Say { from, count } => {
                for _ in 0..*count {
                    world.say(*from, &said[*from].to_be_bytes());
                    said[*from] += 1;
                }
            }
            Step::Pass { millis } => world.pass(Duration::from_millis(u64::from(*millis))),
            Step::Initiate { from } => {
                world.initiate(*from);
            }
            Step::Link { loss, double, delay } => {
                *quality.borrow_mut() = (usize::from(*loss), usize::from(*double), usize::from(*delay));
            }
            Step::Restart { at } => world.restart(*at),
        }
        for end in &world.ends {
            assert!(end.tunnel.sessions.indices().count() <= 4);
        }
    }
    // A sound network: whatever happened, both talk again within WireGuard's own times, then nothing is lost.
    *quality.borrow_mut() = (0, 0, 0);
    world.pass(Duration::from_secs(1));
    for _ in 0..25 {
        world.say(0, b"ping");
        world.say(1, b"ping");
        world.pass(Duration::from_secs(1));
    }
    let heard = world.ends.each_ref().map(|end| end.opened.len());
    for _ in 0..10 {
        world.say(0, b"pong");
        world.say(1, b"pong");
        world.settle();
    }
    for (end, heard) in world.ends.iter().zip(heard) {
        assert_eq!(end.opened.len() - heard, 10);
        let mut seen = BTreeSet::new();
        for text in end.opened.iter().filter(|text| *text != b"ping" && *text != b"pong") {
            assert!(seen.insert(text.clone()), "{text:?} came twice");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn nothing_comes_twice_and_a_sound_network_heals_all(steps in steps(), seed in any::<u64>()) {
        run(&steps, seed);
    }
}

#[test]
fn a_bad_link_for_ten_minutes() {
    let steps: Vec<_> = [Step::Link {
        loss: 20,
        double: 20,
        delay: 80,
    }]
    .into_iter()
    .chain((0..12_000).flat_map(|at| [Step::Say { from: at % 2, count: 2 }, Step::Pass { millis: 50 }]))
    .collect();
    run(&steps, 11);
}
