//! [`Device`]: what stands above the engine, a userspace TCP/IP stack or a kernel TUN device.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

#[cfg(feature = "tun")]
use ipnet::IpNet;
use sandd_control_client::netmap::NetworkMap;
use tokio::sync::Notify;

#[cfg(feature = "tun")]
use crate::io::tun::TunDevice;
use crate::netstack::SharedStack;
use crate::packet::{PacketBatch, PacketBuf};

/// Most packets taken from a kernel device in one turn.
#[cfg(feature = "tun")]
const TURN: usize = 64;

/// See the module's text.
#[derive(Debug)]
pub(crate) enum Device {
    /// No privileges: sockets live in this process.
    Userspace { stack: SharedStack, wake: Arc<Notify> },
    /// A kernel interface with the mesh addresses.
    #[cfg(feature = "tun")]
    Tun(TunDevice),
}

impl Device {
    /// Name for status: `userspace` or the interface.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Userspace { .. } => "userspace".to_owned(),
            #[cfg(feature = "tun")]
            Self::Tun(tun) => tun.name().to_owned(),
        }
    }

    /// Waits until the device has something for the mesh; a TUN device gives its first packet.
    pub(crate) async fn wait(&self) -> io::Result<Option<PacketBuf>> {
        match self {
            Self::Userspace { wake, .. } => {
                wake.notified().await;
                Ok(None)
            }
            #[cfg(feature = "tun")]
            Self::Tun(tun) => tun.recv().await.map(Some),
        }
    }

    /// Gives packets to the device and takes what it has for the mesh. The second value is its next deadline.
    pub(crate) fn turn(&self, inbound: PacketBatch, now: Instant) -> (PacketBatch, Option<Instant>) {
        match self {
            Self::Userspace { stack, .. } => {
                let mut stack = stack.lock();
                if !inbound.is_empty() {
                    stack.handle_packets(inbound, now);
                }
                stack.poll(now);
                let out = std::iter::from_fn(|| stack.poll_transmit()).collect();
                (out, stack.poll_timeout())
            }
            #[cfg(feature = "tun")]
            Self::Tun(tun) => {
                for packet in inbound {
                    if let Err(error) = tun.try_send(&packet) {
                        tracing::debug!(%error, "the TUN device took a packet not");
                    }
                }
                let out = std::iter::from_fn(|| tun.try_recv().ok().flatten())
                    .take(TURN)
                    .collect();
                (out, None)
            }
        }
    }

    /// Follows the map: own addresses, and for a TUN device the routes to the mesh.
    #[cfg_attr(
        not(feature = "tun"),
        expect(
            unused_variables,
            clippy::unused_async,
            reason = "only a kernel device has routes, and waits for them"
        )
    )]
    pub(crate) async fn configure(&self, addresses: &[IpAddr], map: &NetworkMap) -> io::Result<()> {
        match self {
            Self::Userspace { stack, .. } => {
                stack.lock().set_addresses(addresses);
                Ok(())
            }
            #[cfg(feature = "tun")]
            Self::Tun(tun) => {
                tun.set_addresses(addresses).await?;
                tun.set_routes(&mesh_routes(map)).await
            }
        }
    }
}

/// The usual ranges once a peer lies in them, and each prefix outside of them by itself.
#[cfg(feature = "tun")]
fn mesh_routes(map: &NetworkMap) -> Vec<IpNet> {
    let usual: Vec<IpNet> = ["100.64.0.0/10", "fd7a:115c:a1e0::/48"]
        .iter()
        .filter_map(|text| text.parse().ok())
        .collect();
    let mut routes: Vec<IpNet> = map
        .peers
        .values()
        .flat_map(|peer| peer.addresses.iter())
        .map(|prefix| {
            usual
                .iter()
                .find(|range| range.contains(prefix))
                .copied()
                .unwrap_or(*prefix)
        })
        .collect();
    routes.sort();
    routes.dedup();
    routes
}
