//! The shell: sockets, clocks, tasks and the state file.
//!
//! ```text
//! listener ──▶ admission ──▶ (TLS) ──▶ http ──▶ /key, /health, …
//!                                       ├─────▶ node: Noise, HTTP/2 ──▶ register, map ──▶ shared ──▶ store
//!                                       └─────▶ derp: login ──▶ relay
//! stun (UDP)
//! ```
//!
//! Whatever a client does ends that client's connection at most.

pub(crate) mod admission;
pub(crate) mod derp;
pub(crate) mod frames;
pub(crate) mod http;
pub(crate) mod listener;
pub(crate) mod map_stream;
pub(crate) mod node;
pub(crate) mod noise;
pub(crate) mod pages;
pub(crate) mod register;
pub(crate) mod shared;
pub(crate) mod store;
pub(crate) mod stun;
#[cfg(test)]
mod tests;
pub(crate) mod tls;
