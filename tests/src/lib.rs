//! End-to-end tests: real binaries, real peers, real NATs.
//!
//! [`lab`] is their ground: network namespaces with routers between them, a Headscale and tailscaled as they are
//! shipped, and the `sandd` under test. Each test is one story that runs in a lab of its own, so they run side by side.
//! docs/TESTING.md says how to run it and how figures are taken.

#![expect(
    clippy::missing_errors_doc,
    reason = "a function of the lab fails when the machine refuses it; the error names the command and its output"
)]

pub mod lab;
pub mod measure;
