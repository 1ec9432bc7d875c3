//! A userspace WireGuard mesh node.

pub mod disco;
pub mod filter;
pub mod magic_dns;
pub mod net;
pub mod netstack;
pub mod packet;
pub mod route;
pub mod stun;

#[cfg(test)]
mod vectors;
