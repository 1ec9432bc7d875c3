//! The controller's side of a link.

use std::collections::VecDeque;
use std::time::Instant;

use super::{LinkEnd, Outgoing, REAP_AFTER, REGISTER_TIMEOUT, Silence, SilenceVerdict, slept};
use crate::wire::ids::InstanceSecret;
use crate::wire::v1::{Message, Metadata};

/// What the controller's shell learns from a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControllerEvent {
    /// Somebody wants to be this daemon; answer with [`ControllerLink::accept`] or [`ControllerLink::refuse`].
    Register {
        /// The id as it came, unchecked.
        daemon_id: String,
        /// What it says of itself.
        metadata: Metadata,
        /// The secret of that daemon process, if it sent one.
        instance: Option<InstanceSecret>,
    },
    /// The daemon's heart beats.
    Heartbeat,
    /// An answer, output or a chunk.
    Deliver(Message),
    /// No heartbeat for 30 s: the entry is to go, the socket stays.
    Reaped,
    /// The connection is to be closed.
    Ended(LinkEnd),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    New {
        until: Instant,
    },
    Deciding {
        id: String,
        until: Instant,
    },
    Registered {
        id: String,
        heartbeat: Instant,
    },
    /// Registered once, its entry is gone.
    Forgotten {
        id: String,
    },
}

/// Takes registrations, answers heartbeats, notices silence.
#[derive(Debug)]
pub struct ControllerLink {
    state: State,
    silence: Silence,
    transmits: VecDeque<Outgoing>,
    events: VecDeque<ControllerEvent>,
    ended: bool,
}

impl ControllerLink {
    /// A link over a connection that was upgraded at `now`. It sends nothing before it answers a `register`.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            state: State::New {
                until: now + REGISTER_TIMEOUT,
            },
            silence: Silence::new(now),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            ended: false,
        }
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
        if let Message::Register {
            daemon_id,
            metadata,
            instance,
        } = message
        {
            self.handle_register(daemon_id, metadata, instance, now);
        } else if matches!(message, Message::Heartbeat) {
            self.handle_heartbeat(now);
        } else if matches!(self.state, State::Registered { .. } | State::Forgotten { .. }) {
            self.events.push_back(ControllerEvent::Deliver(message));
        }
    }

    fn handle_register(
        &mut self,
        daemon_id: String,
        metadata: Metadata,
        instance: Option<InstanceSecret>,
        now: Instant,
    ) {
        let until = match &self.state {
            State::New { until } => *until,
            State::Deciding { .. } => return self.answer_register(false, "a registration is being decided already"),
            State::Registered { id, .. } | State::Forgotten { id } if *id != daemon_id => {
                return self.answer_register(false, "this connection is registered under another id");
            }
            State::Registered { .. } | State::Forgotten { .. } => now + REGISTER_TIMEOUT,
        };
        self.state = State::Deciding {
            id: daemon_id.clone(),
            until,
        };
        self.events.push_back(ControllerEvent::Register {
            daemon_id,
            metadata,
            instance,
        });
    }

    fn handle_heartbeat(&mut self, now: Instant) {
        let (success, reason) = if let State::Registered { heartbeat, .. } = &mut self.state {
            *heartbeat = now;
            self.events.push_back(ControllerEvent::Heartbeat);
            (true, "")
        } else if matches!(self.state, State::Deciding { .. }) {
            // A repeated registration is being decided: its ack says enough, and nothing may come before it.
            return;
        } else {
            (false, "not registered here, send register")
        };
        self.transmits.push_back(Outgoing::Message(Message::HeartbeatAck {
            success,
            reason: reason.to_owned(),
        }));
    }

    /// The registration stands; the entry has to exist before this is called, since work may follow the ack.
    pub fn accept(&mut self, now: Instant) {
        if let State::Deciding { id, .. } = &self.state {
            self.state = State::Registered {
                id: id.clone(),
                heartbeat: now,
            };
            self.answer_register(true, "registered");
        }
    }

    /// The registration is refused; the connection stays open, unregistered.
    pub fn refuse(&mut self, reason: &str) {
        if let State::Deciding { until, .. } = &self.state {
            self.state = State::New { until: *until };
            self.answer_register(false, reason);
        }
    }

    /// The registry dropped the entry for a reason of its own.
    pub fn forget(&mut self) {
        if let State::Registered { id, .. } = &self.state {
            self.state = State::Forgotten { id: id.clone() };
        }
    }

    fn answer_register(&mut self, success: bool, message: &str) {
        self.transmits.push_back(Outgoing::Message(Message::RegisterAck {
            success,
            message: message.to_owned(),
        }));
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.ended {
            return;
        }
        if slept(self.poll_timeout(), now) {
            self.silence.heard(now);
            if let State::Registered { heartbeat, .. } = &mut self.state {
                *heartbeat = now;
            }
        }
        match &self.state {
            State::New { until } | State::Deciding { until, .. } if now >= *until => {
                return self.end(LinkEnd::NoRegister);
            }
            State::Registered { id, heartbeat } if now > *heartbeat + REAP_AFTER => {
                self.state = State::Forgotten { id: id.clone() };
                self.events.push_back(ControllerEvent::Reaped);
            }
            State::New { .. } | State::Deciding { .. } | State::Registered { .. } | State::Forgotten { .. } => {}
        }
        match self.silence.handle_timeout(now) {
            Some(SilenceVerdict::Dead) => self.end(LinkEnd::Silent),
            Some(SilenceVerdict::Ping) => self.transmits.push_back(Outgoing::Ping),
            None => {}
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.ended {
            return None;
        }
        let own = match &self.state {
            State::New { until } | State::Deciding { until, .. } => Some(*until),
            State::Registered { heartbeat, .. } => Some(*heartbeat + REAP_AFTER + std::time::Duration::from_millis(1)),
            State::Forgotten { .. } => None,
        };
        own.into_iter().chain([self.silence.deadline()]).min()
    }

    /// What is to be sent next.
    pub fn poll_transmit(&mut self) -> Option<Outgoing> {
        self.transmits.pop_front()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<ControllerEvent> {
        self.events.pop_front()
    }

    fn end(&mut self, why: LinkEnd) {
        self.ended = true;
        self.events.push_back(ControllerEvent::Ended(why));
    }
}
