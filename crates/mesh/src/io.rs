//! The shell: the only place of this crate with tokio, sockets, tasks and clocks.
//!
//! `driver` owns the engine and runs its loop, `lanes` seal and open for it where there are cores to spare; `udp` and
//! `derp` are the underlay, `tun` and the netstack the device above; `reach` finds out how this node can be reached, with
//! `https` where UDP is blocked, and `net_report` and `standalone` tell of it; `netmon` notices when the network has
//! changed; `guess` holds the sockets of port guessing, `portmap` those towards the router; `peer_relay` carries what other
//! pairs send each other; `resolve` asks the system's DNS for STUN hosts, `netlink` the kernel for routes.

pub mod derp;
pub(crate) mod device;
pub(crate) mod driver;
pub(crate) mod guess;
pub(crate) mod https;
pub(crate) mod lanes;
pub(crate) mod net_report;
#[cfg(target_os = "linux")]
mod netlink;
pub(crate) mod netmon;
pub(crate) mod or_never;
#[cfg(any(test, feature = "bench"))]
#[doc(hidden)]
pub mod pair;
pub(crate) mod peer_relay;
pub(crate) mod portmap;
pub(crate) mod reach;
pub(crate) mod resolve;
pub(crate) mod standalone;
#[cfg(feature = "tun")]
pub mod tun;
pub(crate) mod udp;
