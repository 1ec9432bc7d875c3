//! Joins a Tailscale-compatible coordinator (Headscale, or the one in `crates/coordinator`) and follows its network map.
//!
//! ```text
//!                      ┌── cached map: the first event, before any connection
//! ControlClient::start ┤
//!                      └─▶ TCP, TLS ─▶ [/key, if unknown] ─▶ upgrade + Noise (ts2021) ─▶ HTTP/2
//!                                        │
//!                    unknown, expired ◀──┴──▶ register: auth key, or a login that a person approves
//!                                        ▼
//!                          map stream: first the whole map, then deltas ─▶ ControlEvent::Netmap
//!                          updates: endpoints, home region, routes        ◀─ ControlClient::set_…
//! ```
//!
//! Protocol logic is pure and separately usable: [`noise`], [`wire`], [`map_stream`], [`netmap`]. Sockets and time are in
//! `io` and [`dial`]. Every error of [`ControlError`] says what happened and what to do, and whether trying again helps.

pub mod dial;
pub mod keys;
pub mod map_stream;
pub mod netmap;
pub mod noise;
pub mod wire;

mod announce;
mod backoff;
mod client;
mod config;
mod error;
mod event;
mod io;
mod registration;

pub use client::ControlClient;
pub use config::{AuthKey, ControlConfig, ControlUrl, ControlUrlError, EndpointKind};
pub use error::{ControlError, KeyRejection};
pub use event::{ControlEvent, ControlState};
pub use io::{FileStore, MemoryStore, NodeState, StateStore, StoreError};
pub use wire::{Hostinfo, NetInfo};
