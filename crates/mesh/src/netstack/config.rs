//! [`StackConfig`]: sizes and patience of a stack.

use std::net::IpAddr;
use std::time::Duration;

/// What a stack is made from.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StackConfig {
    /// Largest IP packet, at least 1280.
    pub mtu: usize,
    /// For sequence numbers and ports. [`SharedStack::new`](super::SharedStack::new) draws it from the system; a pure
    /// stack takes what is here.
    pub seed: [u8; 16],
    /// Bytes that a connection may come to receive unread. It begins with [`FIRST_BUFFER`](Self::FIRST_BUFFER), and
    /// with as little memory as what is in it.
    pub receive_buffer: usize,
    /// Bytes that a connection may come to hold unsent or unacknowledged; it begins as the other.
    pub send_buffer: usize,
    /// Bytes by which all connections together may exceed what they begin with.
    pub buffer_budget: usize,
    /// Bound on connections of all kinds.
    pub max_connections: usize,
    /// How long a peer may take to complete a handshake.
    pub connect_timeout: Duration,
    /// How long a peer may be silent although something is to be acknowledged; about as long as the kernel waits. Who
    /// needs to know earlier asks the peer.
    pub stall_timeout: Duration,
}

impl StackConfig {
    /// What each buffer of a connection begins with.
    pub const FIRST_BUFFER: usize = 64 * 1024;

    /// The defaults for a given MTU.
    #[must_use]
    pub const fn new(mtu: usize) -> Self {
        Self {
            mtu,
            seed: [0; 16],
            receive_buffer: 6 << 20,
            send_buffer: 6 << 20,
            buffer_budget: 64 << 20,
            max_connections: 16_384,
            connect_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(900),
        }
    }

    /// The largest IP packet for a peer's address: where segments are cut, and what a peer is told to send.
    pub(super) const fn mtu_for(&self, _remote: IpAddr) -> usize {
        self.mtu
    }

    /// Brings every size into the range that the stack can work with.
    pub(super) fn bound(&mut self) {
        self.mtu = self.mtu.clamp(1280, 65_535);
        self.receive_buffer = self.receive_buffer.clamp(65_535, 1 << 24);
        self.send_buffer = self.send_buffer.clamp(4_096, 1 << 24);
    }
}
