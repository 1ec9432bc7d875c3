//! One connection: registration, heartbeats, answers to their waiters (S-24, S-27, S-28).

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tracing::{debug, error, info, warn};

use super::accept::Unregistered;
use super::identity::Identity;
use super::registry::{ConnectionId, Entry};
use super::state::{Control, Handle, Shared};
use crate::escape::Escaped;
use crate::transport::websocket::{Inbound, Outbox, Reader, Writer};
use crate::wire::ids::{DaemonId, InstanceSecret, RequestId};
use crate::wire::link::{ControllerEvent, ControllerLink, Outgoing};
use crate::wire::v1::{Message, Metadata};

/// How long the holder of an id has to show that it lives before a newcomer gets the id.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// Time for the close frame to leave.
const GOODBYE: Duration = Duration::from_millis(1_100);

type Deciding = Pin<Box<dyn Future<Output = Result<DaemonId, String>> + Send>>;

/// One connection while it is served.
struct Connection {
    shared: Arc<Shared>,
    id: ConnectionId,
    from: SocketAddr,
    handle: Handle,
    daemon: Option<DaemonId>,
    deciding: Option<Deciding>,
    probes: Vec<oneshot::Sender<()>>,
    unregistered: Option<Unregistered>,
}

/// Serves a connection that was upgraded, to its end.
pub(super) async fn serve(
    shared: Arc<Shared>,
    mut reader: Reader,
    writer: Writer,
    outbox: Outbox,
    from: SocketAddr,
    unregistered: Unregistered,
) {
    let id = shared.with(super::state::State::open_connection);
    let (control, mut controls) = mpsc::channel(8);
    let mut stop = shared.stop.subscribe();
    let mut connection = Connection {
        shared,
        id,
        from,
        handle: Handle { outbox, control },
        daemon: None,
        deciding: None,
        probes: Vec::new(),
        unregistered: Some(unregistered),
    };
    let mut link = ControllerLink::new(Instant::now());
    // A task of its own: large frames to this daemon must not hold up reading from it.
    let mut writing = tokio::spawn(writer.run());
    let why = loop {
        if let Some(why) = connection.drain(&mut link) {
            break why;
        }
        let deadline = link
            .poll_timeout()
            .unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            inbound = reader.next() => match inbound {
                Ok(inbound) => connection.handle_inbound(inbound, &mut link),
                Err(disconnect) => break disconnect.to_string(),
            },
            decided = decided(&mut connection.deciding) => connection.handle_decided(decided, &mut link),
            control = controls.recv() => match control {
                Some(Control::Probe(answer)) => {
                    connection.probes.push(answer);
                    connection.handle.outbox.ping();
                }
                Some(Control::Replaced) | None => break "replaced by a newer connection of the same daemon".to_owned(),
            },
            () = tokio::time::sleep_until(deadline.into()) => link.handle_timeout(Instant::now()),
            _ = stop.wait_for(|stop| *stop) => break "the controller stops".to_owned(),
            _ = &mut writing => break "connection lost while writing".to_owned(),
        }
    };
    connection.end(&why);
    connection.handle.outbox.close("link ended");
    if tokio::time::timeout(GOODBYE, &mut writing).await.is_err() {
        writing.abort();
    }
    connection.shared.with(super::state::State::close_connection);
    connection.shared.changed();
}

async fn decided(deciding: &mut Option<Deciding>) -> Result<DaemonId, String> {
    let Some(future) = deciding else {
        return std::future::pending().await;
    };
    let outcome = future.await;
    *deciding = None;
    outcome
}

impl Connection {
    fn handle_inbound(&mut self, inbound: Inbound, link: &mut ControllerLink) {
        let now = Instant::now();
        for probe in self.probes.drain(..) {
            let _ = probe.send(());
        }
        match inbound {
            Inbound::Message(message) => link.handle_message(message, now),
            Inbound::Alive => link.handle_alive(now),
            Inbound::Unparsable(problem) => {
                link.handle_alive(now);
                error!(from = %self.from, problem = %Escaped(&problem.to_string()), "message dropped");
            }
        }
    }

    /// Sends what the link wants sent and does what it tells; a text when the connection is at its end.
    fn drain(&mut self, link: &mut ControllerLink) -> Option<String> {
        while let Some(event) = link.poll_event() {
            match event {
                ControllerEvent::Register {
                    daemon_id,
                    metadata,
                    instance,
                } => {
                    self.handle_register(daemon_id, metadata, instance, link);
                }
                ControllerEvent::Heartbeat => self.handle_heartbeat(link),
                ControllerEvent::Deliver(message) => self.deliver(message),
                ControllerEvent::Reaped => {
                    if let Some(daemon) = &self.daemon {
                        warn!(daemon = %Escaped(daemon.as_str()), "no heartbeat for 30 s, entry removed");
                        self.shared.remove(daemon, self.id, "no heartbeat for 30 s");
                    }
                }
                ControllerEvent::Ended(why) => return Some(why.to_string()),
            }
        }
        while let Some(outgoing) = link.poll_transmit() {
            let taken = match outgoing {
                Outgoing::Message(message) => self.handle.outbox.send_urgent(&message),
                Outgoing::Ping => self.handle.outbox.ping(),
                Outgoing::Register => true,
            };
            if !taken {
                return Some("the daemon does not read".to_owned());
            }
        }
        None
    }

    fn handle_register(
        &mut self,
        text: String,
        metadata: Metadata,
        instance: Option<InstanceSecret>,
        link: &mut ControllerLink,
    ) {
        let checked = DaemonId::from_peer(&text)
            .map_err(|error| error.to_string())
            .and_then(|id| {
                let identity = self.shared.identity.identify(self.from.ip(), instance);
                identity
                    .map(|identity| (id, identity))
                    .map_err(|error| error.to_string())
            });
        match checked {
            Ok((id, identity)) => {
                let attempt = Attempt {
                    shared: Arc::clone(&self.shared),
                    connection: self.id,
                    from: self.from,
                    handle: self.handle.clone(),
                    id,
                    identity,
                    metadata,
                };
                self.deciding = Some(Box::pin(attempt.decide()));
            }
            Err(reason) => self.refuse(&text, &reason, link),
        }
    }

    fn handle_decided(&mut self, decided: Result<DaemonId, String>, link: &mut ControllerLink) {
        match decided {
            Ok(id) => {
                self.daemon = Some(id);
                self.unregistered = None;
                link.accept(Instant::now());
            }
            Err(reason) => self.refuse("", &reason, link),
        }
    }

    fn refuse(&self, id: &str, reason: &str, link: &mut ControllerLink) {
        warn!(from = %self.from, daemon = %Escaped(id), %reason, "registration refused");
        link.refuse(reason);
    }

    fn handle_heartbeat(&self, link: &mut ControllerLink) {
        let now = Instant::now();
        let known = self
            .daemon
            .as_ref()
            .is_some_and(|daemon| self.shared.with(|state| state.registry.heartbeat(daemon, self.id, now)));
        if !known {
            link.forget();
        }
    }

    fn deliver(&self, message: Message) {
        let Some(request) = answered_request(&message) else {
            debug!(from = %self.from, kind = message.kind(), "ignored");
            return;
        };
        match self.shared.with(|state| state.pending.answer(request, self.id)) {
            Some(waiter) => {
                let _ = waiter.send(Ok(message));
            }
            None => debug!(from = %self.from, kind = message.kind(), "answer to nothing that waits"),
        }
    }

    fn end(&mut self, why: &str) {
        self.deciding = None;
        if let Some(daemon) = self.daemon.take() {
            self.shared.remove(&daemon, self.id, why);
            info!(daemon = %Escaped(daemon.as_str()), from = %self.from, reason = %Escaped(why), "daemon disconnected");
        } else {
            debug!(from = %self.from, reason = %Escaped(why), "connection ended without a registration");
        }
    }
}

/// The request that a message answers for good.
fn answered_request(message: &Message) -> Option<&RequestId> {
    if let Message::CommandOutput { request_id, .. } | Message::CommandError { request_id, .. } = message {
        return Some(request_id);
    }
    None
}

/// Somebody wants to be a daemon.
struct Attempt {
    shared: Arc<Shared>,
    connection: ConnectionId,
    from: SocketAddr,
    handle: Handle,
    id: DaemonId,
    identity: Identity,
    metadata: Metadata,
}

impl Attempt {
    /// Enters the daemon into the registry, or says why not.
    async fn decide(self) -> Result<DaemonId, String> {
        self.claim().await?;
        if let Some(holder) = self.live_holder()
            && lives(&holder).await
        {
            return Err("this daemon id is in use by another live connection".to_owned());
        }
        let now = Instant::now();
        let summary = format!(
            "{} {} {}",
            self.metadata.hostname, self.metadata.platform, self.metadata.arch
        );
        let entry = Entry {
            connection: self.connection,
            handle: self.handle,
            metadata: self.metadata,
            identity: self.identity,
            from: self.from,
            connected: now,
            heartbeat: now,
        };
        let replaced = self.shared.with(|state| {
            let replaced = state
                .insert(self.id.clone(), entry)
                .filter(|old| old.connection != self.connection);
            replaced.map(|old| (state.pending.drain(old.connection), old))
        });
        self.shared.changed();
        if let Some((waiters, old)) = replaced {
            for waiter in waiters {
                let _ = waiter.send(Err("replaced by a newer connection".to_owned()));
            }
            let _ = old.handle.control.try_send(Control::Replaced);
            info!(daemon = %Escaped(self.id.as_str()), from = %self.from, old = %old.from, "daemon reconnected, replacing");
        }
        info!(daemon = %Escaped(self.id.as_str()), from = %self.from, host = %Escaped(&summary), "daemon registered");
        Ok(self.id)
    }

    /// Bindings are written to disk, which may take its time.
    async fn claim(&self) -> Result<(), String> {
        let (rule, id, identity) = (
            Arc::clone(&self.shared.identity),
            self.id.clone(),
            self.identity.clone(),
        );
        let claimed = tokio::task::spawn_blocking(move || rule.claim(&id, &identity)).await;
        claimed
            .map_err(|_| "the controller stops".to_owned())?
            .map_err(|error| error.to_string())
    }

    /// The connection that has the id now and is not proven to be the same daemon.
    fn live_holder(&self) -> Option<Handle> {
        self.shared.with(|state| {
            let entry = state.registry.get(self.id.as_str())?;
            let other = entry.connection != self.connection && !self.identity.proves_same(&entry.identity);
            (other && self.shared.identity.is_open()).then(|| entry.handle.clone())
        })
    }
}

/// Whether a connection shows life when asked.
async fn lives(handle: &Handle) -> bool {
    let (answer, answered) = oneshot::channel();
    if handle.control.try_send(Control::Probe(answer)).is_err() {
        return false;
    }
    matches!(tokio::time::timeout(PROBE_TIMEOUT, answered).await, Ok(Ok(())))
}
