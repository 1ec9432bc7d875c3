//! One link to the controller: dial, register, serve until it ends.

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tracing::{debug, error, info, warn};

use super::DaemonConfig;
use super::commands::{Commands, Job};
use super::dispatch::{Verb, dispatch};
use super::reconnect::Reconnect;
use crate::escape::Escaped;
use crate::transport::TransportError;
use crate::transport::websocket::{self, Inbound, Outbox, Reader, Writer};
use crate::wire::ids::InstanceSecret;
use crate::wire::link::{DaemonEvent, DaemonLink, Outgoing};
use crate::wire::v1::{Message, Metadata};

/// Immediate answers that may wait for room in the outbox.
const MAX_REPLIES: usize = 1_024;

/// Time for the close frame to leave.
const GOODBYE: Duration = Duration::from_millis(500);

/// Why a connection is over.
#[derive(Debug)]
pub(super) enum ConnectionEnd {
    /// The daemon is to stop.
    Stopped,
    /// Dial again; the text says why.
    Lost(String),
}

/// What a daemon says of itself at each registration.
#[derive(Debug)]
pub(super) struct Identity {
    instance: InstanceSecret,
}

impl Identity {
    pub(super) fn new(_config: &DaemonConfig) -> Self {
        Self {
            instance: InstanceSecret::random(),
        }
    }

    fn register(&self, config: &DaemonConfig) -> Message {
        Message::Register {
            daemon_id: config.id.as_str().to_owned(),
            metadata: Metadata {
                hostname: hostname(),
                platform: std::env::consts::OS.to_owned(),
                arch: std::env::consts::ARCH.to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                labels: config.labels.clone(),
            },
            instance: Some(self.instance.clone()),
        }
    }
}

fn hostname() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "unknown".to_owned() } else { name }
}

/// What the loop of a connection works with.
struct Serving<'a> {
    config: &'a DaemonConfig,
    identity: &'a Identity,
    commands: &'a Commands,
    registered: &'a watch::Sender<bool>,
    outbox: Outbox,
    replies: mpsc::Sender<Message>,
    lost: watch::Receiver<bool>,
}

async fn dial(config: &DaemonConfig) -> Result<(Reader, Writer, Outbox), TransportError> {
    let stream = config.transport.dial(&config.url).await?;
    websocket::connect(stream, &config.url).await
}

/// Makes a connection and serves it to its end.
pub(super) async fn run(
    config: &DaemonConfig,
    identity: &Identity,
    commands: &Commands,
    registered: &watch::Sender<bool>,
    reconnect: &mut Reconnect,
    mut stop: watch::Receiver<bool>,
) -> ConnectionEnd {
    info!(url = %config.url, "connecting");
    let dialled = tokio::select! {
        dialled = dial(config) => dialled,
        _ = stop.wait_for(|stop| *stop) => return ConnectionEnd::Stopped,
    };
    let (mut reader, writer, outbox) = match dialled {
        Ok(halves) => halves,
        Err(error) => return ConnectionEnd::Lost(error.to_string()),
    };
    info!(protocol = crate::wire::SUBPROTOCOL, "connection established");
    let (replies, mut reply) = mpsc::channel(MAX_REPLIES);
    let (lost_sender, lost) = watch::channel(false);
    let forward = async {
        while let Some(message) = reply.recv().await {
            if outbox.send(&message).await.is_err() {
                break;
            }
        }
    };
    let writing = writer.run();
    let serving = Serving {
        config,
        identity,
        commands,
        registered,
        outbox: outbox.clone(),
        replies,
        lost,
    };
    let mut link = DaemonLink::new(config.heartbeat, Instant::now());
    tokio::pin!(forward, writing);
    let end = loop {
        if let Some(end) = serving.drain(&mut link, reconnect) {
            break end;
        }
        let deadline = link
            .poll_timeout()
            .unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            inbound = reader.next() => match inbound {
                Ok(Inbound::Message(message)) => {
                    debug!(kind = message.kind(), "received");
                    link.handle_message(message, Instant::now());
                }
                Ok(Inbound::Unparsable(problem)) => {
                    link.handle_alive(Instant::now());
                    error!(problem = %Escaped(&problem.to_string()), "message dropped");
                }
                Ok(Inbound::Alive) => link.handle_alive(Instant::now()),
                Err(disconnect) => break ConnectionEnd::Lost(disconnect.to_string()),
            },
            () = tokio::time::sleep_until(deadline.into()) => link.handle_timeout(Instant::now()),
            _ = stop.wait_for(|stop| *stop) => break ConnectionEnd::Stopped,
            () = &mut writing => return ConnectionEnd::Lost("connection lost while writing".to_owned()),
            () = &mut forward => {}
        }
    };
    drop(serving);
    let _ = lost_sender.send(true);
    outbox.close(if matches!(end, ConnectionEnd::Stopped) {
        "daemon stops"
    } else {
        "link ended"
    });
    let _ = tokio::time::timeout(GOODBYE, writing).await;
    end
}

impl Serving<'_> {
    /// Sends what the link wants sent and does what it tells.
    fn drain(&self, link: &mut DaemonLink, reconnect: &mut Reconnect) -> Option<ConnectionEnd> {
        while let Some(outgoing) = link.poll_transmit() {
            let taken = match outgoing {
                Outgoing::Register => self.outbox.send_urgent(&self.identity.register(self.config)),
                Outgoing::Message(message) => self.outbox.send_urgent(&message),
                Outgoing::Ping => self.outbox.ping(),
            };
            if !taken {
                return Some(ConnectionEnd::Lost("the socket takes nothing any more".to_owned()));
            }
        }
        while let Some(event) = link.poll_event() {
            match event {
                DaemonEvent::Registered { again } => {
                    reconnect.handle_connected(Instant::now());
                    self.registered.send_replace(true);
                    info!(daemon_id = %Escaped(self.config.id.as_str()), again, "registered");
                }
                DaemonEvent::Deliver(message) => {
                    if !self.act(message) {
                        return Some(ConnectionEnd::Lost(
                            "the controller does not read its answers".to_owned(),
                        ));
                    }
                }
                DaemonEvent::Ended(why) => return Some(ConnectionEnd::Lost(why.to_string())),
            }
        }
        None
    }

    fn act(&self, message: Message) -> bool {
        let kind = message.kind();
        match dispatch(message) {
            Verb::Run(id, spec) => {
                let job = Job {
                    id,
                    spec,
                    outbox: self.outbox.clone(),
                    lost: self.lost.clone(),
                };
                self.commands
                    .submit(job)
                    .is_none_or(|answer| self.replies.try_send(answer).is_ok())
            }
            Verb::Answer(answer) => {
                warn!(kind, "asked for what this daemon cannot do yet");
                self.replies.try_send(*answer).is_ok()
            }
            Verb::Ignore => {
                debug!(kind, "ignored");
                true
            }
        }
    }
}
