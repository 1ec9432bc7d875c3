//! Benches of single pieces: `cargo bench -p sandd-benches`. Figures with their commands are in docs/BENCHMARKS.md.
