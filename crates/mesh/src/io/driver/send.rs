//! Carries the engine's queue to sockets and relays: in order for each of them, and a full one holds up no other.

use std::io;
use std::net::SocketAddr;

use sandd_control_client::keys::NodePublicKey;
use sandd_control_client::netmap::RegionId;

use super::unsent::Unsent;
use crate::engine::{SendBatch, SendQueue, Underlay};
use crate::io::derp::DerpPool;
use crate::io::udp::UdpSockets;

/// Where batches leave.
pub(super) trait Exit {
    /// To a UDP address. True when all of the batch has left, false when its socket takes no more for now.
    fn datagrams(&mut self, to: SocketAddr, batch: &mut SendBatch) -> io::Result<bool>;
    /// To a node behind a relay, whose queue takes it or drops it.
    fn relayed(&mut self, region: RegionId, key: &NodePublicKey, batch: &SendBatch);
}

/// The real ones.
pub(super) struct Wire<'a> {
    pub(super) udp: &'a mut UdpSockets,
    pub(super) derp: &'a mut DerpPool,
}

impl Exit for Wire<'_> {
    fn datagrams(&mut self, to: SocketAddr, batch: &mut SendBatch) -> io::Result<bool> {
        self.udp.try_send(to, batch)
    }

    fn relayed(&mut self, region: RegionId, key: &NodePublicKey, batch: &SendBatch) {
        self.derp.send_slots(region, key, batch.contents(), batch.stride());
    }
}

/// Sends what is ready. False when a socket is full and something waits for it.
pub(super) fn send(queue: &mut SendQueue, exit: &mut impl Exit, unsent: &mut Vec<Unsent>) -> bool {
    let mut full = [false; 2];
    for (v6, full) in [false, true].into_iter().zip(&mut full) {
        while let Some((to, batch)) = queue.stalled(v6) {
            *full = !leaves(to, batch, exit, unsent);
            if *full {
                break;
            }
            queue.pop_stalled(v6);
        }
    }
    while let Some(batch) = queue.front() {
        match batch.to() {
            Underlay::Udp(to) => {
                let full = &mut full[usize::from(to.is_ipv6())];
                *full = *full || !leaves(to, batch, exit, unsent);
                if *full {
                    queue.stall();
                    continue;
                }
            }
            Underlay::PeerRelay(via) => {
                batch.wrap(Underlay::Udp(via.addr), &via.wireguard_header());
                continue;
            }
            Underlay::Derp { region, key } => exit.relayed(region, &key, batch),
        }
        queue.pop();
    }
    full == [false; 2]
}

/// False when the socket takes no more. A batch that it refuses is done with, too.
fn leaves(to: SocketAddr, batch: &mut SendBatch, exit: &mut impl Exit, unsent: &mut Vec<Unsent>) -> bool {
    exit.datagrams(to, batch).unwrap_or_else(|error| {
        let datagram = batch.stride();
        unsent.push(Unsent { to, datagram, error });
        true
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sockets of which one or both are full, and a relay.
    #[derive(Default)]
    struct Fake {
        full: [bool; 2],
        left: Vec<(Option<SocketAddr>, Vec<u8>)>,
    }

    impl Exit for Fake {
        fn datagrams(&mut self, to: SocketAddr, batch: &mut SendBatch) -> io::Result<bool> {
            if to.port() == 0 {
                return Err(io::ErrorKind::NetworkUnreachable.into());
            }
            if self.full[usize::from(to.is_ipv6())] {
                return Ok(false);
            }
            self.left.push((Some(to), batch.contents().to_vec()));
            Ok(true)
        }

        fn relayed(&mut self, _: RegionId, _: &NodePublicKey, batch: &SendBatch) {
            self.left.push((None, batch.contents().to_vec()));
        }
    }

    fn addr(v6: bool, port: u16) -> SocketAddr {
        let ip = if v6 { "2001:db8::1" } else { "192.0.2.1" };
        SocketAddr::new(ip.parse().unwrap(), port)
    }

    fn relay() -> Underlay {
        Underlay::Derp {
            region: RegionId(1),
            key: NodePublicKey::from_bytes([1; 32]),
        }
    }

    #[test]
    fn a_full_socket_holds_up_neither_the_other_nor_the_relay() {
        for v6 in [false, true] {
            let mut queue = SendQueue::default();
            let mut exit = Fake::default();
            exit.full[usize::from(v6)] = true;
            let mut unsent = Vec::new();
            for number in 0..4u8 {
                queue.push(Underlay::Udp(addr(v6, 7)), &[number; 40]);
                queue.push(Underlay::Udp(addr(!v6, 7)), &[number; 50]);
                queue.push(relay(), &[number; 60]);
                assert!(!send(&mut queue, &mut exit, &mut unsent), "something waits");
            }
            let of = |exit: &Fake, to: Option<SocketAddr>| {
                let bytes = exit.left.iter().filter(|(at, _)| *at == to);
                bytes.map(|(_, bytes)| bytes[0]).collect::<Vec<_>>()
            };
            assert_eq!(of(&exit, Some(addr(!v6, 7))), [0, 1, 2, 3]);
            assert_eq!(of(&exit, None), [0, 1, 2, 3]);
            assert!(of(&exit, Some(addr(v6, 7))).is_empty());

            queue.push(Underlay::Udp(addr(v6, 7)), &[4; 40]);
            exit.full = [false; 2];
            assert!(send(&mut queue, &mut exit, &mut unsent));
            assert_eq!(of(&exit, Some(addr(v6, 7))), [0, 1, 2, 3, 4], "in order");
            assert!(queue.is_empty() && unsent.is_empty());
        }
    }

    #[test]
    fn what_the_system_refuses_is_told_and_the_rest_leaves() {
        let mut queue = SendQueue::default();
        let mut exit = Fake::default();
        let mut unsent = Vec::new();
        queue.push(Underlay::Udp(addr(false, 0)), &[1; 40]);
        queue.push(Underlay::Udp(addr(false, 7)), &[2; 40]);
        assert!(send(&mut queue, &mut exit, &mut unsent));
        assert_eq!(exit.left, [(Some(addr(false, 7)), vec![2; 40])]);
        assert_eq!((unsent[0].to, unsent[0].datagram), (addr(false, 0), 40));
    }
}
