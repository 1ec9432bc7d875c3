//! What the network around a node allows: pure machines that [`io::reach`](crate::io) feeds with answers and time.
//!
//! ```text
//! Plan      which STUN server is asked when, and when there is nothing more to wait for
//! Mapping   does the NAT give each destination another port? From servers' and peers' words
//! HomeChoice  which region's relay is home: at once a usable one, later the fastest, without wavering
//! ```
//!
//! None of it delays a start: a home is adopted before anything was measured, and endpoints go out as they become known.

mod home;
mod mapping;
mod plan;

use std::net::SocketAddr;

use sandd_control_client::netmap::RegionId;

pub(crate) use home::HomeChoice;
pub(crate) use mapping::Mapping;
pub(crate) use plan::Plan;

/// One STUN server with the address of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StunServer {
    pub(crate) region: RegionId,
    pub(crate) addr: SocketAddr,
}
