//! [`MeshBuilder`]: the optional settings of a node; [`MeshBuilder::join`] takes the required ones and starts it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use sandd_control_client::dial::Dialer;
use sandd_control_client::keys::DiscoPrivateKey;
use sandd_control_client::{AuthKey, ControlClient, ControlConfig, ControlUrl, MemoryStore, StateStore};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, broadcast, mpsc, watch};

use crate::engine::{Engine, OpenQueue, Snapshot};
use crate::error::JoinError;
use crate::io::derp::DerpPool;
use crate::io::device::Device;
use crate::io::driver::{Driver, State};
use crate::io::lanes::Lanes;
use crate::io::netmon::NetMonitor;
use crate::io::peer_relay::RelayHost;
use crate::io::portmap::PortMapping;
use crate::io::reach::Reach;
use crate::io::udp::UdpSockets;
use crate::mesh::{Mesh, Shared, Sockets};
use crate::netstack::{SharedStack, StackConfig};
use crate::path::mtu::BASE;

/// Port of stock clients, so that firewall rules written for them fit.
pub const DEFAULT_PORT: u16 = 41_641;
/// Largest packet on the mesh unless [`MeshBuilder::mtu`] says otherwise: what fits plain Ethernet over either family.
pub const DEFAULT_MTU: usize = 1_420;
/// The range of [`MeshBuilder::mtu`].
const MTU_RANGE: std::ops::RangeInclusive<usize> = 1_280..=8_900;
/// More than that have nothing to do: one thread reads and sends for all.
const MAX_LANES: usize = 7;
const COMMANDS: usize = 64;
const DERP_EVENTS: usize = 1_024;
const EVENTS: usize = 256;

/// See the module's text. Defaults: userspace, state in memory, port 41641 or any free one, the system's host name.
#[derive(Debug, Clone)]
#[must_use]
pub struct MeshBuilder {
    hostname: Option<String>,
    store: Option<Arc<dyn StateStore>>,
    ephemeral: bool,
    ca_file: Option<PathBuf>,
    port: u16,
    mtu: usize,
    lanes: usize,
    #[cfg(feature = "tun")]
    tun: Option<String>,
    accept_new_control_key: bool,
    port_guessing: bool,
    port_mapping: bool,
    peer_relay: Option<u16>,
}

impl Default for MeshBuilder {
    fn default() -> Self {
        Self {
            hostname: None,
            store: None,
            ephemeral: false,
            ca_file: None,
            port: DEFAULT_PORT,
            mtu: DEFAULT_MTU,
            lanes: 0,
            #[cfg(feature = "tun")]
            tun: None,
            accept_new_control_key: false,
            port_guessing: true,
            port_mapping: true,
            peer_relay: None,
        }
    }
}

impl MeshBuilder {
    /// Name to ask the coordinator for; it may add a number when the name is taken.
    pub fn hostname(mut self, name: impl Into<String>) -> Self {
        self.hostname = Some(name.into());
        self
    }

    /// Where identity and the last map are kept; without it they live in memory and end with the process.
    pub fn store(mut self, store: Arc<dyn StateStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// Ask to be forgotten soon after the node has gone.
    pub fn ephemeral(mut self, ephemeral: bool) -> Self {
        self.ephemeral = ephemeral;
        self
    }

    /// Further certificates to trust, in PEM, besides the system's.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// UDP port to try first; any free one is taken when it is in use.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Largest packet through a TUN device in bytes, 1280 to 8900; other values are brought into this range. The path to a
    /// peer starts with 1280, and is raised up to here as far as it proves to carry. The userspace stack sends 1280.
    pub fn mtu(mut self, bytes: usize) -> Self {
        self.mtu = bytes.clamp(*MTU_RANGE.start(), *MTU_RANGE.end());
        self
    }

    /// Threads that seal and open packets for the node's own thread, where one core is too little for a stream; none
    /// unless asked for. They start when they are needed first.
    pub fn lanes(mut self, threads: usize) -> Self {
        self.lanes = threads.min(MAX_LANES);
        self
    }

    /// Use a kernel TUN device of this name instead of the userspace stack. Needs `CAP_NET_ADMIN` and `/dev/net/tun`.
    #[cfg(feature = "tun")]
    pub fn tun(mut self, name: impl Into<String>) -> Self {
        self.tun = Some(name.into());
        self
    }

    /// Accept that the coordinator's key is not the one of the last time.
    pub fn accept_new_control_key(mut self, accept: bool) -> Self {
        self.accept_new_control_key = accept;
        self
    }

    /// Whether ports are guessed where one of two nodes is behind a NAT that gives every destination another port; on unless
    /// told otherwise. It looks like a scan of that NAT: up to 1,024 small packets in five seconds, once in ten minutes.
    pub fn port_guessing(mut self, allowed: bool) -> Self {
        self.port_guessing = allowed;
        self
    }

    /// Whether the router is asked for a port (PCP, NAT-PMP, UPnP), so that peers behind any NAT reach this node directly; on
    /// unless told otherwise.
    pub fn port_mapping(mut self, wanted: bool) -> Self {
        self.port_mapping = wanted;
        self
    }

    /// Carries, on this UDP port, what two other peers send each other that cannot reach one another. The coordinator's
    /// policy says for whom: the capability `tailscale.com/cap/relay`. The port must be free and reachable from outside;
    /// 0 takes any.
    pub fn peer_relay(mut self, port: u16) -> Self {
        self.peer_relay = Some(port);
        self
    }

    /// Joins: registers if need be, and returns once a map is in force (also a stored one: then nothing is waited for).
    /// Without a key the coordinator may ask for a login: subscribe to events beforehand with [`Self::start`].
    ///
    /// # Errors
    /// [`JoinError`] when the coordinator refuses, or sockets, device or state cannot be used.
    ///
    /// # Cancel safety
    /// Dropping the future stops the node.
    pub async fn join(self, coordinator: ControlUrl, key: Option<AuthKey>) -> Result<Mesh, JoinError> {
        let mesh = self.start(coordinator, key).await?;
        mesh.joined().await?;
        Ok(mesh)
    }

    /// As [`Self::join`], but returns at once: [`Mesh::joined`] waits, and [`Mesh::events`] tells meanwhile.
    ///
    /// # Errors
    /// [`JoinError`] when sockets, device or state cannot be used.
    #[expect(
        clippy::unused_async,
        reason = "needs a runtime, which only an async function can promise"
    )]
    pub async fn start(self, coordinator: ControlUrl, key: Option<AuthKey>) -> Result<Mesh, JoinError> {
        let dialer = Dialer::new(self.ca_file.as_deref())?;
        // The data plane's own thread, with sockets and device registered there; all else stays with the caller's runtime.
        let lane = LaneRuntime::new().map_err(JoinError::Thread)?;
        let now = Instant::now();
        let (udp, (device, sockets), netmon) = {
            let _lane = lane.get().enter();
            let udp = self.udp()?;
            let (device, sockets) = self.device()?;
            let netmon = NetMonitor::start(device.interface(), now);
            (udp, (device, sockets), netmon)
        };
        let relay_server = self.relay_server(&netmon)?;
        let store = self.store.unwrap_or_else(|| Arc::new(MemoryStore::default()));
        let disco_key = DiscoPrivateKey::generate();

        let hostname = self.hostname.unwrap_or_else(host_name);
        let mut config = ControlConfig::new(coordinator.clone(), hostname, disco_key.public(), dialer.clone());
        config.auth_key = key;
        config.ephemeral = self.ephemeral;
        config.accept_new_control_key = self.accept_new_control_key;
        config.hostinfo.peer_relay = relay_server.is_some();
        let ports = (udp.port(), udp.port_v6());
        let mut reach = Reach::new(ports, None, now);
        reach.set_interfaces(&netmon.network().addresses, ports);
        let (control, control_events) =
            ControlClient::start(config, store).map_err(|error| JoinError::Control(Arc::new(error)))?;
        // Before the client's task has dialled, so that its first request carries them.
        control.set_endpoints(reach.endpoints());
        reach.set_home(control.saved_home());

        let (derp_sender, derp_events) = mpsc::channel(DERP_EVENTS);
        let derp = DerpPool::new(control.node_key(), dialer, coordinator, derp_sender);
        let (command_sender, commands) = mpsc::channel(COMMANDS);
        let (event_sender, _) = broadcast::channel(EVENTS);
        let (snapshot_sender, snapshot) = watch::channel(Arc::new(Snapshot::default()));
        let shared = Shared {
            commands: command_sender,
            events: event_sender.clone(),
            snapshot,
            sockets,
            control: control.clone(),
        };
        // The userspace stack sends what every path carries: nothing larger need be looked for.
        let mtu = match &shared.sockets {
            Sockets::Userspace(_) => BASE,
            #[cfg(feature = "tun")]
            Sockets::Kernel => self.mtu,
        };
        let clock = crate::wg::Clock::new(SystemTime::now(), Instant::now());
        let mut engine = Engine::new(&control.node_key(), disco_key, mtu, clock);
        engine.set_port_guessing(self.port_guessing);
        let lanes = Lanes::new(self.lanes);
        if lanes.is_some() {
            engine.use_lanes();
        }
        engine.set_relay_serving(relay_server.is_some());
        let driver = Driver {
            engine,
            udp,
            device,
            derp,
            derp_events,
            control,
            control_events,
            commands,
            events: event_sender,
            snapshot: snapshot_sender,
            reach,
            netmon,
            lanes: lanes.map(|lanes| (lanes, OpenQueue::default())),
            port_mapping: self.port_mapping.then(PortMapping::start),
            relay_server,
            runtime: tokio::runtime::Handle::current(),
            state: State::new(),
        };
        // Ends when the last handle drops the command channel.
        std::thread::Builder::new()
            .name("sandd-mesh".to_owned())
            .spawn(move || lane.get().block_on(driver.run()))
            .map_err(JoinError::Thread)?;
        Ok(Mesh {
            shared: Arc::new(shared),
        })
    }

    fn udp(&self) -> Result<UdpSockets, JoinError> {
        UdpSockets::bind(self.port).map_err(|source| JoinError::Udp {
            port: self.port,
            source,
        })
    }

    fn relay_server(&self, netmon: &NetMonitor) -> Result<Option<RelayHost>, JoinError> {
        let Some(port) = self.peer_relay else { return Ok(None) };
        let server = RelayHost::start(port).map_err(|source| JoinError::PeerRelay { port, source })?;
        server.set_interfaces(&netmon.network().addresses);
        Ok(Some(server))
    }

    fn device(&self) -> Result<(Device, Sockets), JoinError> {
        #[cfg(feature = "tun")]
        if let Some(name) = &self.tun {
            let config = crate::io::tun::TunConfig::new(name, self.mtu);
            let tun = crate::io::tun::TunDevice::open(&config).map_err(JoinError::Tun)?;
            return Ok((Device::tun(tun), Sockets::Kernel));
        }
        let wake = Arc::new(Notify::new());
        let waker = Arc::clone(&wake);
        let stack = SharedStack::new(StackConfig::new(BASE), Arc::new(move || waker.notify_one()));
        Ok((Device::userspace(stack.clone(), wake), Sockets::Userspace(stack)))
    }
}

/// The runtime of the data plane's thread. Where joining fails it is dropped by whoever joins, who must not wait for its end.
struct LaneRuntime(Option<Runtime>);

impl LaneRuntime {
    fn new() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self(Some(runtime)))
    }

    fn get(&self) -> &Runtime {
        self.0.as_ref().expect("only dropping takes it")
    }
}

impl Drop for LaneRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Mesh {
    /// Waits until a map is in force.
    ///
    /// # Errors
    /// [`JoinError`] when the coordinator refuses for good or the node has stopped.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn joined(&self) -> Result<(), JoinError> {
        let mut snapshot = self.shared.snapshot.clone();
        let ready = snapshot
            .wait_for(|snapshot| snapshot.failed.is_some() || (snapshot.applied && snapshot.map.self_node.is_some()))
            .await
            .map_err(|_| JoinError::Stopped)?
            .clone();
        if let Some(error) = &ready.failed {
            return Err(JoinError::Control(Arc::clone(error)));
        }
        if ready.map.lock_enabled {
            return Err(JoinError::TailnetLock);
        }
        Ok(())
    }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "node".to_owned())
}
