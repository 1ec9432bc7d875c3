//! The relay: packets between members that have no direct path.
//!
//! ```text
//! connection of A: read ─▶ SendPacket(B) ─▶ Relay finds B's connection ─▶ its Outbox ─▶ write ─▶ B
//! ```
//!
//! Only members are admitted, and who ceases to be one is thrown off. Each connection has an [`Outbox`] that keeps the
//! newest packets and drops the oldest, so that a slow reader costs nobody else anything; one that does not read at all
//! is cut off. What is carried is sealed by the nodes; the relay sees who talks to whom, and nothing more.

mod connection;
mod outbox;
mod relay;

pub(crate) use connection::{DerpError, serve};
pub(crate) use outbox::Outbox;
pub(crate) use relay::Relay;
