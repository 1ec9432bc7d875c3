//! [`Mesh`]: the handle an embedder holds. Cloning it is cheap; the node stops when the last handle is dropped.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use sandd_control_client::ControlError;
use sandd_control_client::keys::NodePublicKey;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::builder::MeshBuilder;
use crate::engine::Snapshot;
use crate::error::{ConnectError, ListenError, MeshStopped, PingError};
use crate::event::{MeshEvent, MeshEvents};
use crate::io::driver::Command;
use crate::net::{MeshAddr, MeshHost, TcpListener, TcpStream, UdpSocket};
use crate::netstack::SharedStack;
use crate::status::{MeshStatus, NetReport, PingReply, WhoIs};

/// How sockets are made: in the userspace stack, or in the kernel on the TUN's addresses.
#[derive(Debug, Clone)]
pub(crate) enum Sockets {
    Userspace(SharedStack),
    #[cfg(feature = "tun")]
    Kernel,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) events: broadcast::Sender<MeshEvent>,
    pub(crate) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(crate) sockets: Sockets,
    pub(crate) control: sandd_control_client::ControlClient,
}

/// One node of a mesh. See the crate's text for an example.
#[derive(Debug, Clone)]
#[must_use = "the node stops when its last handle is dropped"]
pub struct Mesh {
    pub(crate) shared: Arc<Shared>,
}

impl Mesh {
    /// Starts describing a node; [`MeshBuilder::join`] brings it up.
    pub fn builder() -> MeshBuilder {
        MeshBuilder::default()
    }

    /// Opens a TCP connection to a node by name or mesh address.
    ///
    /// # Errors
    /// [`ConnectError`]: unknown node, refused, no answer in time, or the node has stopped.
    ///
    /// # Cancel safety
    /// Dropping the future gives the connection up.
    pub async fn tcp_connect(&self, to: impl Into<MeshAddr>) -> Result<TcpStream, ConnectError> {
        let to = to.into();
        let snapshot = self.snapshot();
        let ip = resolve(&snapshot, to.host()).ok_or_else(|| ConnectError::NoSuchPeer(to.host().to_string()))?;
        let local = local_for(&snapshot, ip).ok_or(ConnectError::NoAddress(ip))?;
        let remote = (ip, to.port()).into();
        let connected = match &self.shared.sockets {
            Sockets::Userspace(stack) => TcpStream::connect_userspace(stack, local, remote).await,
            #[cfg(feature = "tun")]
            Sockets::Kernel => TcpStream::connect_kernel(local, remote).await,
        };
        connected.map_err(|source| ConnectError::from_io(to.to_string(), source))
    }

    /// Listens for TCP connections on a port of every mesh address of this node, and on nothing else (S-23). Port 0
    /// takes a free one.
    ///
    /// # Errors
    /// [`ListenError`]: the port is taken, there is no address yet, or the node has stopped.
    #[expect(
        clippy::unused_async,
        reason = "binding a kernel socket may come to wait; callers are ready for it"
    )]
    pub async fn tcp_listen(&self, port: u16) -> Result<TcpListener, ListenError> {
        self.has_address()?;
        let listening = match &self.shared.sockets {
            Sockets::Userspace(stack) => TcpListener::bind_userspace(stack, port),
            #[cfg(feature = "tun")]
            Sockets::Kernel => TcpListener::bind_kernel(&self.addresses(), port),
        };
        listening.map_err(|source| ListenError::Io { port, source })
    }

    /// A UDP socket on a port of this node's mesh addresses. Port 0 takes a free one.
    ///
    /// # Errors
    /// [`ListenError`]: the port is taken, there is no address yet, or the node has stopped.
    #[expect(
        clippy::unused_async,
        reason = "binding a kernel socket may come to wait; callers are ready for it"
    )]
    pub async fn udp_bind(&self, port: u16) -> Result<UdpSocket, ListenError> {
        self.has_address()?;
        let bound = match &self.shared.sockets {
            Sockets::Userspace(stack) => UdpSocket::bind_userspace(stack, port),
            #[cfg(feature = "tun")]
            Sockets::Kernel => UdpSocket::bind_kernel(&self.addresses(), port),
        };
        bound.map_err(|source| ListenError::Io { port, source })
    }

    /// Events from now on. A slow reader is told how many it missed.
    #[must_use]
    pub fn events(&self) -> MeshEvents {
        MeshEvents::new(self.shared.events.subscribe())
    }

    /// Mesh addresses of this node.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.snapshot().own_ips.clone()
    }

    /// Full name of this node on the mesh.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        self.snapshot().map.self_node.as_ref().map(|node| node.name.clone())
    }

    /// Public key of this node.
    #[must_use]
    pub fn node_key(&self) -> Option<NodePublicKey> {
        self.snapshot().node_key
    }

    /// Addresses of a node by short or full name; an address in text stands for itself when the mesh has it.
    #[must_use]
    pub fn resolve(&self, host: &str) -> Option<Vec<IpAddr>> {
        let snapshot = self.snapshot();
        match host.parse::<IpAddr>() {
            Ok(ip) => snapshot.names.node_of(ip).map(|_| vec![ip]),
            Err(_) => snapshot.names.addresses(host),
        }
    }

    /// Who stands behind a mesh address.
    #[must_use]
    pub fn whois(&self, ip: IpAddr) -> Option<WhoIs> {
        let snapshot = self.snapshot();
        let id = snapshot.names.node_of(ip.to_canonical())?;
        let own = snapshot.map.self_node.as_ref().filter(|node| node.id == id);
        let node = own.or_else(|| snapshot.map.peers.get(&id))?;
        Some(WhoIs {
            node_id: node.id.0,
            node_key: node.key.to_string(),
            name: node.name.clone(),
            short_name: node.short_name().to_owned(),
            user: snapshot.map.users.get(&node.user).map(|user| user.login_name.clone()),
            tags: node.tags.clone(),
            addresses: node.ips().collect(),
        })
    }

    /// How the node and each peer stand.
    ///
    /// # Errors
    /// [`MeshStopped`].
    pub async fn status(&self) -> Result<MeshStatus, MeshStopped> {
        let (answer, status) = oneshot::channel();
        self.ask(Command::Status(answer)).await?;
        status.await.map_err(|_| MeshStopped)
    }

    /// Sends an echo request through the tunnel and waits for its answer, which tells the path it came by.
    ///
    /// # Errors
    /// [`PingError`]: unknown peer, no answer in time, or the node has stopped.
    pub async fn ping(&self, peer: impl Into<MeshHost>, timeout: Duration) -> Result<PingReply, PingError> {
        let peer = peer.into();
        let snapshot = self.snapshot();
        let to = resolve(&snapshot, &peer).ok_or_else(|| PingError::NoSuchPeer(peer.to_string()))?;
        let name = self.whois(to).map_or_else(|| peer.to_string(), |who| who.name);
        let (answer, reply) = oneshot::channel();
        self.ask(Command::Ping {
            name,
            to,
            timeout,
            answer,
        })
        .await?;
        reply.await.map_err(|_| MeshStopped)?
    }

    /// Measures the network anew: public addresses, kind of NAT, relays.
    ///
    /// # Errors
    /// [`MeshStopped`].
    pub async fn netcheck(&self) -> Result<NetReport, MeshStopped> {
        let (answer, report) = oneshot::channel();
        self.ask(Command::Netcheck(answer)).await?;
        report.await.map_err(|_| MeshStopped)
    }

    /// Tells the node that the network under it has changed (it also finds out by itself, later).
    ///
    /// # Errors
    /// [`MeshStopped`].
    pub async fn network_changed(&self) -> Result<(), MeshStopped> {
        self.ask(Command::NetworkChanged).await
    }

    /// Ends this node's membership: the coordinator forgets or expires it, and its node key is discarded.
    ///
    /// # Errors
    /// [`ControlError`] when the coordinator cannot be told.
    pub async fn logout(&self) -> Result<(), ControlError> {
        self.shared.control.logout().await
    }

    /// Stops the node: streams end, the relay and the coordinator are left. Waits until that is done.
    pub async fn shutdown(&self) {
        let (done, stopped) = oneshot::channel();
        if self.ask(Command::Shutdown(done)).await.is_ok() {
            let _ = stopped.await;
        }
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.shared.snapshot.borrow())
    }

    fn has_address(&self) -> Result<(), ListenError> {
        if self.snapshot().own_ips.is_empty() {
            Err(ListenError::NoAddress)
        } else {
            Ok(())
        }
    }

    async fn ask(&self, command: Command) -> Result<(), MeshStopped> {
        self.shared.commands.send(command).await.map_err(|_| MeshStopped)
    }
}

fn resolve(snapshot: &Snapshot, host: &MeshHost) -> Option<IpAddr> {
    match host {
        MeshHost::Ip(ip) => {
            let ip = ip.to_canonical();
            (snapshot.names.node_of(ip).is_some() || snapshot.own_ips.contains(&ip)).then_some(ip)
        }
        MeshHost::Name(name) => {
            let all = snapshot.names.addresses(name)?;
            let has = |v6: bool| snapshot.own_ips.iter().any(|own| own.is_ipv6() == v6);
            let of = |v6: bool| all.iter().copied().find(|ip| ip.is_ipv6() == v6).filter(|_| has(v6));
            of(false).or_else(|| of(true))
        }
    }
}

fn local_for(snapshot: &Snapshot, remote: IpAddr) -> Option<IpAddr> {
    snapshot
        .own_ips
        .iter()
        .copied()
        .find(|own| own.is_ipv6() == remote.is_ipv6())
}
