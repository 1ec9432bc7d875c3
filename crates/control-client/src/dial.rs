//! TCP, TLS and the HTTP/1.1 upgrade: how every connection to a coordinator or a relay begins.
//!
//! ```text
//! Dialer::dial ──▶ Stream (plain or TLS) ──▶ upgrade ──▶ Upgraded ──▶ Noise (ts2021) or DERP
//!   addresses raced, 10 s in all             bytes behind the 101 head are replayed first
//! ```
//!
//! Only HTTP/1.1 is ever negotiated, because both protocols take the connection over by `Upgrade`. Certificates are
//! always verified: by name against the system's and given roots, or by the hash of the leaf where a relay says so.

mod dialer;
mod error;
mod http1;
mod pin;
mod proxy;
mod stream;
mod tls;

pub use dialer::{DialTarget, Dialer};
pub use error::DialError;
pub(crate) use http1::{Http1, printable};
pub use http1::{ResponseHead, UpgradeResponse, request, upgrade};
pub use proxy::Proxy;
pub use stream::{Stream, Upgraded};
pub use tls::TlsMode;

#[cfg(test)]
mod tests;
