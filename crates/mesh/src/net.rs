//! The sockets that an embedder holds, the same over the userspace stack and over a kernel device.
//!
//! They stand at the very end of a packet's way. [`TcpStream`] is `AsyncRead + AsyncWrite`, errors are those of the
//! standard library with a sentence in them; so code written for tokio's own sockets works unmodified. Over the
//! userspace stack every operation locks the [`SharedStack`](crate::netstack::SharedStack) briefly; over a TUN device
//! they are tokio's sockets, bound to the mesh addresses.

mod addr;
#[cfg_attr(target_os = "linux", path = "net/claim_linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "net/claim_other.rs")]
mod claim;
mod shared_stack;
mod tcp;
mod udp;

pub use addr::{AddrError, MeshAddr, MeshHost};
pub use shared_stack::PingError;
pub use tcp::{TcpListener, TcpStream};
pub use udp::UdpSocket;

#[cfg(test)]
mod tests;
