//! What Linux does for the sockets: buffers beyond the system's cap where we may, and whether segmentation is sound.

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

/// False for kernels 7.0 to 7.1.4, which corrupt segmented sends whose segments are all of one size.
pub(super) fn segments_soundly() -> bool {
    let release = rustix::system::uname();
    !corrupts_equal_segments(&release.release().to_string_lossy())
}

fn corrupts_equal_segments(release: &str) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse::<u32>().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    let version = (next(), next(), next());
    ((7, 0, 0)..(7, 1, 5)).contains(&version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_that_corrupt_are_known() {
        for (release, corrupts) in [
            ("6.18.5", false),
            ("7.0.0-rc3", true),
            ("7.0.12-arch1", true),
            ("7.1", true),
            ("7.1.4", true),
            ("7.1.5-1-generic", false),
            ("7.2.0", false),
            ("", false),
        ] {
            assert_eq!(corrupts_equal_segments(release), corrupts, "{release}");
        }
    }
}
