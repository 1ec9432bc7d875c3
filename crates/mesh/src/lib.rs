//! A userspace WireGuard mesh node.

pub mod packet;
