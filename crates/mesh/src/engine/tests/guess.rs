//! Port guessing between a host behind a NAT that gives every destination another port and one behind a usual router.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::*;
use crate::disco::Nat;

const PUBLIC: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const SOCKETS: usize = 256;
/// The socket that every node has.
const MAIN: usize = usize::MAX;

/// Address and port dependent, mapping and filter; the second host has port-restricted filtering.
#[derive(Default)]
pub(super) struct HardNat {
    /// External ports by socket: all of them go to the second host's address.
    mappings: BTreeMap<usize, u16>,
    /// Where the second host has sent something, so that its router lets answers in.
    let_in: BTreeSet<SocketAddr>,
    won: Option<usize>,
    guesses_seen: usize,
}

impl HardNat {
    fn external(&mut self, socket: usize) -> u16 {
        *self.mappings.entry(socket).or_insert_with(|| {
            let tx = new_tx();
            u16::from_be_bytes([tx[0], tx[1]]).max(1_024)
        })
    }
}

impl World {
    pub(super) fn carry_hard(&mut self, from: usize, to: SocketAddr, payload: &mut [u8]) {
        let (now, stride, easy) = (self.now, payload.len(), self.hosts[1].addr);
        let Some(nat) = &mut self.hard_nat else { return };
        if from == 0 && to == easy {
            let socket = nat.won.unwrap_or(MAIN);
            let source = SocketAddr::from((PUBLIC, nat.external(socket)));
            if nat.let_in.contains(&source) {
                let host = &mut self.hosts[1];
                self.direct_packets += 1;
                host.engine
                    .handle_udp(source, 0, payload, stride, now, &mut host.delivered);
            }
        } else if from == 1 {
            nat.let_in.insert(to);
            nat.guesses_seen += 1;
            let hit = nat
                .mappings
                .iter()
                .find(|(_, port)| SocketAddr::from((PUBLIC, **port)) == to);
            let Some(socket) = hit.map(|(socket, _)| *socket) else {
                return;
            };
            let host = &mut self.hosts[0];
            let known = socket == MAIN || nat.won == Some(socket);
            if known || host.engine.accepts_guess(easy, payload) {
                if socket != MAIN {
                    nat.won = Some(socket);
                }
                self.direct_packets += 1;
                host.engine
                    .handle_udp(easy, 0, payload, stride, now, &mut host.delivered);
            }
        }
    }

    /// Opens the sockets that the first host asks for.
    fn open_guesses(&mut self) {
        for order in std::mem::take(&mut self.hosts[0].guesses) {
            assert_eq!(order.to, self.hosts[1].addr);
            let nat = self.hard_nat.as_mut().unwrap();
            for socket in 0..SOCKETS {
                nat.external(socket);
            }
        }
    }
}

fn hard_world(nats: [Nat; 2]) -> World {
    let mut world = World::new(2);
    world.hard_nat = Some(HardNat::default());
    world.hosts[0].node.endpoints = vec![SocketAddr::from((PUBLIC, 5_000))];
    world.hosts[0].addr = SocketAddr::from((PUBLIC, 5_000));
    for (host, nat) in world.hosts.iter_mut().zip(nats) {
        host.engine.set_nat(nat);
    }
    world.meet();
    world
}

/// Traffic for so long; true when both sides are direct at its end.
fn talk(world: &mut World, seconds: u64) -> bool {
    for _ in 0..seconds * 20 {
        world.ping(0, 1);
        world.pass(Duration::from_millis(50));
        world.open_guesses();
    }
    let direct = |world: &mut World, a, b| matches!(world.ping(a, b), Some(PeerPath::Direct(_)));
    direct(world, 0, 1) && direct(world, 1, 0)
}

#[test]
fn a_hard_nat_and_a_usual_router_find_a_direct_path() {
    // 98 of 100 attempts meet; so do 15 of 20 but for one time in a million.
    let direct = (0..20)
        .filter(|_| talk(&mut hard_world([Nat::Hard, Nat::Easy]), 10))
        .count();
    assert!(direct >= 15, "{direct} of 20");
}

#[test]
fn it_works_without_knowing_who_is_behind_what() {
    let direct = (0..10)
        .filter(|_| talk(&mut hard_world([Nat::Unknown, Nat::Unknown]), 10))
        .count();
    assert!(direct >= 6, "{direct} of 10");
}

#[test]
fn the_path_is_kept_without_traffic() {
    let mut world = hard_world([Nat::Hard, Nat::Easy]);
    while !talk(&mut world, 10) {
        world = hard_world([Nat::Hard, Nat::Easy]);
    }
    world.pass(Duration::from_secs(600));
    let before = world.direct_packets;
    assert!(before > 0);
    assert!(matches!(world.ping(0, 1), Some(PeerPath::Direct(_))));
}

#[test]
fn nobody_guesses_where_it_is_not_wanted_or_hopeless() {
    for (nats, allowed) in [
        ([Nat::Hard, Nat::Easy], [false, true]),
        ([Nat::Hard, Nat::Easy], [true, false]),
        ([Nat::Hard, Nat::Hard], [true, true]),
    ] {
        let mut world = hard_world(nats);
        for (host, allowed) in world.hosts.iter_mut().zip(allowed) {
            host.engine.set_port_guessing(allowed);
        }
        assert!(!talk(&mut world, 10), "{nats:?} {allowed:?}");
        // Nothing but ordinary pings of the one address that was told.
        assert_eq!(world.hard_nat.unwrap().let_in.len(), 1, "{nats:?} {allowed:?}");
    }
}

#[test]
fn an_attempt_is_bounded_and_followed_by_a_rest() {
    let mut world = hard_world([Nat::Hard, Nat::Easy]);
    // The sockets are never opened and the main one is behind a port that nobody guesses: the guesses meet nothing.
    world.hard_nat.as_mut().unwrap().mappings.insert(MAIN, 1_023);
    for _ in 0..1_200 {
        world.ping(0, 1);
        world.pass(Duration::from_millis(250));
    }
    assert_eq!(world.hosts[0].guesses.len(), 1, "one attempt in five minutes");
    let tried = world.hard_nat.unwrap().let_in.len();
    assert!((1_000..=1_025).contains(&tried), "{tried} ports");
}

#[test]
fn a_guess_against_a_third_party_is_ignored() {
    let mut world = hard_world([Nat::Hard, Nat::Easy]);
    world.ping(0, 1);
    let (id, now) = (world.hosts[0].node.id, world.now);
    world.hosts[1]
        .engine
        .handle_guess(id, Ipv4Addr::new(203, 0, 113, 77), now);
    world.pass(Duration::from_millis(400));
    let nat = world.hard_nat.unwrap();
    assert!(
        nat.let_in.iter().all(|to| to.ip() == IpAddr::V4(PUBLIC)),
        "{:?}",
        nat.let_in
    );
}
