//! Joins a Tailscale-compatible coordinator and follows its network map.

pub mod dial;
pub mod keys;
pub mod map_stream;
pub mod netmap;
pub mod noise;
pub mod wire;
