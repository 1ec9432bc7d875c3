//! Runs commands on machines that you cannot dial: controller, daemon and their way to each other.
//!
//! A *daemon* dials out to its *controller* and keeps one WebSocket open; everything else travels over it:
//!
//! ```text
//! caller -> controller::exec -> controller::pending -> controller::connection
//!        -> wire::v1 -> transport::websocket -> transport::{direct, tunnel}
//!        -> daemon::connection -> daemon::dispatch -> daemon::exec -> sh -c COMMAND
//! ```
//!
//! and back by request id. Embedding either side takes a few lines: see [`Controller`] and [`Daemon`].

pub mod cli;
pub mod controller;
pub mod daemon;
pub mod escape;
pub mod local;
pub mod transport;
pub mod wire;

pub use controller::{CommandOutput, CommandRequest, Controller, ControllerConfig, ExecError};
pub use daemon::{Daemon, DaemonConfig};
