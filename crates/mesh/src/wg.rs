//! WireGuard: handshakes, sessions and timers of each peer, and what guards them.
//!
//! ```text
//!  datagram -> message (type, index) -> index (whose) -> tunnel (open) -> session, window
//!                    `- 1, 2 -> guard (mac1, cookie, limits, budget) -> tunnel (answer)
//!  packet -> tunnel (ready? seal : stage) -> session
//!  time -> tunnel -> timers
//! ```
//!
//! The handshake itself is the fork of boringtun's under `vendor/`; everything that a data packet meets is ours
//! (docs/adr/0003). All of it is pure: the caller brings the time.

pub(crate) mod guard;
pub(crate) mod index;
pub(crate) mod message;
mod session;
mod sessions;
mod timers;
pub(crate) mod tunnel;
mod window;

pub(crate) use sandd_noise::x25519::{PublicKey, StaticSecret};
pub(crate) use sandd_noise::{Clock, Identity, Initiator, Packet};
