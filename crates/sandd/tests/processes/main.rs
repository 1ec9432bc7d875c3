//! Real processes on loopback: the built program in direct and tunnel mode, and raw `sandd.v1` peers played from the
//! specification.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod bad_input;
mod controller_conformance;
mod daemon_conformance;
mod exec;
mod harness;
mod keys;
mod lifecycle;
mod membership;
mod mesh_ground;
mod quickstart;
mod trees;
