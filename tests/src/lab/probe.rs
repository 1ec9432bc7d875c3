//! What tests send through the mesh and watch on the wire, as threads of the test with sockets in the lab's namespaces.

mod flow;
mod ping;
mod scan;
mod steady;
mod tcp;
mod wire;

pub use flow::{Flow, FlowRecord};
pub use ping::{PingRecord, Pinger};
pub use scan::{Listener, listeners};
pub use steady::SteadyStream;
pub use tcp::{HashedStream, HashingSink, send_hashed, socks_send};
pub use wire::{DirectWatch, WireGuardKind};
