//! The shell: the only place of this crate, besides `dial`, with sockets, tasks, files and clocks.
//!
//! ```text
//! Driver (one task) ─▶ connect ─▶ Connection (HTTP/2 in Noise) ─▶ register ─▶ Link (map stream, updates) ─▶ events
//!        ▲                                                                          │
//!        └──────────────── back-off, jittered ◀── stream ended, watchdog, errors ◀──┘
//! ```

mod connect;
mod driver;
mod early_map;
mod enroll;
mod key_store;
mod link;
mod noise_stream;
mod ping;
mod saver;
mod session;

pub(crate) use driver::{Command, Driver, Shared};
pub use key_store::{FileStore, MemoryStore, NodeState, StateStore, StoreError};

/// A random number in 0..1, for jitter.
fn chance() -> f64 {
    let mut bytes = [0u8; 4];
    // Without randomness there is no jitter, which is no reason to stop.
    let _ = getrandom::fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}
