//! The coordinator's JSON, exactly as it is on the wire, in both directions: the client writes requests and reads
//! responses, `crates/coordinator` the other way round.
//!
//! Rules of this JSON (Go writes it): every list and map may be `null`, absent or empty; unknown fields are ignored;
//! numbers stand as text where they are map keys; a zero key or a time in year 1 means "absent"; any string may hold
//! `\u0026` and kin, so nothing here borrows. One peer, rule or endpoint that cannot be read costs only itself
//! ([`lenient`]). What the fields mean is decided in [`crate::netmap`]; here only their shape is.

mod derp_map;
mod dns;
mod filter;
mod hostinfo;
mod lenient;
mod map;
mod node;
mod register;
mod time;

pub use derp_map::{DerpHomeParams, DerpMap, DerpNode, DerpRegion};
pub use dns::{DnsConfig, DnsRecord, Resolver};
pub use filter::{CapGrant, FilterRule, NetPortRange, PortRange};
pub use hostinfo::{Hostinfo, NetInfo, Service};
pub use map::{Debug, DisplayMessage, MapRequest, MapResponse, PingRequest};
pub use node::{CapMap, Node, PeerChange, UserProfile};
pub use register::{Login, RegisterAuth, RegisterRequest, RegisterResponse, ServerKeys, User};
pub use time::{format_time, parse_time};

#[cfg(test)]
mod tests;
