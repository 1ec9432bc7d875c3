//! The NAT matrix: which kind of path two nodes find behind every pair of routers, against what the routers allow.
//!
//! [`cases()`] lists the pairs, [`expected`] says from the properties of the routers what must come of each, [`run_cell`]
//! plays one in a lab of its own, [`run_matrix`] all of them, a few at a time. docs/natlab.md shows how to run it.

mod cases;
mod cell;
mod faults;
mod matrix;
mod terrain;
mod truth;

pub use cases::cases;
pub use cell::{Cell, Outcome, Peers, run_cell};
pub use faults::{FaultLine, FaultOptions, fault_names, faults_table, run_faults};
pub use matrix::{MatrixOptions, Share, matrix_table, run_matrix};
pub use terrain::{Arrangement, Case, Hindrance, Side};
pub use truth::{Expected, Kind, Via, expected};
