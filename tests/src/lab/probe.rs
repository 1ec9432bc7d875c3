//! What tests send through the mesh and watch on the wire, as threads of the test with sockets in the lab's namespaces.

mod ping;
mod scan;
mod tcp;
mod wire;

pub use ping::{PingRecord, Pinger};
pub use scan::{Listener, listeners};
pub use tcp::{HashedStream, HashingSink, send_hashed, socks_send};
pub use wire::{DirectWatch, WireGuardKind};
