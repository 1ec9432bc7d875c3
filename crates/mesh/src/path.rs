//! How a peer's path is found, kept and lost.
//!
//! **Relay first.** A peer can always be reached over its home region's relay, so the first packet goes there at
//! once. **Discovery** then asks for more: a disco ping to every address the peer might have, and a *call-me-maybe*
//! over the relay that lists ours, so that the peer pings back while our NAT still holds the hole open. It is repeated
//! after 250 ms, 500 ms, 1 s and 2 s, then every 5 s while there is traffic: a lost packet costs a quarter second.
//! **Triggered checks** halve the time for the other side: whoever pings us from an address we do not use is pinged
//! back at once, and a call-me-maybe is answered by pings and by one of our own.
//!
//! **Direct** begins with the first pong, or with data that opened and came from that address. The path in use is
//! pinged every second under traffic, every three seconds for 45 s after it, then left alone. **Suspect** is a direct
//! path that owes an answer: everything is sent twice, there and over the relay, while the address is probed every
//! 200 ms; three unanswered probes end it and the relay carries on alone. So a dead path costs no more than the
//! moment until suspicion. What is doubled is limited: the relay is not flooded on a mere suspicion. A path that was quiet
//! for long starts as suspect, because nobody knows what its NAT did, and so does every path when our own network changes.
//! **Data decides.** A path that answers pings and swallows WireGuard is found out by a question inside the tunnel and left
//! alone for a minute.
//!
//! [`candidate`] ranks addresses, [`agent`] is the machine, [`mtu`] finds how large a packet the path carries. None
//! touches a socket or a clock.

pub(crate) mod agent;
pub(crate) mod candidate;
pub(crate) mod mtu;
