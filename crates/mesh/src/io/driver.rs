//! The loop of a node: wait for anything, feed it to the engine, carry out what the engine wants.
//!
//! One thread owns engine, sockets and device, and runs to completion in both directions; everybody else sends it
//! commands over a bounded channel. A slow coordinator or relay never holds up a packet; the one thing waited for besides
//! is the kernel, while addresses and routes of its device are set. A full send buffer stops the reading of the device:
//! back-pressure reaches the sender.

mod control;
mod knock;
mod measure;
mod network;
mod send;
mod serve;
mod spread;
mod unsent;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandd_control_client::{ControlClient, ControlEvent};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::Sleep;

use self::measure::Https;
use self::send::{Wire, send};
use super::derp::{DerpEvent, DerpPool};
use super::device::Device;
use super::guess::{GuessSockets, Knock};
use super::lanes::Lanes;
use super::net_report::HttpsAnswers;
use super::netmon::NetMonitor;
use super::or_never::or_never;
use super::peer_relay::RelayHost;
use super::portmap::PortMapping;
use super::reach::Reach;
use super::udp::UdpSockets;
use crate::engine::Snapshot;
use crate::engine::{Engine, OpenQueue, Output, Overlay, Underlay};
use crate::error::PingError;
use crate::event::MeshEvent;
use crate::netcheck::StunServer;
use crate::packet::vnet::GSO_NONE;
use crate::status::{ControlStatus, MeshStatus, PingReply};
use crate::stun;

/// Relay events taken in one turn, so that a busy relay cannot starve the sockets.
const DERP_TURN: usize = 64;
/// Receives in one turn before the device is looked at.
const RECEIVES: usize = 16;
/// Batches that wait while the device is read, before they are sent.
const FLUSH_AT: usize = 2;

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
    pub(crate) netmon: NetMonitor,
    /// Threads that seal and open, and what waits to be opened; the engine must know of them.
    pub(crate) lanes: Option<(Lanes, OpenQueue)>,
    /// Nothing where it is not wanted.
    pub(crate) port_mapping: Option<PortMapping>,
    /// For other pairs, where the embedder wants it.
    pub(crate) relay_server: Option<RelayHost>,
    /// Of whoever started the node: for what is not a packet's business.
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) state: State,
}

/// What the driver remembers besides.
pub(crate) struct State {
    pings: HashMap<u16, WaitingPing>,
    control: ControlStatus,
    resolving: Option<oneshot::Receiver<Vec<StunServer>>>,
    guess: Option<GuessSockets>,
    https: Https,
    netchecks: Vec<oneshot::Sender<crate::status::NetReport>>,
    /// The kernel's send buffer is full: nothing more is taken from the device until there is room.
    blocked: bool,
    told_endpoints: Vec<SocketAddr>,
    /// Sockets that have become unusable are not opened anew before this.
    next_reopen: Option<Instant>,
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
            guess: None,
            https: Https::default(),
            netchecks: Vec::new(),
            blocked: false,
            told_endpoints: Vec::new(),
            next_reopen: None,
            told_net_info: None,
        }
    }
}

enum Woken {
    Derp(Option<DerpEvent>),
    Control(Option<ControlEvent>),
    Command(Option<Command>),
    Servers(Option<Vec<StunServer>>),
    Knock(Knock),
    Mapped(Option<SocketAddrV4>),
    Https(HttpsAnswers),
    /// Sockets, device or clock: the next turn finds out which.
    Turn,
}

impl Driver {
    /// Runs until it is told to stop or its handle is gone.
    pub(crate) async fn run(mut self) {
        self.want_mapping();
        self.derp.set_server_keys(self.control.relay_keys());
        let mut alarm = pin!(tokio::time::sleep_until(self.deadline().into()));
        loop {
            let now = Instant::now();
            self.handle_timers(now);
            let busy = match self.turn(now) {
                Ok(busy) => busy,
                Err(error) => {
                    let reason = format!("the TUN device failed: {error}; the node stops");
                    self.tell(MeshEvent::NeedsAttention { reason });
                    break;
                }
            };
            let woken = self.wait(busy, alarm.as_mut()).await;
            let now = Instant::now();
            match woken {
                Woken::Turn => {}
                Woken::Mapped(mapped) => self.reach.set_port_mapped(mapped),
                Woken::Knock(knock) => self.receive_knock(knock, now),
                Woken::Https(answers) => self.receive_https(answers, now),
                Woken::Derp(Some(event)) => self.receive_derp(event, now),
                Woken::Control(Some(event)) => self.handle_control(event, now).await,
                Woken::Servers(servers) => {
                    self.state.resolving = None;
                    let servers = servers.unwrap_or_default();
                    if let Some(relay) = &self.relay_server {
                        relay.set_stun_servers(servers.iter().map(|server| server.addr));
                    }
                    self.reach.set_servers(servers, now);
                }
                Woken::Command(Some(Command::Shutdown(done))) => {
                    self.stop().await;
                    let _ = done.send(());
                    return;
                }
                Woken::Command(Some(command)) => self.handle_command(command, now),
                Woken::Derp(None) | Woken::Control(None) | Woken::Command(None) => break,
            }
        }
        self.stop().await;
    }

    async fn stop(&mut self) {
        self.release_mapping().await;
        self.control.shutdown().await;
        self.derp.shutdown().await;
    }

    /// Waits for anything to do; with `busy` sockets or device have more, and only what is there already is taken first.
    async fn wait(&mut self, busy: bool, mut alarm: Pin<&mut Sleep>) -> Woken {
        let deadline = self.deadline();
        self.netmon.note_deadline(deadline);
        // Set anew only when it would be late or has rung: each setting wakes the runtime once. Too early is a turn.
        if alarm.is_elapsed() || alarm.deadline() > deadline.into() {
            alarm.as_mut().reset(deadline.into());
        }
        let blocked = self.state.blocked;
        tokio::select! {
            biased;
            command = self.commands.recv() => Woken::Command(command),
            event = self.control_events.recv() => Woken::Control(event),
            servers = or_never(self.state.resolving.as_mut()) => Woken::Servers(servers.ok()),
            knock = or_never(self.state.guess.as_mut().map(GuessSockets::next)) => Woken::Knock(knock),
            () = self.netmon.news() => Woken::Turn,
            mapped = or_never(self.port_mapping.as_mut().map(PortMapping::changed)) => Woken::Mapped(mapped),
            answers = self.state.https.next() => Woken::Https(answers),
            event = self.derp_events.recv() => Woken::Derp(event),
            // Lets the runtime look at the sockets again.
            () = tokio::task::yield_now(), if busy => Woken::Turn,
            _ = self.udp.readable(), if !busy => Woken::Turn,
            _ = self.udp.writable(), if blocked => Woken::Turn,
            () = self.device.readable(), if !busy && !blocked => Woken::Turn,
            () = alarm, if !busy => Woken::Turn,
        }
    }

    fn deadline(&self) -> Instant {
        let others = [
            self.engine.poll_timeout(),
            self.device.poll_timeout(),
            self.netmon.poll_timeout(),
        ];
        others
            .into_iter()
            .flatten()
            .fold(self.reach.poll_timeout(), Instant::min)
    }

    fn handle_timers(&mut self, now: Instant) {
        self.watch_network(now);
        if self.engine.poll_timeout().is_some_and(|at| at <= now) {
            self.engine.handle_timeout(now);
        }
        if self.reach.poll_timeout() <= now {
            self.reach.leave_failing_home(now);
        }
        let Self { reach, engine, .. } = self;
        for (to, request) in reach.poll_requests(|| engine.has_sessions(), now) {
            engine.queue().push(Underlay::Udp(to), &request);
        }
        if self.reach.take_changed() {
            self.publish_reach(now);
        }
        self.after_measuring();
    }

    /// Carries what is there in both directions: in first, since acknowledgements and keys come before data. True when
    /// there may be more.
    fn turn(&mut self, now: Instant) -> io::Result<bool> {
        let mut busy = self.receive(now);
        self.drain_outputs(now);
        self.device.flush(now);
        self.send(now);
        if !self.state.blocked {
            busy |= self.read_device(now)?;
            self.send(now);
        }
        // What came of that is carried on by the next turn.
        busy |= self.drain_outputs(now);
        Ok(busy)
    }

    /// Takes what the sockets have. True when there was something.
    fn receive(&mut self, now: Instant) -> bool {
        if self.lanes.is_some() {
            return self.receive_spread(now);
        }
        let Self {
            udp,
            engine,
            reach,
            device,
            ..
        } = self;
        let mut busy = true;
        for _ in 0..RECEIVES {
            busy = udp.receive(|from, ecn, buffer, len, stride| {
                let start = skip_stun(reach, &mut buffer[..len], stride, now);
                engine.handle_udp(from, ecn, &mut buffer[start..len], stride, now, device);
            });
            if !busy {
                break;
            }
        }
        busy
    }

    /// Takes what the device has. True when there may be more.
    fn read_device(&mut self, now: Instant) -> io::Result<bool> {
        if self.lanes.is_some() {
            return self.read_device_spread(now);
        }
        let Self {
            device,
            engine,
            udp,
            derp,
            state,
            ..
        } = self;
        let mut unsent = Vec::new();
        let mut wire = Wire { udp, derp };
        let mut first = true;
        let busy = device.read(|header, packet| {
            engine.handle_overlay(header, packet, now);
            // The first packet goes at once, if it is but one: to ask for more before would be a delay for most.
            let alone = std::mem::take(&mut first) && header.gso_type == GSO_NONE;
            if alone || engine.queue().len() >= FLUSH_AT {
                state.blocked = !send(engine.queue(), &mut wire, &mut unsent);
            }
            !state.blocked
        })?;
        self.note_unsent(unsent, now);
        Ok(busy)
    }

    /// Sends what the engine has queued, until the kernel takes no more.
    fn send(&mut self, now: Instant) {
        let mut unsent = Vec::new();
        let mut wire = Wire {
            udp: &mut self.udp,
            derp: &mut self.derp,
        };
        self.state.blocked = !send(self.engine.queue(), &mut wire, &mut unsent);
        self.note_unsent(unsent, now);
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
            DerpEvent::Packets {
                region,
                src,
                mut packets,
            } => {
                let stride = packets.stride();
                self.engine
                    .handle_derp(region, src, packets.bytes_mut(), stride, now, &mut self.device);
            }
            DerpEvent::PeerGone { region, key, .. } => self.engine.handle_peer_gone(region, &key),
            DerpEvent::Connected { region } => {
                self.engine.handle_relay(region, true, now);
                self.reach.relay_connected(region);
                self.keep_relay_keys();
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

    /// True when there were any.
    fn drain_outputs(&mut self, now: Instant) -> bool {
        let mut any = false;
        while let Some(output) = self.engine.poll_output() {
            any = true;
            match output {
                Output::Deliver(mut packet) => self.device.deliver(&mut packet),
                Output::Event(event) => self.tell(event),
                Output::Ponged(outcome) => self.finish_ping(outcome),
                Output::Observed { by, seen } => self.reach.observe_mapped(by, seen, now),
                Output::AllocateRelay(request) => self.allocate_relay(&request, now),
                Output::Suspected => self.reach.doubt(now),
                Output::MapOutdated => {
                    tracing::info!("a member that the map does not have sends packets: asking for the map anew");
                    self.control.reconnect_now();
                }
                Output::OpenGuess(order) => self.state.guess = Some(GuessSockets::open(order)),
                Output::CloseGuess => self.state.guess = None,
                Output::PeerMtu { addresses, mtu } => self.device.set_peer_mtu(&addresses, mtu),
            }
        }
        any
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

/// Takes the STUN responses that stand in front; where the rest begins.
fn skip_stun(reach: &mut Reach, datagrams: &mut [u8], stride: usize, now: Instant) -> usize {
    let mut start = 0;
    while stun::looks_like(&datagrams[start..]) {
        let end = datagrams.len().min(start + stride);
        reach.handle_response(&datagrams[start..end], now);
        start = end;
    }
    start
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver")
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}
