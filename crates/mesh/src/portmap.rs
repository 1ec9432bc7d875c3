//! Asks the router for a port of its own: whoever sends there reaches us, whatever our NAT thinks of strangers.
//!
//! ```text
//! Portmapper ── NAT-PMP (RFC 6886), PCP (RFC 6887) ──▶ gateway:5351
//!            ── SSDP, then SOAP over HTTP (UPnP IGD) ─▶ gateway:1900, and where it says
//! ```
//!
//! [`machine`] decides what is asked when, [`nat_pmp`], [`pcp`], [`ssdp`], [`igd`] and [`http`] know the bytes, [`xml`] reads what
//! UPnP devices call XML. None touches a socket or a clock; `io/portmap.rs` does. Only the gateway is believed, and only
//! answers to what was asked.

pub(crate) mod http;
pub(crate) mod igd;
pub(crate) mod machine;
pub(crate) mod nat_pmp;
pub(crate) mod pcp;
pub(crate) mod ssdp;
pub(crate) mod xml;

use std::net::Ipv4Addr;

/// Where a mapping is wanted: from this gateway to our own address and port behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) gateway: Ipv4Addr,
    pub(crate) own: Ipv4Addr,
    pub(crate) port: u16,
}

impl Place {
    /// Nothing unless both are private: a public machine needs no mapping, and its gateway none of our packets.
    pub(crate) fn new(gateway: Ipv4Addr, own: Ipv4Addr, port: u16) -> Option<Self> {
        (gateway.is_private() && own.is_private()).then_some(Self { gateway, own, port })
    }
}

/// Asked for; the gateway may grant another time.
pub(crate) const LIFETIME: u32 = 7_200;
/// Ports below are nobody's to give us (S-18).
pub(crate) const LEAST_PORT: u16 = 1_024;

#[cfg(test)]
mod tests;
