//! Bytes without policy: the buffers that carry packets through the node, and checked views over them.

pub mod buffer;
pub mod checksum;
pub mod ecn;
pub mod ip;
pub mod join;
pub mod split;
pub mod too_big;
pub mod tsmp;
pub mod vnet;

#[cfg(test)]
pub(crate) mod reference;

pub use buffer::PacketBuf;
