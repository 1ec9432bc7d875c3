//! What each node is told: a whole map at the beginning of its stream, and after that only what is new to it.
//!
//! ```text
//! Membership ──▶ World (immutable, shared) ──▶ MapWriter of each stream ──▶ MapResponse
//!   changed         one per change                what this node was told last; the difference is the message
//! ```
//!
//! There is no queue of changes: a stream that is slow, or away for a moment, later gets the difference to the world as
//! it is then. So nothing has to be collected on a timer either: a change goes out at once, and what happened while a
//! message was being written is in the next one. Differences that fit become patches.

mod derp_map;
mod dns;
#[cfg(test)]
mod tests;
mod world;
mod writer;

pub(crate) use derp_map::{RelayAddress, derp_map};
pub(crate) use dns::dns_config;
pub(crate) use world::World;
pub(crate) use writer::{MapWriter, Told};
