//! Every engine on the same topology, interleaved: what `cargo xtask bench throughput` runs.
//!
//! ```text
//!   a ── eth0 ──┐                                   a, b: namespaces with a tunnel end, iperf3 and ping each
//!              bridge in a namespace of its own     server: coordinator and relay, where an engine needs them
//!   b ── eth0 ──┘── server
//! ```
#![expect(
    clippy::missing_errors_doc,
    reason = "a failure here is a figure that is missing, with its text as the reason"
)]

mod cells;
pub mod crowd;
pub mod engine;
pub mod figures;
pub mod link;
pub mod load;
pub mod machine;
pub mod options;
pub mod report;
pub mod run;
pub mod stages;
pub mod usage;
