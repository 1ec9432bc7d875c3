//! The figures: how long from a start to the first answer, how long until the path is direct, what an idle node costs.
//!
//! One topology, one relay, a cold start each run, the peer already up, medians with p95.
//! Both contestants have a kernel interface, so that the same row of echo requests judges them.

mod contestant;
mod figures;
mod idle;
mod outage;
mod start;

pub use contestant::{Contestant, NodeOptions, PathSeen, Running};
pub use figures::{Summary, table};
pub use idle::{IdleCost, idle_daemon, idle_node};
pub use outage::{OutageFigures, outage};
pub use start::{Place, Scenario, StartFigures, StartPlan, start_figures};
