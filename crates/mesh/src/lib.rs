//! A userspace WireGuard mesh node.
#![allow(dead_code)]

pub mod derp;
pub mod disco;
mod engine;
mod event;
pub mod filter;
pub mod magic_dns;
mod metrics;
pub mod net;
pub mod netstack;
pub mod packet;
mod path;
pub mod route;
mod status;
pub mod stun;
mod wg;

#[cfg(test)]
mod vectors;
