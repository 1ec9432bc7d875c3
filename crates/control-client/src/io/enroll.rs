//! Registration over a connection: asks, shows a login, rotates the node key, and commits it.
//!
//! A new node key is on disk as "trying" before the coordinator hears of it, and becomes the node key when the
//! coordinator has taken it: a crash in between loses nothing that the coordinator knows.

use std::time::Instant;

use super::driver::{Driver, End};
use super::early_map::EarlyMap;
use super::session::Connection;
use crate::error::ControlError;
use crate::event::{ControlEvent, ControlState};
use crate::keys::NodePrivateKey;
use crate::registration::{Next, Registration};
use crate::wire::RegisterRequest;

/// A coordinator that takes every registration and then denies it would be asked for ever.
const MAX_RENEWALS: u32 = 3;

/// Why this node must register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// It has not yet, with this coordinator.
    Join,
    /// The coordinator does not know it any more.
    Removed,
    /// The coordinator knows its node key under another machine key.
    ForeignKey,
    /// Its node key has ended.
    Expired,
    /// Somebody asked for a new key.
    Asked,
}

impl Driver {
    pub(super) async fn enroll(&mut self, connection: &Connection, why: Why) -> Result<(), End> {
        if self.registration.is_none() {
            self.begin_registration(why)?;
        }
        self.race(self.saver.flush()).await?.map_err(ControlError::from)?;
        loop {
            let Some(registration) = &self.registration else {
                return Err(ControlError::Stopped.into());
            };
            let (request, waits) = (registration.request(), registration.waits_for_person());
            let early = request.auth.is_some() && !waits;
            self.early_map = early.then(|| self.ask_early(connection, &request)).flatten();
            let connection = connection.clone();
            let response = self
                .race(async move { connection.register(&request, waits).await })
                .await??;
            let Some(registration) = &mut self.registration else {
                return Err(ControlError::Stopped.into());
            };
            match registration.handle_response(&response, Instant::now()) {
                Next::Ask => {}
                Next::Rotate => {
                    self.early_map = None;
                    let key = NodePrivateKey::generate();
                    registration.rotated(key.public());
                    self.state.trying_node_key = Some(key);
                    self.saver.save(&self.state);
                    self.race(self.saver.flush()).await?.map_err(ControlError::from)?;
                }
                Next::Login(url) => {
                    self.early_map = None;
                    tracing::warn!(%url, "this node waits for approval");
                    self.tell(ControlState::LoginRequired { url });
                }
                Next::Registered => {
                    self.commit();
                    return Ok(());
                }
                Next::Failed(error) => {
                    self.early_map = None;
                    // A passing trouble leaves a login URL valid.
                    if !error.is_retryable() {
                        self.registration = None;
                    }
                    return Err(in_context(why, error).into());
                }
            }
        }
    }

    /// Asks for the map of the node that is just being registered; dropped when that fails.
    fn ask_early(&self, connection: &Connection, request: &RegisterRequest) -> Option<EarlyMap> {
        let announcement = self.shared.announcement();
        let map = announcement.map_request(request.node_key?, true);
        Some(EarlyMap::start(connection.clone(), map, announcement))
    }

    fn begin_registration(&mut self, why: Why) -> Result<(), ControlError> {
        self.renewals += 1;
        if self.renewals > MAX_RENEWALS {
            self.renewals = 0;
            return Err(if why == Why::Expired {
                ControlError::Expired
            } else {
                ControlError::Removed
            });
        }
        let old_key = self.state.node_key.as_ref().map(NodePrivateKey::public);
        if why == Why::Removed {
            tracing::warn!("this node was removed at the coordinator");
            self.forget();
            if self.auth_key.is_none() {
                self.why = Some(Why::Join);
                return Err(ControlError::Removed);
            }
        }
        let reusable = why != Why::ForeignKey;
        let key = self
            .state
            .trying_node_key
            .take()
            .filter(|_| reusable)
            .unwrap_or_else(NodePrivateKey::generate);
        let hostinfo = self.shared.announcement().full_hostinfo();
        let public = key.public();
        let is_new = !self.shared.with(|shared| shared.node_key.public() == public);
        self.state.trying_node_key = Some(key);
        if is_new {
            self.saver.save(&self.state);
        }
        let old_key = old_key.filter(|_| matches!(why, Why::Expired | Why::Asked));
        self.registration = Some(Registration::new(
            public,
            old_key,
            self.auth_key.clone(),
            self.config.ephemeral,
            hostinfo,
        ));
        Ok(())
    }

    fn commit(&mut self) {
        self.registration = None;
        self.why = None;
        let Some(key) = self.state.trying_node_key.take() else {
            return;
        };
        let changed = self.shared.with(|shared| {
            let changed = shared.node_key.public() != key.public();
            shared.node_key = key.clone();
            changed
        });
        if changed {
            self.outbox.push(ControlEvent::NodeKey(key.clone()));
        }
        self.state.node_key = Some(key);
        self.state.registered_at = Some(self.config.url.to_string());
        self.saver.save(&self.state);
        self.tell(ControlState::Registered);
    }
}

/// A refused auth key means something else to a node that was a member.
fn in_context(why: Why, error: ControlError) -> ControlError {
    match (why, error) {
        (Why::Removed, ControlError::KeyRejected(key)) => ControlError::RemovedAndRefused(key),
        (Why::Expired, ControlError::KeyRejected(key)) => ControlError::ExpiredAndRefused(key),
        (_, error) => error,
    }
}
