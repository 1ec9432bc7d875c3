//! The daemon's side of a link.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{LinkEnd, Outgoing, REGISTER_TIMEOUT, Silence, SilenceVerdict, slept};
use crate::wire::v1::Message;

/// Messages that may come before `register_ack` and are kept.
const MAX_EARLY: usize = 64;

/// What the daemon's shell learns from its link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DaemonEvent {
    /// The controller took the registration; `again` when it had forgotten us and took us back.
    Registered {
        /// Not the first time on this connection.
        again: bool,
    },
    /// A message to act upon.
    Deliver(Message),
    /// The connection is to be closed.
    Ended(LinkEnd),
}

/// Registers, keeps the heart beating, notices a dead controller.
#[derive(Debug)]
pub struct DaemonLink {
    heartbeat_every: Duration,
    registering_until: Option<Instant>,
    ever_registered: bool,
    next_heartbeat: Option<Instant>,
    /// Armed by the first ack, so that a controller that never acks is not cut off.
    last_ack: Option<Instant>,
    silence: Silence,
    early: VecDeque<Message>,
    transmits: VecDeque<Outgoing>,
    events: VecDeque<DaemonEvent>,
    ended: bool,
}

impl DaemonLink {
    /// A link over a connection that was made at `now`; `register` is the first thing it wants sent.
    #[must_use]
    pub fn new(heartbeat_every: Duration, now: Instant) -> Self {
        Self {
            heartbeat_every,
            registering_until: Some(now + REGISTER_TIMEOUT),
            ever_registered: false,
            next_heartbeat: None,
            last_ack: None,
            silence: Silence::new(now),
            early: VecDeque::new(),
            transmits: VecDeque::from([Outgoing::Register]),
            events: VecDeque::new(),
            ended: false,
        }
    }

    /// Time without an ack after which the controller is given up.
    fn ack_timeout(&self) -> Duration {
        (self.heartbeat_every * 6).max(Duration::from_secs(30))
    }

    /// Any frame came, a pong for instance.
    pub fn handle_alive(&mut self, now: Instant) {
        self.silence.heard(now);
    }

    /// A message came.
    pub fn handle_message(&mut self, message: Message, now: Instant) {
        self.silence.heard(now);
        if self.ended {
            return;
        }
        if let Message::RegisterAck { success, message } = message {
            self.handle_register_ack(success, message, now);
        } else if let Message::HeartbeatAck { success, .. } = message {
            self.last_ack = Some(now);
            if !success && self.registering_until.is_none() {
                self.registering_until = Some(now + REGISTER_TIMEOUT);
                self.transmits.push_back(Outgoing::Register);
            }
        } else if self.ever_registered {
            self.events.push_back(DaemonEvent::Deliver(message));
        } else if self.early.len() < MAX_EARLY {
            self.early.push_back(message);
        }
    }

    fn handle_register_ack(&mut self, success: bool, reason: String, now: Instant) {
        if self.registering_until.take().is_none() {
            return;
        }
        if !success {
            self.end(LinkEnd::Refused(reason));
            return;
        }
        self.events.push_back(DaemonEvent::Registered {
            again: self.ever_registered,
        });
        self.ever_registered = true;
        self.transmits.push_back(Outgoing::Message(Message::Heartbeat));
        self.next_heartbeat = Some(now + self.heartbeat_every);
        self.events.extend(self.early.drain(..).map(DaemonEvent::Deliver));
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.ended {
            return;
        }
        if slept(self.poll_timeout(), now) {
            self.silence.heard(now);
            self.last_ack = self.last_ack.map(|_| now);
        }
        if self.registering_until.is_some_and(|at| now >= at) {
            self.end(LinkEnd::NoRegisterAck);
            return;
        }
        if self.last_ack.is_some_and(|at| now >= at + self.ack_timeout()) {
            self.end(LinkEnd::NoHeartbeatAck(self.ack_timeout()));
            return;
        }
        match self.silence.handle_timeout(now) {
            Some(SilenceVerdict::Dead) => {
                self.end(LinkEnd::Silent);
                return;
            }
            Some(SilenceVerdict::Ping) => self.transmits.push_back(Outgoing::Ping),
            None => {}
        }
        if self.next_heartbeat.is_some_and(|at| now >= at) {
            self.transmits.push_back(Outgoing::Message(Message::Heartbeat));
            self.next_heartbeat = Some(now + self.heartbeat_every);
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.ended {
            return None;
        }
        let ack = self.last_ack.map(|at| at + self.ack_timeout());
        [
            self.registering_until,
            self.next_heartbeat,
            ack,
            Some(self.silence.deadline()),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// What is to be sent next.
    pub fn poll_transmit(&mut self) -> Option<Outgoing> {
        self.transmits.pop_front()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<DaemonEvent> {
        self.events.pop_front()
    }

    fn end(&mut self, why: LinkEnd) {
        self.ended = true;
        self.events.push_back(DaemonEvent::Ended(why));
    }
}
