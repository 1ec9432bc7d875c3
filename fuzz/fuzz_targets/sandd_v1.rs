//! Shim for cargo-fuzz.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sandd_fuzz::sandd_v1::message(data));
