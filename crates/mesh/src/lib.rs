//! A userspace WireGuard mesh node in one library: join a tailnet, dial and listen, without privileges and without
//! another program.
//!
//! The coordinator is Headscale or our own; peers may be stock `tailscaled`. WireGuard's handshake is boringtun's, its
//! sessions are our own; paths are found by STUN and disco, with DERP as the relay that always works; sockets live in a
//! userspace TCP/IP stack, or in the kernel behind a TUN device.
//!
//! ```no_run
//! use sandd_mesh::{AuthKey, ControlUrl, Mesh};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let mesh = Mesh::builder()
//!     .hostname("worker-1")
//!     .join(ControlUrl::parse("https://headscale.example")?, Some(AuthKey::new("hskey-auth-...")))
//!     .await?;
//! println!("I am {:?} at {:?}", mesh.name(), mesh.addresses());
//!
//! let mut stream = mesh.tcp_connect(("controller", 8765)).await?;
//! stream.write_all(b"hello").await?;
//! let mut answer = [0; 5];
//! stream.read_exact(&mut answer).await?;
//! mesh.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Layers
//!
//! ```text
//!    your code:  Mesh, TcpStream, TcpListener, UdpSocket          mesh, net
//!  ------------------------------------------------------------
//!    userspace TCP/IP stack            kernel TUN device          netstack, io::tun
//!  ------------------------------------------------------------
//!    Engine (pure): route, filter, WireGuard, paths, names        engine, route, filter, wg, path, magic_dns
//!  ------------------------------------------------------------
//!    UDP with GSO and GRO              DERP relays over TLS       io::udp, io::derp
//! ```
//!
//! The engine reads no clock and owns no socket; `io::driver` is the one task that feeds it. docs/ARCHITECTURE.md
//! follows a packet, a network map and a command through the files.
//!
//! # Features
//!
//! `tun` (default): the kernel TUN device through tun-rs, beside the userspace stack.

mod builder;
pub mod derp;
pub mod disco;
mod engine;
mod error;
mod event;
pub mod filter;
pub mod io;
pub mod magic_dns;
mod mesh;
mod metrics;
pub mod net;
mod netcheck;
pub mod netstack;
pub mod packet;
mod path;
mod peer_relay;
mod portmap;
mod random;
pub mod route;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod status;
pub mod stun;
mod wg;

#[cfg(test)]
mod vectors;

pub use builder::{DEFAULT_MTU, DEFAULT_PORT, MeshBuilder};
pub use error::{ConnectError, JoinError, ListenError, MeshStopped, PingError};
pub use event::{MeshEvent, MeshEvents};
pub use io::standalone::netcheck;
pub use mesh::Mesh;
pub use metrics::{Counters, DropReason};
pub use net::{MeshAddr, MeshHost, TcpListener, TcpStream, UdpSocket};
pub use sandd_aead::{Kernel as AeadKernel, set_kernel as set_aead_kernel};
pub use sandd_control_client::{AuthKey, ControlUrl, FileStore, MemoryStore, StateStore};
pub use status::{
    ControlStatus, MeshStatus, NetReport, PeerCandidate, PeerPath, PeerRelayStatus, PeerStatus, PingReply,
    RegionLatency, WhoIs,
};
