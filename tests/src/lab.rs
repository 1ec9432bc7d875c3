//! The lab: one internet in namespaces, and what runs in it.
//!
//! ```text
//!   a (192.168.1.2) ── site 1, router ── wan 203.0.113.11 ──┐
//!                                                          bridge in the namespace "world" ── server 203.0.113.1, .2
//!   b (192.168.2.2) ── site 2, router ── wan 203.0.113.12 ──┘
//! ```
//!
//! Nothing lies in the root namespace: a packet filter of the machine (a container runtime's, say) would cut bridges there.
//! [`story()`] opens a lab, runs a test in it, prints every log when the test fails, and takes the lab down.

mod ca;
mod coordinator;
mod derper;
mod eventually;
mod headscale;
mod hop;
mod mesh_peer;
mod nat;
mod netns;
mod process;
mod sandd;
mod site;
mod story;
mod tailscaled;
mod wireguard;
mod world;

pub mod probe;

pub use ca::{LabCa, LabCertificate};
pub use coordinator::Coordinator;
pub use derper::Derper;
pub use eventually::eventually;
pub use headscale::{Headscale, HeadscaleNode, HeadscaleOptions, KeyOptions, Relays, Timings, peers_directory};
pub use hop::Wire;
pub use mesh_peer::{MeshPeer, MeshPeerOptions};
pub use nat::{NatKind, Obstacle};
pub use netns::Namespace;
pub use process::{Process, ProcessUsage, Run, run};
pub use sandd::{Role, Sandd, SanddOptions, SanddPath, built_beside, forget_state, sandd_binary};
pub use site::{Families, Site, SiteOptions};
pub use story::{skip_reason, story};
pub use tailscaled::{Device, TailscalePath, Tailscaled, TailscaledOptions};
pub use wireguard::{WireGuard, WireGuardHost, WireGuardPeer, WireGuardProgram};
pub use world::{Host, Lab, LabOptions, SERVER_ADDRESS, SERVER_IPV6, SERVER_PRIVATE_ADDRESS, SERVER_SECOND_ADDRESS};
