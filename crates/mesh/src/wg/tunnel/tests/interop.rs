//! Our tunnel with upstream boringtun at the other end, in both roles.

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};

use super::super::*;
use super::world::{End, end, identity, plain};
use crate::wg::StaticSecret;
use crate::wg::guard::{Admission, HandshakeGuard};

/// An IPv4 packet, since upstream looks into what it opens.
fn packet(number: u8) -> Vec<u8> {
    let mut packet = vec![0u8; 60];
    packet[0] = 0x45;
    packet[3] = 60;
    packet[12..20].copy_from_slice(&[100, 64, 0, 1, 100, 64, 0, 2]);
    packet[30] = number;
    packet
}

struct Pair {
    ours: End,
    theirs: Tunn,
    now: Instant,
}

fn pair(key: Option<[u8; 32]>, limiter: Option<Arc<RateLimiter>>, secret: StaticSecret) -> Pair {
    let now = Instant::now();
    let own = identity(now);
    let config = PeerConfig {
        preshared: key.map(PresharedKey::new),
        ..plain(&PublicKey::from(&secret))
    };
    let theirs = Tunn::new(secret, *own.public(), key, None, 5, limiter);
    let ours = end(&own, config, now);
    Pair { ours, theirs, now }
}

impl Pair {
    /// What upstream answers to a datagram.
    fn at_theirs(&mut self, datagram: &[u8]) -> Answer {
        let mut buffer = vec![0u8; 2_048];
        match self
            .theirs
            .decapsulate(Some([192, 0, 2, 1].into()), datagram, &mut buffer)
        {
            TunnResult::WriteToNetwork(message) => Answer::Send(message.to_vec()),
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Answer::Packet(packet.to_vec())
            }
            TunnResult::Done => Answer::Nothing,
            TunnResult::Err(error) => panic!("{error:?}"),
        }
    }

    fn at_ours(&mut self, datagram: &[u8]) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        let tunnel = &mut self.ours.tunnel;
        match Packet::parse(datagram) {
            Ok(Packet::HandshakeInit(init)) => {
                let initiator = self.ours.identity.read_initiation(&init).unwrap();
                tunnel.respond(&initiator, self.now, &mut out).unwrap();
            }
            Ok(_) => tunnel.handle_answer(datagram, self.now, &mut out).unwrap(),
            Err(_) => {
                let mut slot = datagram.to_vec();
                let stride = slot.len();
                assert_eq!(tunnel.open_slots(&mut slot, stride, self.now, &mut out), 1);
                if slot.len() > HEADER + TAG {
                    self.ours.opened.push(slot[HEADER..slot.len() - TAG].to_vec());
                }
            }
        }
        tunnel.settle(&mut self.ours.table, ());
        out
    }

    fn exchange(&mut self) {
        for number in 0..200 {
            let mut slot = [&[0; HEADER][..], &packet(number), &[0; 4 + TAG]].concat();
            let (stride, now) = (slot.len(), self.now);
            assert!(self.ours.tunnel.ready(now));
            self.ours.tunnel.seal_slots(&mut slot, stride, now, &mut Vec::new());
            assert_eq!(self.at_theirs(&slot), Answer::Packet(packet(number)));
            let mut buffer = vec![0u8; 2_048];
            let TunnResult::WriteToNetwork(message) = self.theirs.encapsulate(&packet(number), &mut buffer) else {
                panic!();
            };
            let message = message.to_vec();
            self.at_ours(&message);
            assert_eq!(self.ours.opened.last().unwrap(), &packet(number));
        }
    }

    fn their_initiation(&mut self) -> Vec<u8> {
        let mut buffer = vec![0u8; 2_048];
        let TunnResult::WriteToNetwork(message) = self.theirs.format_handshake_initiation(&mut buffer, true) else {
            panic!();
        };
        message.to_vec()
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Send(Vec<u8>),
    Packet(Vec<u8>),
    Nothing,
}

impl Answer {
    fn message(self) -> Vec<u8> {
        let Self::Send(message) = self else { panic!("{self:?}") };
        message
    }
}

#[test]
fn we_call_and_upstream_answers() {
    for key in [None, Some([9; 32])] {
        let mut pair = pair(key, None, StaticSecret::random());
        let initiation = pair.ours.tunnel.initiate(pair.now).unwrap();
        let response = pair.at_theirs(&initiation).message();
        let keepalive = pair.at_ours(&response).pop().unwrap();
        assert_eq!(pair.at_theirs(&keepalive), Answer::Nothing);
        pair.exchange();
    }
}

#[test]
fn upstream_calls_and_we_answer() {
    for key in [None, Some([9; 32])] {
        let mut pair = pair(key, None, StaticSecret::random());
        for _ in 0..3 {
            let initiation = pair.their_initiation();
            let response = pair.at_ours(&initiation).pop().unwrap();
            let keepalive = pair.at_theirs(&response).message();
            assert!(pair.at_ours(&keepalive).is_empty());
            pair.exchange();
        }
    }
}

#[test]
fn upstream_under_load_gives_us_a_cookie_and_we_come_again() {
    let secret = StaticSecret::random();
    let limiter = Arc::new(RateLimiter::new(&PublicKey::from(&secret), 0));
    let mut pair = pair(None, Some(limiter), secret);
    let initiation = pair.ours.tunnel.initiate(pair.now).unwrap();
    let cookie = pair.at_theirs(&initiation).message();
    assert_eq!(cookie.len(), 64);
    let again = pair.at_ours(&cookie).pop().expect("at once, not after five seconds");
    let response = pair.at_theirs(&again).message();
    let keepalive = pair.at_ours(&response).pop().unwrap();
    assert_eq!(pair.at_theirs(&keepalive), Answer::Nothing);
    pair.exchange();
}

#[test]
fn upstream_takes_our_cookie() {
    let mut pair = pair(None, None, StaticSecret::random());
    let mut guard = HandshakeGuard::new(pair.ours.identity.public());
    let source = ([192, 0, 2, 1], 7).into();
    let mut cookie = None;
    for _ in 0..200 {
        let initiation = pair.their_initiation();
        if let Admission::Cookie(reply) = guard.admit((), source, &initiation, pair.now) {
            cookie = Some(reply);
        }
    }
    assert_eq!(pair.at_theirs(&cookie.expect("load")), Answer::Nothing);
    let initiation = pair.their_initiation();
    // This source has used up its own limit; a second later it may come.
    pair.now += Duration::from_millis(900);
    assert_eq!(guard.admit((), source, &initiation, pair.now), Admission::Admit);
    let response = pair.at_ours(&initiation).pop().unwrap();
    let keepalive = pair.at_theirs(&response).message();
    assert!(pair.at_ours(&keepalive).is_empty());
    pair.exchange();
}
