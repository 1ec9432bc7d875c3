//! Every kernel makes the bytes that OpenSSL and `ring` make, for every shape of a run.

use proptest::prelude::*;

use crate::{Kernel, Key, MAX_SLOTS, MIN_SLOT, kernel::available, slots::Slots};

/// The kernels that this processor has, beside `ring`.
fn kernels() -> impl Iterator<Item = Kernel> {
    [Kernel::Avx2, Kernel::Avx512]
        .into_iter()
        .filter(|kernel| available(*kernel) == *kernel)
}

fn seal(kernel: Kernel, key: &Key, bytes: &mut [u8], stride: usize) {
    key.seal_with(kernel, &mut Slots::new(bytes, stride, usize::MAX).unwrap());
}

fn open(kernel: Kernel, key: &Key, bytes: &mut [u8], stride: usize, candidates: u64) -> u64 {
    key.open_with(kernel, &mut Slots::new(bytes, stride, MAX_SLOTS).unwrap(), candidates)
}

/// A cheap sequence of bytes; equal seeds give equal bytes.
fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Bits of the slots of a run.
fn all(length: usize, stride: usize) -> u64 {
    let count = length / stride + usize::from(length % stride >= MIN_SLOT);
    u64::MAX.checked_shr(64 - count.min(64) as u32).unwrap_or(0)
}

/// Seals and opens a run by every kernel and compares to `ring`, byte for byte.
fn agree(key: &Key, plain: &[u8], stride: usize) {
    let mut expected = plain.to_vec();
    seal(Kernel::Ring, key, &mut expected, stride);
    for kernel in kernels() {
        let mut run = plain.to_vec();
        seal(kernel, key, &mut run, stride);
        assert!(run == expected, "{kernel:?} seals {} bytes by {stride}", plain.len());
        let opened = open(kernel, key, &mut run, stride, u64::MAX);
        let slots = plain.len() / stride + usize::from(plain.len() % stride >= MIN_SLOT);
        assert_eq!(
            opened,
            all(plain.len(), stride),
            "{kernel:?} opens {slots} slots of {stride}"
        );
        for (index, ((slot, plain), sealed)) in run
            .chunks(stride)
            .zip(plain.chunks(stride))
            .zip(expected.chunks(stride))
            .enumerate()
        {
            if slot.len() < MIN_SLOT || index >= MAX_SLOTS {
                assert!(slot == sealed, "{kernel:?} leaves what is no slot");
                continue;
            }
            let end = slot.len() - 16;
            assert!(
                slot[..end] == plain[..end],
                "{kernel:?}: slot {index} of {slots} of {stride} is plain"
            );
            assert!(
                slot[end..] == sealed[end..],
                "{kernel:?}: the tag of slot {index} stays"
            );
        }
    }
}

/// Key and text of RFC 8439, 2.8.2, with WireGuard's nonce and without associated data; the result is that of OpenSSL.
#[test]
fn a_slot_is_sealed_as_openssl_does() {
    let key: [u8; 32] = std::array::from_fn(|i| 0x80 + i as u8);
    let text = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
        sunscreen would be it.";
    let sealed = "a479cb54628946d6f4042a8e384ef4bd2fbc7330b8be55eb2d8dc18aaa51d66a8ec1f8d3619a258db0ac56956015b7b4937e\
        9b8e6aa957b3dc0214d803d77660aabc913092971da8f207171ce7843608162e2e759d8efc25d8d0936990af63c820ba87e8a955b5c82\
        74ef7d10f6fafd04647fa6775577a1a250dcc2df37e95e46c4a";
    let mut slot = vec![0; 16];
    slot[8..].copy_from_slice(&0x4746_4544_4342_4140_u64.to_le_bytes());
    slot.extend_from_slice(text);
    slot.extend_from_slice(&[0; 16]);
    let stride = slot.len();
    let key = Key::new(&key);
    for kernel in kernels().chain([Kernel::Ring]) {
        for count in [1, 4] {
            let mut run = slot.repeat(count);
            seal(kernel, &key, &mut run, stride);
            for slot in run.chunks(stride) {
                assert_eq!(hex::encode(&slot[16..]), sealed, "{kernel:?}");
            }
            assert_eq!(open(kernel, &key, &mut run, stride, u64::MAX), all(run.len(), stride));
            assert!(run.chunks(stride).all(|slot| slot[16..stride - 16] == text[..]));
        }
    }
    let mut run = slot;
    key.seal_slots(&mut run, stride);
    assert_eq!(key.open_slots(&mut run, stride, 1), 1);
}

#[test]
fn every_length_of_a_body() {
    let key = Key::new(&[7; 32]);
    for body in 0..=2048 {
        for count in [2, 3, 8] {
            agree(&key, &bytes(count * (body + 32), body as u64), body + 32);
        }
    }
}

#[test]
fn every_count_of_slots() {
    let key = Key::new(&[8; 32]);
    for count in 1..=70 {
        for body in [0, 1, 16, 63, 64, 65, 100, 512, 1280, 1420, 1440] {
            agree(&key, &bytes(count * (body + 32), (count * body) as u64), body + 32);
        }
    }
}

#[test]
fn every_length_of_a_ragged_last_slot() {
    let key = Key::new(&[9; 32]);
    for (stride, count) in [(1452, 3), (200, 8), (33, 5), (32, 2)] {
        for rest in 0..stride {
            agree(&key, &bytes(count * stride + rest, rest as u64), stride);
        }
    }
}

#[test]
fn what_is_no_slot_is_left_alone() {
    let key = Key::new(&[1; 32]);
    for length in 0..100 {
        for stride in 0..MIN_SLOT {
            let mut run = bytes(length, 3);
            assert_eq!(key.open_slots(&mut run, stride, u64::MAX), 0);
            assert_eq!(run, bytes(length, 3));
        }
        if length < MIN_SLOT {
            let mut run = bytes(length, 3);
            key.seal_slots(&mut run, 1452);
            assert_eq!(key.open_slots(&mut run, 1452, u64::MAX), 0);
            assert_eq!(run, bytes(length, 3));
        }
    }
}

/// Flips one bit of one slot: its counter, its body, its tag.
#[test]
fn one_flipped_bit_fails_one_slot() {
    let key = Key::new(&[2; 32]);
    for kernel in kernels().chain([Kernel::Ring]) {
        for (body, count) in [(1420, 45), (1280, 16), (100, 7), (16, 2), (0, 3)] {
            let stride = body + 32;
            let plain = bytes(count * stride, 5);
            let mut sealed = plain.clone();
            seal(kernel, &key, &mut sealed, stride);
            for (turn, at) in (8..stride)
                .step_by((stride / 37).max(1))
                .chain([15, 16, stride - 17, stride - 1])
                .enumerate()
            {
                let slot = turn * 7 % count;
                let at = at.max(8);
                let mut run = sealed.clone();
                run[slot * stride + at] ^= 1 << (turn % 8);
                let opened = open(kernel, &key, &mut run, stride, u64::MAX);
                assert_eq!(
                    opened,
                    all(run.len(), stride) & !(1 << slot),
                    "{kernel:?}, byte {at} of slot {slot}"
                );
                for (index, (opened, plain)) in run.chunks(stride).zip(plain.chunks(stride)).enumerate() {
                    let body = 16..stride - 16;
                    if index == slot {
                        assert!(
                            opened[body].iter().all(|byte| *byte == 0),
                            "{kernel:?}: nothing of it is left"
                        );
                    } else {
                        assert!(opened[body.clone()] == plain[body]);
                    }
                }
            }
        }
    }
}

#[test]
fn only_candidates_are_opened() {
    let key = Key::new(&[3; 32]);
    let (stride, count) = (332, 64);
    let plain = bytes(count * stride - 100, 6);
    let mut sealed = plain.clone();
    seal(Kernel::Ring, &key, &mut sealed, stride);
    for kernel in kernels().chain([Kernel::Ring]) {
        for candidates in [
            0,
            1,
            0b110,
            1 << 63,
            0x8000_0000_0000_0005,
            0xaaaa_aaaa_aaaa_aaaa,
            u64::MAX >> 1,
            u64::MAX,
        ] {
            let mut run = sealed.clone();
            assert_eq!(
                open(kernel, &key, &mut run, stride, candidates),
                candidates,
                "{kernel:?}"
            );
            for (index, slot) in run.chunks(stride).enumerate() {
                let was = if candidates >> index & 1 == 1 { &plain } else { &sealed };
                let was = &was[index * stride..];
                assert!(
                    slot[..slot.len() - 16] == was[..slot.len() - 16],
                    "{kernel:?}: slot {index}"
                );
            }
        }
    }
}

#[test]
fn slots_behind_the_64th_are_sealed_but_not_opened() {
    let key = Key::new(&[4; 32]);
    let stride = 100;
    let mut run = bytes(200 * stride, 7);
    key.seal_slots(&mut run, stride);
    let sealed = run.clone();
    assert_eq!(key.open_slots(&mut run, stride, u64::MAX), u64::MAX);
    assert_eq!(run[64 * stride..], sealed[64 * stride..]);
    for some in run[64 * stride..].chunks_mut(64 * stride) {
        assert_eq!(key.open_slots(some, stride, u64::MAX), all(some.len(), stride));
    }
}

#[test]
fn a_key_does_not_print() {
    assert_eq!(format!("{:?}", Key::new(&[5; 32])), "Key(..)");
}

#[test]
fn the_kernel_is_one_that_the_processor_has() {
    assert_eq!(available(Kernel::Ring), Kernel::Ring);
    assert_ne!(available(Kernel::Auto), Kernel::Auto);
    assert_ne!(crate::kernel(), Kernel::Auto);
}

fn random_case(key: [u8; 32], seed: u64, stride: usize, slots: usize, rest: usize) {
    agree(&Key::new(&key), &bytes(slots * stride + rest % stride, seed), stride);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_runs(key: [u8; 32], seed: u64, stride in 32_usize..1600, slots in 0_usize..20, rest: usize) {
        random_case(key, seed, stride, slots, rest);
    }
}

/// `cargo test --release -p sandd-aead -- --ignored`, a few minutes.
#[test]
#[ignore = "takes minutes"]
fn a_million_random_runs() {
    for case in 0..1_000_000_u64 {
        let draw = bytes(64, case.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let number = |at: usize| usize::from(u16::from_le_bytes([draw[at], draw[at + 1]]));
        let key = std::array::from_fn(|i| draw[i]);
        random_case(key, case + 1, 32 + number(32) % 1500, number(34) % 12, number(36));
    }
}
