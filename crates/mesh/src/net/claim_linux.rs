//! Binding to a mesh address that the device has just been given.

use std::io;
use std::net::IpAddr;

use socket2::SockRef;

/// Lets the socket bind to `address` although the kernel may still look whether anybody else has it (RFC 4862, section
/// 5.4): an IPv6 address is not there to bind to before that is over.
pub(super) fn claim(socket: SockRef<'_>, address: IpAddr) -> io::Result<()> {
    if address.is_ipv6() {
        socket.set_freebind_v6(true)?;
    }
    Ok(())
}
