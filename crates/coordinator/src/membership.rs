//! Who belongs to the mesh: nodes, users, pre-auth keys, logins that wait for a person, addresses, names and expiry.
//!
//! Pure: requests and `now` in, answers out. It keeps a revision per node, from which [`crate::map`] finds what peers
//! must be told, and a list of what has changed since it was last saved ([`Membership::take_unsaved`]). Registration
//! follows Headscale rule by rule, with Headscale's own texts.

mod address;
mod key;
mod login;
mod name;
mod plain;
mod record;
mod register;
mod roster;
#[cfg(test)]
mod tests;
mod update;

pub(crate) use address::{RANGE_V4, RANGE_V6, Slot};
pub use key::{KeyError, KeyId, KeyOptions, KeyStatus};
pub(crate) use key::{KeyRecord, MAX_KEY_LENGTH, check_tag};
pub use login::{LoginError, LoginRequest};
pub(crate) use plain::PlainPeer;
pub use plain::{WireGuardPeers, WireGuardPeersError};
pub use record::{NodeId, NodeStatus, UserId};
pub(crate) use record::{NodeRecord, TAGGED_USER, User};
pub(crate) use register::Registration;
#[cfg(test)]
pub(crate) use roster::Random;
pub(crate) use roster::{Entry, Membership, Now, Saved, Settings, Unsaved};
pub(crate) use update::MapRefusal;
