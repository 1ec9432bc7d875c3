//! The stories. Each needs root and the peers (`cargo xtask peers`), and says so where it has to be skipped.

mod baseline;
mod cli;
mod coordinator;
mod doctor;
mod embedded;
mod exec;
mod ground;
mod interop;
mod keys;
mod membership;
mod outage;
mod paths;
mod peer_relay;
mod stage;
mod wireguard;
