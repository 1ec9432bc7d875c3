//! The userspace TCP/IP stack: what a node speaks TCP, UDP and ICMP echo with when it has no kernel device.
//!
//! It stands at the inner end of a packet's way: outward `net/*` → [`Stack`] → engine, inward
//! engine → [`Stack`] → `net/*`. One packet is one whole IP packet, or a
//! super-packet of up to 45 segments with a [`VnetHeader`](crate::packet::vnet::VnetHeader).
//! Nothing that comes in is ever dialled to the host: a segment finds a socket of this stack, or is answered with RST
//! or "port unreachable", or is dropped and counted.
//!
//! # Who calls what
//!
//! [`Stack`] is pure: it reads no clock, owns no task, and is told `now`. Two parties use it through [`SharedStack`]:
//!
//! * **The driver** (one task or thread) runs a turn whenever packets came from the engine, the deadline of
//!   [`Stack::poll_timeout`] passed, or the wake callback was called:
//!
//!   ```text
//!   let mut stack = shared.lock();
//!   stack.handle_packet(packet, verified, now);        // for each that came, joined or alone
//!   stack.poll(now);                                   // timers, and what the sockets' owners asked for
//!   while let Some((offload, packet)) = stack.poll_transmit_super() { send(&offload, &packet); stack.recycle(packet) }
//!   let deadline = stack.poll_timeout();               // None: nothing is due, sleep until woken
//!   drop(stack);                                       // wakes the sockets' owners, after unlocking
//!   ```
//!
//!   A driver that cannot send must not drain `poll_transmit`: the queue is bounded, sockets then keep their data,
//!   and writers wait. `poll_timeout` is "now" only when another turn would make progress, so the loop never spins.
//! * **The sockets of [`net`](crate::net)** lock the same mutex for one operation. An operation that gave the driver
//!   work calls the wake callback once, after unlocking; further operations stay silent until the driver's next
//!   [`Stack::poll`].
//!
//! # Why one socket set a connection
//!
//! smoltcp scans its whole set on every packet and every poll. Here each connection has a set of its own; a table by
//! four-tuple finds it, and ordered deadlines say which ones are due. So an idle connection costs nothing, and a SYN
//! to a listened port always finds a fresh socket (smoltcp itself knows no backlog).

mod clock;
mod config;
mod connection;
mod device;
mod echo;
mod error;
mod ingress;
mod listener;
mod metrics;
mod ports;
mod schedule;
mod shared;
mod stack;
mod tcp;
mod time_wait;
mod udp;

pub use config::StackConfig;
pub(crate) use connection::ConnectionId;
pub(crate) use echo::EchoId;
pub use error::SocketError;
pub(crate) use listener::ListenerId;
pub use metrics::StackMetrics;
pub use shared::{SharedStack, StackGuard, WakeDriver};
pub use stack::Stack;
pub(crate) use udp::{UdpId, reported_address};

#[cfg(test)]
mod tests;
