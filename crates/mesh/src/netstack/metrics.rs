//! What a stack counts. Plain integers, read as a copy.

/// Counters of one [`Stack`](super::Stack) since its start.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StackMetrics {
    /// Packets taken from the engine.
    pub packets_in: u64,
    /// Packets given to the engine.
    pub packets_out: u64,
    /// Dropped: not a well-formed IP packet of a kind that the stack speaks, a fragment, or an extension header.
    pub dropped_malformed: u64,
    /// Dropped: sent to an address that this node does not have.
    pub dropped_foreign: u64,
    /// Dropped: a source that no peer can have (ours, loopback, multicast, unspecified).
    pub dropped_source: u64,
    /// Dropped: a SYN that found its listener's backlog, or the stack, full.
    pub dropped_backlog: u64,
    /// Dropped: a datagram that found its socket's queue full.
    pub dropped_datagrams: u64,
    /// Dropped: an answer that found the queue to the engine full.
    pub dropped_transmit: u64,
}
