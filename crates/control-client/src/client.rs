//! [`ControlClient`]: the handle an embedder holds.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::announce::Announcement;
use crate::config::{AuthKey, ControlConfig, EndpointKind};
use crate::error::ControlError;
use crate::event::ControlEvent;
use crate::io::{Command, Driver, NodeState, Shared, StateStore};
use crate::keys::{MachinePublicKey, NodePrivateKey, NodePublicKey};
use crate::netmap::RegionId;
use crate::wire::{Hostinfo, NetInfo};

const EVENTS: usize = 64;
const COMMANDS: usize = 16;

/// A membership in a tailnet: joins, follows the map, keeps the coordinator informed, and comes back after outages.
///
/// Clones are handles to the same membership; when the last one is dropped it ends, without being given up.
#[derive(Debug, Clone)]
pub struct ControlClient {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    machine_public: MachinePublicKey,
    saved_home: Option<RegionId>,
}

impl ControlClient {
    /// Starts on the current tokio runtime. With a map saved by an earlier run that map is the first event, before any
    /// connection is made.
    ///
    /// # Errors
    /// [`ControlError::Store`] when there is state that cannot be read.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(
        config: ControlConfig,
        store: Arc<dyn StateStore>,
    ) -> Result<(Self, mpsc::Receiver<ControlEvent>), ControlError> {
        let loaded = store.load()?;
        let identity_is_new = loaded.is_none();
        let mut state = loaded.unwrap_or_else(NodeState::generate);
        let url = config.url.to_string();
        let registered = state.registered_at.as_deref() == Some(url.as_str());
        let node_key = match state.node_key.clone().filter(|_| registered) {
            Some(key) => key,
            None => state
                .trying_node_key
                .get_or_insert_with(NodePrivateKey::generate)
                .clone(),
        };
        let netmap = if registered { store.load_netmap()? } else { None };

        let mut hostinfo = config.hostinfo.clone();
        hostinfo.hostname.clone_from(&config.hostname);
        hostinfo.net_info = None;
        // Without a home from the first moment on, peers could not reach this node by relay for a while.
        let net_info = state.home.map(|home| NetInfo {
            preferred_derp: home.0.into(),
            ..NetInfo::default()
        });
        let announcement = Announcement {
            disco_key: config.disco_key,
            hostinfo,
            net_info,
            endpoints: None,
        };

        let (commands, command_queue) = mpsc::channel(COMMANDS);
        let (events, event_queue) = mpsc::channel(EVENTS);
        let shared = Arc::new(Shared::new(announcement, node_key, state.relay_keys.clone()));
        let client = Self {
            shared: shared.clone(),
            commands,
            machine_public: state.machine_key.public(),
            saved_home: state.home,
        };
        let mut driver = Driver::new(Arc::new(config), shared, command_queue, events, state, store);
        if let Some(netmap) = netmap {
            driver.restore(&netmap);
        }
        tokio::spawn(driver.run(identity_is_new));
        Ok((client, event_queue))
    }

    /// The node key as of now; [`ControlEvent::NodeKey`] tells when it changes.
    #[must_use]
    pub fn node_key(&self) -> NodePrivateKey {
        self.shared.with(|state| state.node_key.clone())
    }

    /// The identity of this device.
    #[must_use]
    pub fn machine_public(&self) -> MachinePublicKey {
        self.machine_public
    }

    /// The home relay region of the last run.
    #[must_use]
    pub fn saved_home(&self) -> Option<RegionId> {
        self.saved_home
    }

    /// The keys of relay servers that are kept, by host and port.
    #[must_use]
    pub fn relay_keys(&self) -> BTreeMap<String, NodePublicKey> {
        self.shared.with(|state| state.relay_keys.clone())
    }

    /// Keeps these keys of relay servers for the next run.
    pub fn set_relay_keys(&self, keys: BTreeMap<String, NodePublicKey>) {
        self.shared.with(|state| state.relay_keys = keys);
        self.shared.changed.notify_one();
    }

    /// Where peers may find this node. The coordinator is told if the set changed; before the first connection it goes
    /// out with the first request. Loopback, link-local and mesh addresses do not belong in it.
    pub fn set_endpoints(&self, endpoints: Vec<(SocketAddr, EndpointKind)>) {
        self.announce(|announcement| announcement.set_endpoints(endpoints));
    }

    /// What was found out about the network, the home region above all.
    pub fn set_net_info(&self, net_info: NetInfo) {
        self.announce(|announcement| announcement.net_info = Some(net_info));
    }

    /// Describes this node anew: routes, services. Its host name stays, and the network part is set by
    /// [`Self::set_net_info`].
    pub fn set_hostinfo(&self, hostinfo: Hostinfo) {
        self.announce(|announcement| {
            let hostname = std::mem::take(&mut announcement.hostinfo.hostname);
            announcement.hostinfo = Hostinfo {
                hostname,
                net_info: None,
                ..hostinfo
            };
        });
    }

    fn announce(&self, change: impl FnOnce(&mut Announcement)) {
        self.shared.with(|state| change(&mut state.announcement));
        self.shared.changed.notify_one();
    }

    /// The link changed: the connection is made anew at once, without waiting for it to prove dead.
    pub fn reconnect_now(&self) {
        // A full queue holds something that leads to a new connection as well.
        let _ = self.commands.try_send(Command::Reconnect);
    }

    /// Registers anew with a fresh node key: with this auth key, or the one from the start, or by asking for a login.
    /// Also the way on after [`crate::ControlState::Stopped`].
    ///
    /// # Errors
    /// [`ControlError::Stopped`] when the client has ended. Whether it succeeds is told by events.
    pub async fn renew(&self, auth_key: Option<AuthKey>) -> Result<(), ControlError> {
        self.commands
            .send(Command::Renew(auth_key))
            .await
            .map_err(|_| ControlError::Stopped)
    }

    /// Gives the membership up: the node ends at the coordinator, its key and the saved map are forgotten, on disk
    /// too when this returns, and the client ends. The machine key stays. On an error the membership stays as it was.
    ///
    /// # Errors
    /// [`ControlError`] when the coordinator cannot be told.
    pub async fn logout(&self) -> Result<(), ControlError> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(Command::Logout(reply))
            .await
            .map_err(|_| ControlError::Stopped)?;
        answer.await.unwrap_or(Err(ControlError::Stopped))
    }

    /// Ends the client and waits until its state is on disk. The membership stays.
    pub async fn shutdown(&self) {
        let (reply, done) = oneshot::channel();
        if self.commands.send(Command::Shutdown(reply)).await.is_ok() {
            let _ = done.await;
        }
    }
}
