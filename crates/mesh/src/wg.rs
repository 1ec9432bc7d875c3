//! How we use boringtun, and which of its habits we wall off.
//!
//! [`message`] reads type and receiver index without decrypting; [`guard`] spends nothing on handshakes from
//! strangers; [`tunnel`] alone names the engine. What boringtun 0.7.1 leaves to its user is done here: padding,
//! random indices, a bounded queue before the first session, a handshake that is sent again when a path appears,
//! limits per source (docs/adr/0003).

pub(crate) mod guard;
pub(crate) mod message;
pub(crate) mod tunnel;
