//! The loop of a node: wait for anything, feed it to the engine, carry out what the engine wants.
//!
//! One task owns engine, sockets and device; everybody else sends it commands over a bounded channel. Nothing here
//! waits for anything but the sockets, so a slow coordinator or relay never holds up a packet.

mod control;
mod serve;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandd_control_client::{ControlClient, ControlEvent};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::derp::{DerpEvent, DerpPool};
use super::device::Device;
use super::reach::{self, Reach};
use super::resolve::StunServer;
use super::udp::{UdpSockets, Unsent};
use crate::engine::Snapshot;
use crate::engine::{Engine, Output, PingOutcome, Underlay};
use crate::error::PingError;
use crate::event::MeshEvent;
use crate::packet::PacketBatch;
use crate::status::{ControlStatus, MeshStatus, PingReply};
use crate::stun;

/// Relay events taken in one turn, so that a busy relay cannot starve the sockets.
const DERP_TURN: usize = 64;
/// Turns of engine and device before the sockets are looked at again.
const PUMP_TURNS: usize = 32;

/// What the handle asks of the driver.
#[derive(Debug)]
pub(crate) enum Command {
    Status(oneshot::Sender<MeshStatus>),
    Ping {
        name: String,
        to: IpAddr,
        timeout: Duration,
        answer: oneshot::Sender<Result<PingReply, PingError>>,
    },
    Netcheck(oneshot::Sender<crate::status::NetReport>),
    NetworkChanged,
    Shutdown(oneshot::Sender<()>),
}

struct WaitingPing {
    name: String,
    to: IpAddr,
    waited: Duration,
    answer: oneshot::Sender<Result<PingReply, PingError>>,
}

/// What the driver is made of; see the module's text.
pub(crate) struct Driver {
    pub(crate) engine: Engine,
    pub(crate) udp: UdpSockets,
    pub(crate) device: Device,
    pub(crate) derp: DerpPool,
    pub(crate) derp_events: mpsc::Receiver<DerpEvent>,
    pub(crate) control: ControlClient,
    pub(crate) control_events: mpsc::Receiver<ControlEvent>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) events: broadcast::Sender<MeshEvent>,
    pub(crate) snapshot: watch::Sender<Arc<Snapshot>>,
    pub(crate) reach: Reach,
    pub(crate) state: State,
}

/// What the driver remembers besides.
pub(crate) struct State {
    pings: HashMap<u16, WaitingPing>,
    control: ControlStatus,
    resolving: Option<oneshot::Receiver<Vec<StunServer>>>,
    netchecks: Vec<oneshot::Sender<crate::status::NetReport>>,
    inbound: PacketBatch,
    device_deadline: Option<Instant>,
    told_endpoints: Vec<SocketAddr>,
    told_net_info: Option<sandd_control_client::NetInfo>,
}

impl State {
    pub(crate) fn new() -> Self {
        Self {
            pings: HashMap::new(),
            control: ControlStatus {
                state: "connecting".to_owned(),
                ..ControlStatus::default()
            },
            resolving: None,
            netchecks: Vec::new(),
            inbound: PacketBatch::new(),
            device_deadline: None,
            told_endpoints: Vec::new(),
            told_net_info: None,
        }
    }
}

enum Woken {
    Udp,
    Derp(Option<DerpEvent>),
    Device(io::Result<Option<crate::packet::PacketBuf>>),
    Control(Option<ControlEvent>),
    Command(Option<Command>),
    Servers(Option<Vec<StunServer>>),
    Timer,
}

impl Driver {
    /// Runs until it is told to stop or its handle is gone.
    pub(crate) async fn run(mut self) {
        loop {
            self.pump(Instant::now()).await;
            let deadline = self.deadline();
            let woken = self.wait(deadline).await;
            let now = Instant::now();
            match woken {
                Woken::Udp => self.receive_udp(now),
                Woken::Derp(Some(event)) => self.receive_derp(event, now),
                Woken::Device(Ok(Some(packet))) => {
                    self.engine.handle_overlay(std::iter::once(packet).collect(), now);
                }
                Woken::Device(Ok(None)) | Woken::Timer => {}
                Woken::Device(Err(error)) => {
                    let reason = format!("the TUN device failed: {error}; the node stops");
                    self.tell(MeshEvent::NeedsAttention { reason });
                    break;
                }
                Woken::Control(Some(event)) => self.handle_control(event, now).await,
                Woken::Servers(servers) => {
                    self.state.resolving = None;
                    self.reach.set_servers(servers.unwrap_or_default(), now);
                }
                Woken::Command(Some(Command::Shutdown(done))) => {
                    self.stop().await;
                    let _ = done.send(());
                    return;
                }
                Woken::Command(Some(command)) => self.handle_command(command, now),
                Woken::Derp(None) | Woken::Control(None) | Woken::Command(None) => break,
            }
            self.handle_timers(now).await;
        }
        self.stop().await;
    }

    async fn stop(&mut self) {
        self.control.shutdown().await;
        self.derp.shutdown().await;
    }

    async fn wait(&mut self, deadline: Instant) -> Woken {
        let resolving = async {
            match &mut self.state.resolving {
                Some(answer) => answer.await.ok(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = self.udp.readable() => Woken::Udp,
            event = self.derp_events.recv() => Woken::Derp(event),
            packet = self.device.wait() => Woken::Device(packet),
            event = self.control_events.recv() => Woken::Control(event),
            command = self.commands.recv() => Woken::Command(command),
            servers = resolving => Woken::Servers(servers),
            () = tokio::time::sleep_until(deadline.into()) => Woken::Timer,
        }
    }

    fn deadline(&self) -> Instant {
        [self.engine.poll_timeout(), self.state.device_deadline]
            .into_iter()
            .flatten()
            .fold(self.reach.poll_timeout(), Instant::min)
    }

    async fn handle_timers(&mut self, now: Instant) {
        if self.engine.poll_timeout().is_some_and(|at| at <= now) {
            self.engine.handle_timeout(now);
        }
        if self.reach.take_interfaces_due(now) {
            let own = self.engine.own_ips().to_vec();
            if self.reach.set_interfaces(reach::interface_addresses(&own)) {
                self.reach.kick(now);
                self.derp.probe();
            }
        }
        self.reach.leave_failing_home(now);
        let engine = &self.engine;
        for (to, request) in self.reach.poll_requests(|| engine.has_sessions(), now) {
            let sent = self.udp.send(to, &request).await;
            self.note_unsent(sent, now);
        }
        if self.reach.take_changed() {
            self.publish_reach(now);
        }
        if !self.reach.measuring() {
            self.answer_netchecks();
        }
    }

    fn receive_udp(&mut self, now: Instant) {
        let Self { udp, engine, reach, .. } = self;
        udp.receive(|from, datagram| {
            if stun::looks_like(datagram) {
                reach.handle_response(datagram, now);
            } else {
                engine.handle_udp(from, datagram, now);
            }
        });
    }

    fn receive_derp(&mut self, event: DerpEvent, now: Instant) {
        let mut next = Some(event);
        let mut budget = DERP_TURN;
        while let Some(event) = next.take() {
            self.handle_derp_event(event, now);
            budget -= 1;
            if budget > 0 {
                next = self.derp_events.try_recv().ok();
            }
        }
    }

    fn handle_derp_event(&mut self, event: DerpEvent, now: Instant) {
        match event {
            DerpEvent::Packet { region, src, data } => self.engine.handle_derp(region, src, &data, now),
            DerpEvent::PeerGone { region, key, .. } => self.engine.handle_peer_gone(region, &key),
            DerpEvent::Connected { region } => {
                self.engine.handle_relay(region, true, now);
                self.reach.relay_connected(region);
                self.tell(MeshEvent::RelayConnected { region: region.0 });
            }
            DerpEvent::Disconnected { region, error } => {
                self.engine.handle_relay(region, false, now);
                self.reach.relay_failed(region, now);
                self.tell(MeshEvent::RelayDisconnected {
                    region: region.0,
                    reason: error,
                });
            }
        }
    }

    /// Carries packets between engine and device, and out, until both are quiet.
    async fn pump(&mut self, now: Instant) {
        for _ in 0..PUMP_TURNS {
            self.drain_engine(now).await;
            let inbound = std::mem::take(&mut self.state.inbound);
            let had_input = !inbound.is_empty();
            let (outbound, deadline) = self.device.turn(inbound, now);
            self.state.device_deadline = deadline;
            if outbound.is_empty() && !had_input {
                break;
            }
            self.engine.handle_overlay(outbound, now);
        }
        self.drain_engine(now).await;
        let sent = self.udp.flush().await;
        self.note_unsent(sent, now);
    }

    /// A destination that the kernel cannot reach is news for the peer's path.
    fn note_unsent(&mut self, sent: Result<(), Unsent>, now: Instant) {
        let Err(Unsent { to, error }) = sent else { return };
        tracing::trace!(%error, %to, "datagrams not sent");
        if matches!(
            error.kind(),
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable
        ) {
            self.engine.handle_unreachable(to, now);
        }
    }

    async fn drain_engine(&mut self, now: Instant) {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Transmit {
                    to: Underlay::Udp(to),
                    payload,
                } => {
                    let sent = self.udp.send(to, &payload).await;
                    self.note_unsent(sent, now);
                }
                Output::Transmit {
                    to: Underlay::Derp { region, key },
                    payload,
                } => {
                    let _ = self.derp.send(region, &key, &payload);
                }
                Output::Deliver(packet) => self.state.inbound.push(packet),
                Output::Event(event) => self.tell(event),
                Output::Ponged(outcome) => self.finish_ping(outcome),
                Output::Observed(seen) => self.reach.observe(seen, now),
            }
        }
    }

    fn finish_ping(&mut self, outcome: PingOutcome) {
        let Some(waiting) = self.state.pings.remove(&outcome.seq) else {
            return;
        };
        let answer = match outcome.reply {
            Some((rtt, path)) => Ok(PingReply {
                name: waiting.name,
                address: waiting.to,
                rtt_ms: rtt.as_secs_f64() * 1e3,
                path,
            }),
            None => Err(PingError::TimedOut {
                peer: waiting.name,
                waited_ms: waiting.waited.as_millis(),
                path: self.engine.path_to(waiting.to).to_string(),
            }),
        };
        let _ = waiting.answer.send(answer);
    }

    fn tell(&self, event: MeshEvent) {
        if let MeshEvent::PathChanged { name, path, .. } = &event {
            tracing::info!(peer = %name.escape_debug(), %path, "path changed");
        } else if let MeshEvent::RelayConnected { region } = &event {
            tracing::info!(region, "relay connected");
        } else if let MeshEvent::RelayDisconnected { region, reason } = &event {
            tracing::info!(region, %reason, "relay lost");
        } else if let MeshEvent::NeedsAttention { reason } = &event {
            tracing::error!(%reason, "the node needs attention");
        } else {
            tracing::debug!(?event, "mesh event");
        }
        // Nobody listening is no error.
        let _ = self.events.send(event);
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver")
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}
