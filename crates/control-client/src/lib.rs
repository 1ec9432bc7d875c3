//! Joins a Tailscale-compatible coordinator and follows its network map.

pub mod keys;
pub mod netmap;
