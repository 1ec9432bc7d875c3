//! [`Sessions`]: those of one peer that live, at most four: the one we send on and those we still or already receive on.
//!
//! ```text
//!  we initiated:   response  -> it is current at once
//!  peer initiated: response sent -> offered -> first authentic packet on it -> current
//!                      current before -> received on until its keys are 180 s old
//! ```
//!
//! So a responder sends on new keys only when it knows that the initiator has them, and a forged or replayed initiation
//! moves nothing. Two offers may be open: an initiator that repeats its initiation may take either.

use std::time::Instant;

use super::session::{REJECT_AFTER_TIME, Session};

/// Sessions beside the current one.
const MAX_OTHERS: usize = 3;

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    /// Boxed: most tunnels have none, and are to be small.
    current: Option<Box<Session>>,
    others: Vec<Other>,
}

#[derive(Debug)]
struct Other {
    session: Session,
    /// The first authentic packet on it makes it current.
    offered: bool,
}

impl Sessions {
    /// The session that is sent on.
    pub(crate) fn current(&self) -> Option<&Session> {
        self.current.as_deref()
    }

    /// The session that is sent on.
    pub(crate) fn current_mut(&mut self) -> Option<&mut Session> {
        self.current.as_deref_mut()
    }

    /// The session that this index of ours belongs to.
    pub(crate) fn receiving(&mut self, local: u32) -> Option<&mut Session> {
        let others = self.others.iter_mut().map(|other| &mut other.session);
        self.current
            .as_deref_mut()
            .into_iter()
            .chain(others)
            .find(|session| session.local == local)
    }

    /// A handshake of ours is complete: what it made is current. Indices that are free now go to `gone`. True when the peer
    /// has called meanwhile, too.
    pub(crate) fn complete(&mut self, session: Session, gone: &mut Vec<u32>) -> bool {
        let crossed = self.others.iter().any(|other| other.offered);
        // What the peer was offered it may send on, but we have chosen.
        for other in &mut self.others {
            other.offered = false;
        }
        if let Some(before) = self.current.replace(Box::new(session)) {
            self.keep(*before, false, gone);
        }
        crossed
    }

    /// We answered a peer's initiation: what it makes waits for the peer's first packet.
    pub(crate) fn offer(&mut self, session: Session, gone: &mut Vec<u32>) {
        self.keep(session, true, gone);
    }

    /// An authentic packet came on this session. True when that made it current.
    pub(crate) fn confirm(&mut self, local: u32, gone: &mut Vec<u32>) -> bool {
        let is_offer = |other: &Other| other.offered && other.session.local == local;
        let Some(at) = self.others.iter().position(is_offer) else {
            return false;
        };
        let session = self.others.remove(at).session;
        self.others.retain(|other| {
            let overtaken = other.offered && other.session.born <= session.born;
            gone.extend(overtaken.then_some(other.session.local));
            !overtaken
        });
        if let Some(before) = self.current.replace(Box::new(session)) {
            self.keep(*before, false, gone);
        }
        true
    }

    /// Drops what is too old to be used, with its keys.
    pub(crate) fn expire(&mut self, now: Instant, gone: &mut Vec<u32>) {
        self.others.retain(|other| {
            let alive = other.session.is_alive(now);
            gone.extend((!alive).then_some(other.session.local));
            alive
        });
        if self.current.as_ref().is_some_and(|session| !session.is_alive(now)) {
            gone.extend(self.current.take().map(|session| session.local));
        }
    }

    /// Drops the current session: it has no counters left.
    pub(crate) fn retire_current(&mut self, gone: &mut Vec<u32>) {
        if let Some(session) = self.current.take() {
            self.keep(*session, false, gone);
        }
    }

    /// When [`Self::expire`] has something to do.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.all().map(|session| session.born + REJECT_AFTER_TIME).min()
    }

    /// The indices of all that live.
    pub(crate) fn indices(&self) -> impl Iterator<Item = u32> {
        self.all().map(|session| session.local)
    }

    fn all(&self) -> impl Iterator<Item = &Session> {
        self.current
            .as_deref()
            .into_iter()
            .chain(self.others.iter().map(|other| &other.session))
    }

    /// Puts a session beside the current one; what was heard of longest ago makes room.
    fn keep(&mut self, session: Session, offered: bool, gone: &mut Vec<u32>) {
        if self.others.len() >= MAX_OTHERS {
            let last_sign = |(_, other): &(usize, &Other)| other.session.heard.unwrap_or(other.session.born);
            let oldest = self.others.iter().enumerate().min_by_key(last_sign).map(|(at, _)| at);
            if let Some(at) = oldest {
                gone.push(self.others.remove(at).session.local);
            }
        }
        self.others.push(Other { session, offered });
    }
}
