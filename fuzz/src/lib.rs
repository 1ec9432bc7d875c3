//! Everything that reads bytes of strangers, one `fn(&[u8])` each: it must not panic, hang or take memory by a length
//! that the bytes merely claim, and what it accepts it must also write and read again.
//!
//! ```text
//! corpus/<target>/*  ──▶ mutate (seeded) ──▶ target ──▶ codec
//! ```
//!
//! `tests/run.rs` replays the corpus and feeds seeded mutations of it, on stable, in every CI run. The shims in
//! `fuzz_targets/` hand the same functions to cargo-fuzz, outside this workspace since that needs a nightly compiler.

pub mod aead;
pub mod control;
pub mod mesh;
pub mod mutate;
pub mod sandd_v1;

/// One surface.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Name; that of its corpus directory and shim, too.
    pub name: &'static str,
    /// Takes the bytes; a panic is a finding.
    pub run: fn(&[u8]),
    /// Inputs that CI tries. What does cryptography or builds much for one input gets fewer.
    pub runs: u32,
}

const fn target(name: &'static str, run: fn(&[u8]), runs: u32) -> Target {
    Target { name, run, runs }
}

/// All surfaces.
pub const TARGETS: [Target; 18] = [
    target("stun", mesh::stun, 200_000),
    target("disco", mesh::disco, 200_000),
    target("disco_box", mesh::disco_box, 20_000),
    target("derp_frames", mesh::derp_frames, 200_000),
    target("derp_login", mesh::derp_login, 100_000),
    target("aead_slots", aead::slots, 5_000),
    target("ip_filter", mesh::ip_filter, 500_000),
    target("super_packet", mesh::super_packet, 100_000),
    target("netstack", mesh::netstack, 20_000),
    target("noise_handshake", control::noise_handshake, 20_000),
    target("noise_records", control::noise_records, 1_000),
    target("early_payload", control::early_payload, 100_000),
    target("map_stream", control::map_stream, 30_000),
    target("map_session", control::map_session, 20_000),
    target("register", control::register, 50_000),
    target("names", control::names, 100_000),
    target("sandd_v1", sandd_v1::message, 200_000),
    target("daemon_id", sandd_v1::daemon_id, 100_000),
];
