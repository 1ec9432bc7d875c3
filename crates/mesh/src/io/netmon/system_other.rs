//! Systems whose news of the network we do not hear yet: it is looked at from time to time.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use super::Uplink;

/// Cannot be had.
#[derive(Debug)]
pub(super) struct Watch(Infallible);

impl Watch {
    pub(super) fn open(_ignored: Option<u32>) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    #[expect(clippy::unused_async, reason = "as on Linux, where it waits")]
    pub(super) async fn news(&mut self) {
        match self.0 {}
    }

    pub(super) fn drain(&mut self) {
        match self.0 {}
    }
}

/// The way out, of which only our own address is known. Nothing is sent.
pub(super) fn uplink(v4: bool) -> Option<Uplink> {
    let (any, far): (IpAddr, IpAddr) = if v4 {
        (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(1, 1, 1, 1).into())
    } else {
        let far = Ipv6Addr::new(0x2606, 0x4700, 0x4700, 0, 0, 0, 0, 0x1111);
        (Ipv6Addr::UNSPECIFIED.into(), far.into())
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((far, 9)).ok()?;
    let source = socket.local_addr().ok()?.ip();
    Some(Uplink {
        interface: 0,
        gateway: None,
        source: Some(source),
    })
}

/// How far the time of day is ahead of the clock that sleeps with the machine.
pub(super) fn clock_lag() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    let awake = START.get_or_init(Instant::now).elapsed();
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .saturating_sub(awake)
}
