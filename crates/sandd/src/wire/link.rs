//! The life of one connection as a pure machine: register, ack, heartbeat, silence (S-31).
//!
//! Both sides follow one grammar: feed `handle_*` with what came and what time it is, then drain `poll_transmit` and
//! `poll_event`, and come back at `poll_timeout`. The shells own the socket and the clock.
//!
//! ```text
//! daemon      Registering --register_ack true--> Registered --heartbeat_ack false--> Registering (same socket)
//!                 | false, 10 s                     | ack time-out, 45 s of silence
//!                 v                                 v
//!               ended                             ended
//! controller  New --register, accepted--> Registered --30 s without heartbeat--> Reaped --register--> Registered
//!                 | 10 s                     | 45 s of silence                      | 45 s of silence
//!                 v                          v                                      v
//!               ended                      ended                                  ended
//! ```

mod controller;
mod daemon;

pub use controller::{ControllerEvent, ControllerLink};
pub use daemon::{DaemonEvent, DaemonLink};

use std::time::{Duration, Instant};

use super::v1::Message;

/// How long either side waits for the registration to be done.
pub const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);

/// A controller forgets a daemon that sent no heartbeat for longer than this.
pub const REAP_AFTER: Duration = Duration::from_secs(30);

/// Silence after which a WebSocket ping asks whether the other side lives.
pub const PING_AFTER: Duration = Duration::from_secs(15);

/// Silence after which a connection is dead.
pub const DEAD_AFTER: Duration = Duration::from_secs(45);

/// A timer that goes off so much later than asked for means that this side slept or was stopped, not that the other was
/// silent: what it has said meanwhile is still to be read.
const SLEPT_AFTER: Duration = Duration::from_secs(5);

/// True when `due` was long ago.
fn slept(due: Option<Instant>, now: Instant) -> bool {
    due.is_some_and(|due| now.saturating_duration_since(due) >= SLEPT_AFTER)
}

/// What a link wants to have sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outgoing {
    /// `register`, with metadata read now.
    Register,
    /// This message.
    Message(Message),
    /// A WebSocket ping.
    Ping,
}

/// Why a link is at its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkEnd {
    /// The controller refused the registration.
    #[error("the controller refused the registration: {}", crate::escape::Escaped(.0))]
    Refused(String),
    /// No answer to `register`.
    #[error("the controller did not answer the registration within 10 s")]
    NoRegisterAck,
    /// No `register`.
    #[error("the peer did not register within 10 s")]
    NoRegister,
    /// Heartbeats went out, no ack came in.
    #[error("the controller acknowledged no heartbeat for {} s", .0.as_secs())]
    NoHeartbeatAck(Duration),
    /// Nothing came at all.
    #[error("the peer was silent for 45 s")]
    Silent,
}

/// Pings a silent peer and tells when it is dead; the same for both sides.
#[derive(Debug)]
struct Silence {
    heard: Instant,
    pinged: Option<Instant>,
}

impl Silence {
    fn new(now: Instant) -> Self {
        Self {
            heard: now,
            pinged: None,
        }
    }

    fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.pinged = None;
    }

    fn deadline(&self) -> Instant {
        let ping = self.pinged.unwrap_or(self.heard) + PING_AFTER;
        ping.min(self.heard + DEAD_AFTER)
    }

    /// Says whether the peer is dead, or a ping is due.
    fn handle_timeout(&mut self, now: Instant) -> Option<SilenceVerdict> {
        if now >= self.heard + DEAD_AFTER {
            return Some(SilenceVerdict::Dead);
        }
        if now >= self.pinged.unwrap_or(self.heard) + PING_AFTER {
            self.pinged = Some(now);
            return Some(SilenceVerdict::Ping);
        }
        None
    }
}

#[derive(Debug, PartialEq, Eq)]
enum SilenceVerdict {
    Ping,
    Dead,
}

#[cfg(test)]
mod tests;
