//! The path to a plain WireGuard peer: no disco, no relay, nothing to ask. It is where the coordinator says, and then
//! wherever the last authenticated packet came from, as the WireGuard paper has it (section 2.1).

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::{PathAction, PathAgent, State, TxId};
use crate::path::candidate::{Candidate, Origin};

impl PathAgent {
    /// A peer that speaks WireGuard alone.
    pub(crate) fn plain(new_tx: fn() -> TxId) -> Self {
        Self {
            plain: true,
            ..Self::new(new_tx)
        }
    }

    /// What the coordinator says. A list that is another one than before replaces what was heard since.
    pub(super) fn set_plain_endpoints(&mut self, endpoints: &[SocketAddr]) {
        let wanted: BTreeSet<SocketAddr> = endpoints.iter().copied().collect();
        let same = wanted.len() == self.candidates.len()
            && wanted.iter().all(|endpoint| self.candidates.get(*endpoint).is_some());
        if same {
            return;
        }
        self.candidates.clear();
        for endpoint in endpoints {
            self.candidates.insert(*endpoint, Candidate::new(Origin::Netmap));
        }
        match endpoints.first() {
            Some(first) => self.follow(*first),
            None if self.best().is_some() => {
                self.state = State::Relay;
                self.actions.push_back(PathAction::Changed(None));
            }
            None => {}
        }
    }

    /// The peer was heard from this address.
    pub(super) fn follow(&mut self, from: SocketAddr) {
        if self.best() != Some(from) {
            self.state = State::Direct { best: from };
            self.actions.push_back(PathAction::Changed(Some(from)));
        }
    }
}
