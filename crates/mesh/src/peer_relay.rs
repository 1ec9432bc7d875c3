//! UDP relays among peers, for pairs that cannot reach each other straight: a node with a reachable UDP port carries
//! what two others send each other, still sealed. Between the direct path and the relay of a region.
//!
//! ```text
//!  client A                     server                      client B
//!    | allocate (08, by DERP) -->|                             |
//!    |<-- endpoint: VNI, addresses (09)                        |
//!    | meet me there (07, by DERP) --------------------------->|
//!    | bind (04) -> challenge (05) -> answer (06)   the same from B
//!    |<========= Geneve: ping, pong, WireGuard ===============>|
//! ```
//!
//! [`server`] is the server's machine, [`client`] that of one peer reached this way, [`grant`] says who may. All are
//! pure; `engine/relayed.rs` connects the client and `io/peer_relay.rs` gives the server its sockets. The messages are
//! those of Tailscale's `net/udprelay` and `wgengine/magicsock/relaymanager.go`.

pub(crate) mod client;
pub(crate) mod grant;
pub(crate) mod server;

use std::net::{IpAddr, SocketAddr};

use sandd_control_client::keys::DiscoPublicKey;

use crate::disco::{GeneveHeader, GeneveProtocol};

/// Virtual network identifiers have 24 bits, and 0 is none.
const MAX_VNI: u32 = (1 << 24) - 1;

/// A way over a peer's relay: where its server listens, and the number that stands for the pair there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Via {
    pub(crate) addr: SocketAddr,
    pub(crate) vni: u32,
}

impl Via {
    /// The header of WireGuard packets on this way.
    pub(crate) fn wireguard_header(self) -> [u8; GeneveHeader::LEN] {
        self.header(GeneveProtocol::WireGuard, false)
    }

    /// The header of disco packets; `control` for those that are meant for the server.
    pub(crate) fn disco_header(self, control: bool) -> [u8; GeneveHeader::LEN] {
        self.header(GeneveProtocol::Disco, control)
    }

    fn header(self, protocol: GeneveProtocol, control: bool) -> [u8; GeneveHeader::LEN] {
        let vni = self.vni;
        GeneveHeader { control, protocol, vni }.encode()
    }
}

/// Packets of one Geneve header, one after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GeneveRun {
    /// The number in it, and where they came from.
    pub(crate) via: Via,
    /// They are the server's business, or the server's word.
    pub(crate) control: bool,
    /// Bytes of all of them.
    pub(crate) len: usize,
}

/// The bytes in front that carry the same Geneve header.
pub(crate) fn geneve_run(from: SocketAddr, datagrams: &[u8], stride: usize) -> Option<GeneveRun> {
    let (header, _) = GeneveHeader::parse(&datagrams[..stride.min(datagrams.len())])?;
    let bytes = header.encode();
    let alike = datagrams
        .chunks(stride)
        .take_while(|datagram| datagram.starts_with(&bytes));
    Some(GeneveRun {
        via: Via {
            addr: from,
            vni: header.vni,
        },
        control: header.control,
        len: alike.map(<[u8]>::len).sum(),
    })
}

/// Two keys in the order in which they name an endpoint.
fn sorted_pair(a: DiscoPublicKey, b: DiscoPublicKey) -> [DiscoPublicKey; 2] {
    if a <= b { [a, b] } else { [b, a] }
}

/// A server may listen there.
fn plausible(addr: SocketAddr) -> bool {
    let usable = match addr.ip() {
        IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_unicast_link_local(),
    };
    usable && addr.port() != 0
}
