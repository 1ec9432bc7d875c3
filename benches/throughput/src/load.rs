//! The loads: iperf3 and ping, started on the hosts of a lab, their answers read.

pub mod iperf;
pub mod ping;
