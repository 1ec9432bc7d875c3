//! Binding to a mesh address that the device has just been given: nothing to do for it here.

use std::io;
use std::net::IpAddr;

use socket2::SockRef;

/// See the module's text.
#[expect(
    clippy::unnecessary_wraps,
    clippy::needless_pass_by_value,
    reason = "its pair asks the system"
)]
pub(super) fn claim(_socket: SockRef<'_>, _address: IpAddr) -> io::Result<()> {
    Ok(())
}
