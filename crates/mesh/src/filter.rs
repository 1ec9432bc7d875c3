//! Who may send what: inbound rules of the coordinator, default deny, and replies to flows we started (S-12).
//!
//! [`PacketFilter`] judges each packet that a tunnel opened, after its source was found to belong to the peer, and
//! notes each packet that leaves. No rules, no map yet, a jailed peer: only replies pass. Stricter than stock clients
//! in three points: a TCP packet without SYN, an echo reply and an ICMP error need a rule or a flow we know.

mod flows;
mod packet_filter;

pub use packet_filter::{PacketFilter, PeerContext, Verdict};

#[cfg(test)]
mod tests;
