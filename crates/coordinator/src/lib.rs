//! A small Headscale-compatible coordinator.
