//! Shim for cargo-fuzz.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sandd_fuzz::aead::slots(data));
