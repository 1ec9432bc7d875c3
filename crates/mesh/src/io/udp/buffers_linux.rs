//! Socket buffers on Linux: beyond the system's cap where we may, else up to it.

use rustix::net::sockopt;
use socket2::Socket;

/// Best effort: small buffers cost throughput, not correctness.
pub(super) fn enlarge(socket: &Socket, bytes: usize) {
    // The forced form needs CAP_NET_ADMIN; the plain one stops silently at net.core.{r,w}mem_max, often 208 KiB, which
    // is three super-packets.
    if sockopt::set_socket_recv_buffer_size_force(socket, bytes).is_err() {
        let _ = socket.set_recv_buffer_size(bytes);
    }
    if sockopt::set_socket_send_buffer_size_force(socket, bytes).is_err() {
        let _ = socket.set_send_buffer_size(bytes);
    }
    if socket.recv_buffer_size().is_ok_and(|granted| granted < bytes) {
        tracing::debug!(
            wanted = bytes,
            "the system caps socket buffers; raise net.core.rmem_max and wmem_max for full speed under load"
        );
    }
}
