//! Routes where there is no rtnetlink: not yet.

use std::io;

use ipnet::IpNet;

use super::PathMtu;

/// Says what the user can do instead.
pub(super) fn add(_interface: u32, _prefix: IpNet, _mtu: Option<PathMtu>) -> io::Result<()> {
    let sentence = "setting routes is not supported on this system; add it by hand, or use userspace mode";
    Err(io::Error::new(io::ErrorKind::Unsupported, sentence))
}

/// Nothing was set.
pub(super) fn remove(_interface: u32, _prefix: IpNet) -> io::Result<()> {
    Ok(())
}

/// There are no super-packets.
pub(super) fn set_max_segments(_interface: u32, _segments: u32) -> io::Result<()> {
    Ok(())
}
