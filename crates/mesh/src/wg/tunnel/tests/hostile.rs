//! Outside bytes of every kind: nothing panics, nothing is believed.

use proptest::prelude::*;

use super::super::*;
use super::world::World;
use crate::wg::guard::{Admission, HandshakeGuard};

fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![Just(148usize), Just(92), Just(64), Just(32), 0..2_000usize];
    let bytes = len.prop_flat_map(|len| prop::collection::vec(any::<u8>(), len));
    (bytes, 0..6u8).prop_map(|(mut bytes, kind)| {
        let head = [kind, 0, 0, 0];
        let known = head.len().min(bytes.len());
        bytes[..known].copy_from_slice(&head[..known]);
        bytes
    })
}

proptest! {
    #[test]
    fn bytes_from_outside_change_nothing(datagrams in prop::collection::vec(datagram(), 1..30), stride in 0..300usize) {
        let mut world = World::connected();
        let index = world.ends[1].tunnel.sessions.current().unwrap().local;
        let mut guard = HandshakeGuard::new(world.ends[1].identity.public());
        let now = world.now;
        for mut bytes in datagrams {
            prop_assert!(!world.deliver(1, &bytes));
            let admission = guard.admit((), ([192, 0, 2, 1], 1).into(), &bytes, now);
            prop_assert_eq!(admission, Admission::Refuse);
            // The same with an index that is ours.
            if let Some(receiver) = bytes.get_mut(4..8) {
                receiver.copy_from_slice(&index.to_le_bytes());
            }
            prop_assert!(!world.deliver(1, &bytes));
            let tunnel = &mut world.ends[1].tunnel;
            prop_assert_eq!(tunnel.open_slots(&mut bytes, stride, now, &mut Vec::new()), 0);
            prop_assert!(tunnel.handle_answer(&bytes, now, &mut Vec::new()).is_err());
        }
        world.say(0, b"still here");
        world.settle();
        prop_assert_eq!(world.ends[1].opened.last().unwrap(), b"still here");
    }

    #[test]
    fn slots_of_any_shape_are_sealed_whole_or_not_at_all(len in 0..3_000usize, stride in 0..1_500usize) {
        let mut world = World::connected();
        let (now, mut slots) = (world.now, vec![0x55; len]);
        world.ends[0].tunnel.seal_slots(&mut slots, stride, now, &mut Vec::new());
        let fits = stride >= HEADER + TAG && len > 0 && (len % stride == 0 || len % stride >= HEADER + TAG);
        if !fits {
            prop_assert!(slots.iter().all(|byte| *byte == 0));
            return Ok(());
        }
        for slot in slots.chunks_mut(stride) {
            let own = slot.len();
            prop_assert_eq!(world.ends[1].tunnel.open_slots(slot, own, now, &mut Vec::new()), 1);
            prop_assert!(slot[HEADER..own - TAG].iter().all(|byte| *byte == 0x55));
        }
    }
}
