//! A userspace WireGuard mesh node.

pub mod filter;
pub mod magic_dns;
pub mod packet;
pub mod route;
