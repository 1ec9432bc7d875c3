//! Two tunnels with invented time and an attacker between them who sees, keeps, changes and makes datagrams.
//!
//! [`world`] is the ground; the stories are sorted by what they show.

mod hostile;
mod interop;
mod lifetime;
mod memory;
mod replay;
mod schedule;
mod silence;
mod world;
