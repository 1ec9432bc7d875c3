//! [`or_never`]: a branch of a `select!` that is there only sometimes.

use std::future::{Future, pending};

/// What `work` comes to; without it, nothing ever.
///
/// # Cancel safety
/// That of `work`.
pub(crate) async fn or_never<F: Future>(work: Option<F>) -> F::Output {
    match work {
        Some(work) => work.await,
        None => pending().await,
    }
}
