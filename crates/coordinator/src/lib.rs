//! A small Headscale-compatible coordinator, in-process or as `sandd coordinator`, with a DERP relay and STUN inside.
//!
//! It serves our own nodes and real Tailscale clients: keys, registration, the map stream, names, a policy, the relay.
//! [`Coordinator`] is the whole API; its documentation has an example.
//!
//! ```text
//!                 ┌───────────────────────── io: sockets, clocks, the state file ─────────────────────────┐
//! node ── TCP ──▶ │ listener ▶ http ▶ node (Noise, HTTP/2) ▶ register, map_stream │ derp ▶ relay │ stun   │
//!                 └───────────────────────────────┬──────────────────────────────────────────────────────┘
//!                                    membership ◀─┴─▶ map ◀── policy          pure: bytes and time in, answers out
//! ```
//!
//! * `membership`: who belongs to the mesh; `policy`: who may talk to whom; `map`: what each node is told.
//! * [`hooks`]: how a test makes it slow, silent or dishonest.
//!
//! A change is told to whom it concerns at once, not on a timer: a node that joins is with its peers within
//! milliseconds.
//!
//! # When you outgrow it
//!
//! It is meant for one mesh of up to some hundred nodes under one operator. For subnet routes and exit nodes, SSH rules,
//! grants, OpenID Connect, DNS servers of your own, several relays, a database server, a REST API, or a web interface,
//! run [Headscale](https://headscale.net); nodes need nothing but its URL and a new key. What is refused here and allowed
//! there is said with each error.
//!
//! Where it departs from Headscale:
//!
//! * A peer is shown to others when it has sent its first map request, not at its registration, because nobody can
//!   reach it earlier.
//! * A removed node's stream ends, so that it learns of its removal with its next request.
//! * A map request without a description leaves the last one in place; a logout with an unknown node key does not
//!   register it; a revoked key says `authkey revoked`.
//! * An unsupported client is told so by an error frame.
//! * Changes of endpoints, relay and presence go out as patches.

pub mod error;
pub mod hooks;

mod coordinator;
mod io;
mod limits;
mod map;
mod membership;
mod policy;

pub use coordinator::{Coordinator, CoordinatorBuilder};
pub use error::{StartError, StoreError};
pub use hooks::{CannedAnswer, Hooks, MapLie};
pub use limits::Limits;
pub use membership::{
    KeyError, KeyId, KeyOptions, KeyStatus, LoginError, LoginRequest, NodeId, NodeStatus, UserId, WireGuardPeers,
    WireGuardPeersError,
};
pub use policy::{Policy, PolicyError};
