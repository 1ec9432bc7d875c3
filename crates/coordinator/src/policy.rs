//! Who may talk to whom: everybody, or what a policy file says.
//!
//! [`Policy`] is read once, checked in full, and refused with a sentence when anything in it is not understood: a rule
//! that is silently left out would be a hole or a riddle. [`Policy::compile`] turns it into [`Compiled`] for the members
//! of the moment, from which [`crate::map`] takes each node's packet rules and the peers that it may see. What is not
//! supported here (`grants`, `ssh`, `autoApprovers`, `nodeAttrs`, routes) is Headscale's.

mod compile;
mod document;
mod selector;
#[cfg(test)]
mod tests;

pub(crate) use compile::{Compiled, Subject};
pub use document::{Policy, PolicyError};
