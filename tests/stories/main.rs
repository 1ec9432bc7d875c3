//! The stories. Each needs root and the peers (`cargo xtask peers`), and says so where it has to be skipped.

mod baseline;
