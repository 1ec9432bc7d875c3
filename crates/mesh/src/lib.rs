//! A userspace WireGuard mesh node.

pub mod filter;
pub mod magic_dns;
pub mod net;
pub mod netstack;
pub mod packet;
pub mod route;
