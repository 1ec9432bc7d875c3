//! A small Headscale-compatible coordinator.

pub mod error;
mod map;
mod membership;
mod policy;
