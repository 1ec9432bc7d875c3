//! Tunnel mode: dial and listen inside the mesh (S-23).
//!
//! Mesh names are looked up in the network map and never through the system's resolver. A connection ends as soon as the
//! map says that its peer is gone or that the name has moved to another node, not when TCP notices: so a controller that
//! comes back with another address is found within seconds, and a node that was removed is cut off at once.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use sandd_mesh::{Mesh, MeshEvent};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{ByteStream, CONNECT_TIMEOUT, DirectDialer, ServerUrl, TransportError};

/// Dials peers by mesh name or mesh address, and whatever is on no mesh over the host's own network.
#[derive(Debug, Clone)]
pub struct MeshDialer {
    mesh: Mesh,
    direct: DirectDialer,
}

impl MeshDialer {
    /// Dials as this node; `direct` does the TLS of `wss` addresses.
    #[must_use]
    pub fn new(mesh: Mesh, direct: DirectDialer) -> Self {
        Self { mesh, direct }
    }

    /// Connects to the controller.
    ///
    /// # Errors
    /// [`TransportError`], which names the step that failed.
    pub async fn dial(&self, url: &ServerUrl) -> Result<ByteStream, TransportError> {
        let (host, to) = (url.host(), url.authority());
        if !is_of_mesh(&host, self.mesh.name().as_deref()) && self.mesh.resolve(&host).is_none() {
            return self.direct.dial(url).await;
        }
        let connect = async {
            appears(&self.mesh, &host).await;
            self.mesh.tcp_connect((host.as_str(), url.port())).await
        };
        let stream = match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(source)) => return Err(TransportError::Mesh { to, source }),
            Err(_) => {
                return Err(TransportError::TimedOut {
                    step: "TCP connect over the mesh",
                    to,
                });
            }
        };
        let peer = stream
            .peer_addr()
            .map_err(|source| TransportError::Connect { to, source })?
            .ip();
        let guarded = Guarded::new(
            stream,
            self.mesh.clone(),
            Watched {
                address: peer,
                name: Some(host),
            },
        );
        self.direct.secure(Box::new(guarded), url).await
    }
}

/// How long a name may be missing from the map before a dial fails.
const APPEAR_WITHIN: Duration = Duration::from_secs(5);

/// Waits a little for a peer that is not in the map yet: both sides may have been started together.
async fn appears(mesh: &Mesh, host: &str) {
    let mut events = mesh.events();
    let there = async { while mesh.resolve(host).is_none() && events.next().await.is_some() {} };
    let _ = tokio::time::timeout(APPEAR_WITHIN, there).await;
}

/// Says whether a host can only be meant to be on the mesh: a mesh address, a name without a dot, or one of our domain.
fn is_of_mesh(host: &str, own_name: Option<&str>) -> bool {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return match ip.to_canonical() {
            IpAddr::V4(ip) => ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64,
            IpAddr::V6(ip) => ip.segments()[..3] == [0xfd7a, 0x115c, 0xa1e0],
        };
    }
    let host = host.trim_end_matches('.');
    if !host.contains('.') {
        return true;
    }
    let domain = own_name
        .and_then(|name| name.trim_end_matches('.').split_once('.'))
        .map(|(_, domain)| domain);
    domain.is_some_and(|domain| {
        let (host, domain) = (host.to_ascii_lowercase(), domain.to_ascii_lowercase());
        host.strip_suffix(&domain).is_some_and(|rest| rest.ends_with('.'))
    })
}

/// Listens on the mesh addresses and on nothing else.
#[derive(Debug)]
pub struct MeshListener {
    mesh: Mesh,
    tcp: sandd_mesh::TcpListener,
    local: SocketAddr,
}

impl MeshListener {
    /// Listens on a port of this node.
    ///
    /// # Errors
    /// [`TransportError::MeshListen`].
    pub async fn bind(mesh: Mesh, port: u16) -> Result<Self, TransportError> {
        let tcp = mesh.tcp_listen(port).await?;
        let port = tcp.local_addr().map_or(port, |address| address.port());
        let ip = mesh
            .addresses()
            .into_iter()
            .min_by_key(IpAddr::is_ipv6)
            .unwrap_or(IpAddr::from([0, 0, 0, 0]));
        Ok(Self {
            mesh,
            tcp,
            local: (ip, port).into(),
        })
    }

    /// The first mesh address and the port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    pub(super) async fn accept(&self) -> std::io::Result<(ByteStream, SocketAddr)> {
        let (stream, from) = self.tcp.accept().await?;
        let watched = Watched {
            address: from.ip(),
            name: None,
        };
        Ok((Box::new(Guarded::new(stream, self.mesh.clone(), watched)), from))
    }
}

/// What must stay true for a connection to make sense.
#[derive(Debug)]
struct Watched {
    /// The same node has this address.
    address: IpAddr,
    /// And, if we dialled a name, the name still means it.
    name: Option<String>,
}

/// A stream that ends when its peer leaves the mesh.
#[derive(Debug)]
struct Guarded<S> {
    stream: S,
    /// Nothing after it has told.
    gone: Option<oneshot::Receiver<()>>,
    watch: JoinHandle<()>,
}

impl<S> Guarded<S> {
    fn new(stream: S, mesh: Mesh, watched: Watched) -> Self {
        let (tell, gone) = oneshot::channel();
        let watch = tokio::spawn(async move {
            watch(mesh, watched).await;
            let _ = tell.send(());
        });
        Self {
            stream,
            gone: Some(gone),
            watch,
        }
    }

    fn poll_gone(&mut self, context: &mut Context<'_>) -> std::io::Result<()> {
        let Some(gone) = &mut self.gone else { return Ok(()) };
        match Pin::new(gone).poll(context) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => {
                self.gone = None;
                return Ok(());
            }
        }
        self.gone = None;
        Err(std::io::Error::other(
            "the peer left the mesh, or its name moved to another node",
        ))
    }
}

impl<S> Drop for Guarded<S> {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

/// Returns when what is watched is not true any more.
async fn watch(mesh: Mesh, watched: Watched) {
    let mut events = mesh.events();
    let Some(node) = mesh.whois(watched.address) else {
        return;
    };
    while let Some(event) = events.next().await {
        if !matches!(
            event,
            MeshEvent::NetmapApplied { .. } | MeshEvent::PeerRemoved { .. } | MeshEvent::Lagged(_)
        ) {
            continue;
        }
        let same_node = mesh
            .whois(watched.address)
            .is_some_and(|now| now.node_id == node.node_id);
        let same_name = watched.name.as_deref().is_none_or(|name| {
            mesh.resolve(name)
                .is_some_and(|addresses| addresses.contains(&watched.address))
        });
        if !same_node || !same_name {
            return;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.poll_gone(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl From<sandd_mesh::ListenError> for TransportError {
    fn from(source: sandd_mesh::ListenError) -> Self {
        Self::MeshListen { source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mesh_names_never_reach_the_systems_resolver() {
        let own = Some("worker-1.sandd.local");
        for host in [
            "controller",
            "controller.sandd.local",
            "Controller.SANDD.local.",
            "100.64.0.1",
            "100.127.255.254",
        ] {
            assert!(is_of_mesh(host, own), "{host}");
        }
        assert!(is_of_mesh("fd7a:115c:a1e0::1", None));
        for host in [
            "controller.example.com",
            "evilsandd.local",
            "10.0.0.1",
            "100.128.0.1",
            "fd7b::1",
            "127.0.0.1",
        ] {
            assert!(!is_of_mesh(host, own), "{host}");
        }
    }
}
