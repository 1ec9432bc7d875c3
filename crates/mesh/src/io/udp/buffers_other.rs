//! Socket buffers where only the plain option exists.

use socket2::Socket;

/// Best effort: small buffers cost throughput, not correctness.
pub(super) fn enlarge(socket: &Socket, bytes: usize) {
    let _ = socket.set_recv_buffer_size(bytes);
    let _ = socket.set_send_buffer_size(bytes);
}

/// Nothing else is known.
pub(super) const fn segments_soundly() -> bool {
    true
}
