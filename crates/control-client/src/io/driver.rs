//! [`Driver`]: the client's one task. It connects, enrolls, follows the map, and begins again when something breaks.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use tokio::sync::{Notify, mpsc, oneshot};

use super::chance;
use super::connect::connect;
use super::early_map::EarlyMap;
use super::enroll::Why;
use super::key_store::{NodeState, StateStore};
use super::saver::Saver;
use super::session::Connection;
use crate::announce::Announcement;
use crate::backoff::Backoff;
use crate::config::{AuthKey, ControlConfig};
use crate::error::ControlError;
use crate::event::{ControlEvent, ControlState, Outbox};
use crate::keys::{NodePrivateKey, NodePublicKey};
use crate::netmap::{MapNode, MapSession, NetmapDelta, NetmapUpdate};
use crate::noise::CAPABILITY_VERSION;
use crate::registration::Registration;
use crate::wire::{MapResponse, RegisterRequest};

const LOGOUT_TIMEOUT: Duration = Duration::from_secs(15);

/// What handles and driver both see.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<SharedState>,
    pub(crate) changed: Notify,
}

#[derive(Debug)]
pub(crate) struct SharedState {
    pub(crate) announcement: Announcement,
    pub(crate) node_key: NodePrivateKey,
    /// To be kept for the next run.
    pub(crate) relay_keys: BTreeMap<String, NodePublicKey>,
}

impl Shared {
    pub(crate) fn new(
        announcement: Announcement,
        node_key: NodePrivateKey,
        relay_keys: BTreeMap<String, NodePublicKey>,
    ) -> Self {
        Self {
            state: Mutex::new(SharedState {
                announcement,
                node_key,
                relay_keys,
            }),
            changed: Notify::new(),
        }
    }

    pub(crate) fn with<T>(&self, use_state: impl FnOnce(&mut SharedState) -> T) -> T {
        use_state(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn announcement(&self) -> Announcement {
        self.with(|state| state.announcement.clone())
    }
}

/// What a handle asks of the driver.
#[derive(Debug)]
pub(crate) enum Command {
    Reconnect,
    Renew(Option<AuthKey>),
    Logout(oneshot::Sender<Result<(), ControlError>>),
    Shutdown(oneshot::Sender<()>),
}

/// Who waits for the driver's end.
enum Farewell {
    Logout(oneshot::Sender<Result<(), ControlError>>),
    Shutdown(oneshot::Sender<()>),
}

/// Why the driver turns from what it was doing.
#[derive(Debug)]
pub(super) enum End {
    Error(ControlError),
    Command(Command),
    /// Nobody holds the client any more.
    Abandoned,
}

impl From<ControlError> for End {
    fn from(error: ControlError) -> Self {
        Self::Error(error)
    }
}

/// The task's state.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(super) config: Arc<ControlConfig>,
    pub(super) shared: Arc<Shared>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) events: mpsc::Sender<ControlEvent>,
    pub(super) outbox: Outbox,
    pub(super) state: NodeState,
    pub(super) session: MapSession,
    pub(super) saver: Saver,
    pub(super) backoff: Backoff,
    pub(super) auth_key: Option<AuthKey>,
    /// A registration to be done or under way, kept over a broken connection.
    pub(super) why: Option<Why>,
    pub(super) registration: Option<Registration>,
    /// Registrations since the coordinator last served a valid map.
    pub(super) renewals: u32,
    pub(super) early_map: Option<EarlyMap>,
    connection: Option<Connection>,
}

impl Driver {
    pub(crate) fn new(
        config: Arc<ControlConfig>,
        shared: Arc<Shared>,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<ControlEvent>,
        state: NodeState,
        store: Arc<dyn StateStore>,
    ) -> Self {
        let registered = state.registered_at.as_deref() == Some(config.url.to_string().as_str());
        Self {
            auth_key: config.auth_key.clone().filter(|key| !key.is_empty()),
            config,
            shared,
            commands,
            events,
            outbox: Outbox::default(),
            why: (!registered || state.node_key.is_none()).then_some(Why::Join),
            state,
            session: MapSession::new(),
            saver: Saver::start(store),
            backoff: Backoff::default(),
            registration: None,
            renewals: 0,
            early_map: None,
            connection: None,
        }
    }

    /// Puts the map of the last run in force; before any connection.
    pub(crate) fn restore(&mut self, netmap: &[u8]) {
        let applied = serde_json::from_slice(netmap)
            .map_err(|error| error.to_string())
            .and_then(|map: MapResponse<MapNode>| {
                self.session
                    .apply(map, std::time::SystemTime::now())
                    .map_err(|error| error.to_string())
            });
        match applied {
            Ok(delta) => {
                let update = NetmapUpdate {
                    map: self.session.map(),
                    delta,
                    cached: true,
                };
                self.outbox.push(ControlEvent::Netmap(update));
            }
            Err(error) => tracing::warn!(%error, "the saved network map cannot be used, waiting for the coordinator's"),
        }
    }

    /// Runs until shut down, logged out or abandoned.
    pub(crate) async fn run(mut self, identity_is_new: bool) {
        self.deliver_now();
        if identity_is_new {
            self.saver.save(&self.state);
        }
        let mut end = self.attempt().await;
        let reply = loop {
            match end {
                End::Error(error) => end = self.after_error(error).await,
                End::Command(Command::Reconnect) => end = self.attempt().await,
                End::Command(Command::Renew(auth_key)) => {
                    self.auth_key = auth_key.filter(|key| !key.is_empty()).or(self.auth_key.take());
                    self.why = Some(if self.state.registered_at.is_some() {
                        Why::Asked
                    } else {
                        Why::Join
                    });
                    self.registration = None;
                    end = self.attempt().await;
                }
                End::Command(Command::Logout(reply)) => match self.logout().await {
                    Ok(()) => break Some(Farewell::Logout(reply)),
                    Err(error) => {
                        let _ = reply.send(Err(error));
                        end = self.attempt().await;
                    }
                },
                End::Command(Command::Shutdown(reply)) => break Some(Farewell::Shutdown(reply)),
                End::Abandoned => break None,
            }
        };
        self.connection = None;
        self.deliver_now();
        self.saver.finish().await;
        // Answered only now: whoever reads the state after the answer finds what the end left.
        match reply {
            Some(Farewell::Logout(reply)) => drop(reply.send(Ok(()))),
            Some(Farewell::Shutdown(reply)) => drop(reply.send(())),
            None => {}
        }
    }

    async fn attempt(&mut self) -> End {
        let result = self.connect_and_follow().await;
        match result {
            Ok(never) => match never {},
            Err(end) => {
                // A logout can still use the connection; everything else begins with a new one.
                self.early_map = None;
                if !matches!(end, End::Command(Command::Logout(_))) {
                    self.connection = None;
                }
                end
            }
        }
    }

    async fn connect_and_follow(&mut self) -> Result<Infallible, End> {
        self.tell(ControlState::Connecting);
        let url = self.config.url.to_string();
        let known = self.state.control_keys.get(&url).copied();
        let (config, machine) = (self.config.clone(), self.state.machine_key.clone());
        let (connection, key) = self
            .race(async move { connect(&config, &machine, known).await })
            .await??;
        self.connection = Some(connection.clone());
        if known != Some(key) {
            self.state.control_keys.insert(url, key);
            if self.why.is_none() {
                self.saver.save(&self.state);
            }
        }
        loop {
            if let Some(why) = self.why {
                self.enroll(&connection, why).await?;
            }
            self.why = Some(self.follow(&connection).await?);
        }
    }

    /// Waits before the next attempt, or for somebody to act.
    async fn after_error(&mut self, error: ControlError) -> End {
        let retry_after = error.retry_after();
        if !error.is_retryable() {
            tracing::error!(%error, "not trying again by itself");
            self.registration = None;
            self.tell(ControlState::Stopped { error: Arc::new(error) });
            return match self.race(std::future::pending::<Infallible>()).await {
                Ok(never) => match never {},
                Err(end) => end,
            };
        }
        let retry_in = self
            .backoff
            .next_delay(Instant::now(), chance())
            .max(retry_after.unwrap_or_default());
        tracing::info!(%error, ?retry_in, "no connection to the coordinator");
        self.tell(ControlState::Disconnected {
            error: Arc::new(error),
            retry_in,
        });
        match self.race(tokio::time::sleep(retry_in)).await {
            Ok(()) => End::Command(Command::Reconnect),
            Err(end) => end,
        }
    }

    /// Does `work` while handing out events; a command ends it.
    pub(super) async fn race<T>(&mut self, work: impl Future<Output = T>) -> Result<T, End> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                command = self.commands.recv() => return Err(command.map_or(End::Abandoned, End::Command)),
                delivered = deliver(&self.events, &mut self.outbox) => delivered?,
            }
        }
    }

    pub(super) fn tell(&mut self, state: ControlState) {
        self.outbox.push(ControlEvent::State(state));
    }

    /// Hands out what fits without waiting.
    fn deliver_now(&mut self) {
        while !self.outbox.is_empty() {
            let Ok(permit) = self.events.try_reserve() else { return };
            if let Some(event) = self.outbox.pop() {
                permit.send(event);
            }
        }
    }

    /// Ends the membership: expired at the coordinator, forgotten here. The machine key stays.
    async fn logout(&mut self) -> Result<(), ControlError> {
        if let Some(node_key) = self
            .state
            .node_key
            .clone()
            .filter(|_| self.state.registered_at.is_some())
        {
            let request = RegisterRequest {
                version: CAPABILITY_VERSION.into(),
                node_key: Some(node_key.public()),
                // Any time in the past means leaving. No auth key: for an unknown node it would mean joining.
                expiry: Some(UNIX_EPOCH + Duration::from_secs(123)),
                hostinfo: Some(self.shared.announcement().full_hostinfo()),
                ..RegisterRequest::default()
            };
            let left = tokio::time::timeout(LOGOUT_TIMEOUT, self.send_logout(&request)).await;
            left.map_err(|_| ControlError::TimedOut("the logout"))??;
        }
        self.forget();
        self.tell(ControlState::LoggedOut);
        Ok(())
    }

    async fn send_logout(&mut self, request: &RegisterRequest) -> Result<(), ControlError> {
        if let Some(connection) = self.connection.take()
            && let Ok(answer) = connection.register(request, false).await
        {
            return logout_answer(&answer.error);
        }
        let known = self.state.control_keys.get(&self.config.url.to_string()).copied();
        let (connection, _) = connect(&self.config, &self.state.machine_key, known).await?;
        match connection.register(request, false).await {
            Ok(answer) => logout_answer(&answer.error),
            // Gone already.
            Err(ControlError::Removed) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// This node is no member any more: no node key, no peers, nothing saved of them.
    pub(super) fn forget(&mut self) {
        self.state.node_key = None;
        self.state.trying_node_key = Some(NodePrivateKey::generate());
        self.state.registered_at = None;
        self.saver.save(&self.state);
        self.saver.save_netmap(None);
        let before = std::mem::take(&mut self.session).map();
        if before.self_node.is_some() {
            let removed = before.peers.keys().collect();
            let delta = NetmapDelta {
                full: true,
                removed,
                self_node: true,
                derp_map: true,
                filter: true,
                dns: true,
                other: true,
                ..NetmapDelta::default()
            };
            let update = NetmapUpdate {
                map: self.session.map(),
                delta,
                cached: false,
            };
            self.outbox.push(ControlEvent::Netmap(update));
        }
    }
}

fn logout_answer(error: &str) -> Result<(), ControlError> {
    if error.is_empty() {
        Ok(())
    } else {
        Err(ControlError::Refused(error.chars().take(500).collect()))
    }
}

/// Hands out one event; waits for ever when there is none.
pub(super) async fn deliver(events: &mpsc::Sender<ControlEvent>, outbox: &mut Outbox) -> Result<(), End> {
    if outbox.is_empty() {
        return std::future::pending().await;
    }
    let permit = events.reserve().await.map_err(|_| End::Abandoned)?;
    if let Some(event) = outbox.pop() {
        permit.send(event);
    }
    Ok(())
}
