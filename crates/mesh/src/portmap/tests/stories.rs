//! The machine with gateways of every kind, and invented time.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use crate::portmap::igd::{HttpPlace, Response, Talk};
use crate::portmap::machine::{Action, Portmapper, Wish};
use crate::portmap::{Place, nat_pmp, ssdp};

const NONCE: [u8; 12] = [0x4e; 12];
const PORT: u16 = 41_641;

/// What a gateway says to a map request.
#[derive(Clone, Copy)]
enum Answer {
    Nothing,
    Refuse,
    Grant { external: u16, lifetime: u32, ip: [u8; 4] },
}

struct Gateway {
    nat_pmp: Option<Answer>,
    pcp: Option<Answer>,
    igd: bool,
    epoch: u32,
}

const GRANT: Answer = Answer::Grant {
    external: 5_555,
    lifetime: 7_200,
    ip: [203, 0, 113, 7],
};

struct Story {
    mapper: Portmapper,
    gateway: Gateway,
    now: Instant,
    sent: Vec<Vec<u8>>,
    wishes: Vec<Wish>,
    told: Vec<Option<String>>,
    deleted: usize,
}

impl Story {
    fn new(nat_pmp: Option<Answer>, pcp: Option<Answer>, igd: bool) -> Self {
        Self {
            mapper: Portmapper::new(NONCE),
            gateway: Gateway {
                nat_pmp,
                pcp,
                igd,
                epoch: 1_000,
            },
            now: Instant::now(),
            sent: Vec::new(),
            wishes: Vec::new(),
            told: Vec::new(),
            deleted: 0,
        }
    }

    fn begin(&mut self) {
        let place = Place::new([192, 168, 1, 1].into(), [192, 168, 1, 2].into(), PORT);
        self.mapper.set_place(place, self.now);
        self.run();
    }

    /// Carries out what the machine wants; the gateway answers at once.
    fn run(&mut self) {
        while let Some(action) = self.mapper.poll_action() {
            match action {
                Action::Send(datagram) => {
                    if let Some(answer) = self.gateway.answer(&datagram) {
                        self.mapper.handle_datagram(&answer, self.now);
                    }
                    self.sent.push(datagram);
                }
                Action::Search if self.gateway.igd => {
                    let description = HttpPlace::parse("http://192.168.1.1:5000/d.xml").unwrap();
                    let found = ssdp::Found {
                        description,
                        second_version: false,
                    };
                    self.mapper.handle_device(found, self.now);
                }
                Action::Search => {}
                Action::Talk(wish) => self.wishes.push(wish),
                Action::Delete(_) => self.deleted += 1,
                Action::Changed(mapped) => self.told.push(mapped.map(|addr: SocketAddrV4| addr.to_string())),
            }
        }
    }

    fn after(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        let mut turns = 0;
        while let Some(at) = self.mapper.poll_timeout().filter(|at| *at <= end) {
            turns += 1;
            assert!(turns < 10_000, "it never rests");
            self.gateway.epoch += u32::try_from(at.saturating_duration_since(self.now).as_secs()).unwrap();
            self.now = self.now.max(at);
            self.mapper.handle_timeout(self.now);
            self.run();
        }
        self.gateway.epoch += u32::try_from((end - self.now).as_secs()).unwrap();
        self.now = end;
    }

    /// Datagrams that ask for a mapping, sent since the last call.
    fn requests(&mut self) -> Vec<Vec<u8>> {
        let maps = |datagram: &Vec<u8>| datagram.len() > 2 && datagram[1] == 1;
        self.sent.drain(..).filter(maps).collect()
    }
}

impl Gateway {
    fn answer(&self, request: &[u8]) -> Option<Vec<u8>> {
        let epoch = self.epoch.to_be_bytes();
        let (kind, is_pcp) = if request[0] == 2 {
            (self.pcp?, true)
        } else {
            (self.nat_pmp?, false)
        };
        let maps = request[1] == 1;
        let mut answer = request.to_vec();
        answer[1] |= 0x80;
        let ip = match kind {
            Answer::Grant { ip, .. } => ip,
            Answer::Nothing | Answer::Refuse => [203, 0, 113, 7],
        };
        match (maps, is_pcp, kind) {
            (false, true, _) => answer[8..12].copy_from_slice(&epoch),
            (false, false, _) => {
                answer.extend([0, 0]);
                answer.extend(epoch);
                answer.extend(ip);
            }
            (true, _, Answer::Nothing) => return None,
            (true, _, Answer::Refuse) => answer[3] = 2,
            (true, true, Answer::Grant { external, lifetime, .. }) => {
                answer[4..8].copy_from_slice(&lifetime.to_be_bytes());
                answer[8..24].fill(0);
                answer[8..12].copy_from_slice(&epoch);
                answer[42..44].copy_from_slice(&external.to_be_bytes());
                answer[56..].copy_from_slice(&ip);
            }
            (true, false, Answer::Grant { external, lifetime, .. }) => {
                answer.truncate(4);
                answer.extend(epoch);
                answer.extend(PORT.to_be_bytes());
                answer.extend(external.to_be_bytes());
                answer.extend(lifetime.to_be_bytes());
            }
        }
        Some(answer)
    }
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn without_a_place_nothing_is_sent() {
    let mut story = Story::new(Some(GRANT), Some(GRANT), true);
    story.mapper.set_place(None, story.now);
    story.run();
    story.after(10_000_000);
    assert!(story.sent.is_empty());
    assert_eq!(story.mapper.poll_timeout(), None);
}

#[test]
fn nobody_answers_and_the_machine_stays_polite() {
    let mut story = Story::new(None, None, false);
    story.begin();
    story.after(10_000);
    assert_eq!(story.sent.len(), 6, "two protocols, three times");
    story.after(580_000);
    assert_eq!(story.sent.len(), 6);
    story.after(20_000);
    assert_eq!(story.sent.len(), 12, "ten minutes later again");
    assert!(story.told.is_empty());
}

#[test]
fn nat_pmp_maps_at_once_and_renews_at_half_life() {
    let mut story = Story::new(Some(GRANT), Some(GRANT), true);
    story.begin();
    assert_eq!(story.told, [some("203.0.113.7:5555")]);
    assert_eq!(story.requests(), [nat_pmp::map_request(PORT, 0, 7_200).to_vec()]);
    story.after(3_599_000);
    assert!(story.requests().is_empty());
    story.after(1_000);
    assert_eq!(
        story.requests(),
        [nat_pmp::map_request(PORT, 5_555, 7_200).to_vec()],
        "the same port again"
    );
    story.after(20_000_000);
    assert_eq!(story.told.len(), 1);
    assert!(story.wishes.is_empty());
}

#[test]
fn pcp_is_taken_where_it_alone_answers_and_keeps_its_nonce() {
    let mut story = Story::new(None, Some(GRANT), true);
    story.begin();
    story.after(49);
    assert!(story.told.is_empty(), "NAT-PMP has a moment");
    story.after(1);
    assert_eq!(story.told, [some("203.0.113.7:5555")]);
    story.after(3_600_000);
    story.mapper.release();
    story.run();
    let requests = story.requests();
    assert_eq!(requests.len(), 3, "map, renewal, release");
    assert!(requests.iter().all(|request| request[24..36] == NONCE));
    assert_eq!(requests[2][4..8], [0; 4], "lifetime 0 deletes");
    assert_eq!(story.told, [some("203.0.113.7:5555"), None]);
}

#[test]
fn a_refusal_leaves_the_turn_to_the_next() {
    let mut story = Story::new(Some(Answer::Refuse), Some(GRANT), false);
    story.begin();
    story.after(60);
    assert_eq!(story.told, [some("203.0.113.7:5555")]);
    let mut story = Story::new(Some(Answer::Refuse), Some(Answer::Refuse), true);
    story.begin();
    story.after(300);
    assert!(matches!(story.wishes[..], [Wish::New { .. }]));
    let mut story = Story::new(Some(Answer::Refuse), None, false);
    story.begin();
    story.after(5_000);
    assert!(story.told.is_empty());
    assert_eq!(story.requests().len(), 1, "it said no");
}

#[test]
fn an_unanswered_request_is_sent_three_times() {
    let mut story = Story::new(Some(Answer::Nothing), None, false);
    story.begin();
    story.after(5_000);
    assert_eq!(story.requests().len(), 3);
    assert!(story.told.is_empty());
}

#[test]
fn a_short_life_and_another_port_are_taken_as_they_come() {
    let grant = Answer::Grant {
        external: 1_111,
        lifetime: 60,
        ip: [203, 0, 113, 7],
    };
    let mut story = Story::new(Some(grant), None, false);
    story.begin();
    assert_eq!(story.told, [some("203.0.113.7:1111")]);
    story.after(120_000);
    assert_eq!(story.requests().len(), 5, "every half minute");
    story.gateway.nat_pmp = Some(Answer::Grant {
        external: 2_222,
        lifetime: 60,
        ip: [203, 0, 113, 7],
    });
    story.after(30_000);
    assert_eq!(story.told[1], some("203.0.113.7:2222"));
}

#[test]
fn a_private_outer_address_is_told_too() {
    let grant = Answer::Grant {
        external: 1_111,
        lifetime: 600,
        ip: [10, 9, 8, 7],
    };
    let mut story = Story::new(Some(grant), None, false);
    story.begin();
    assert_eq!(story.told, [some("10.9.8.7:1111")]);
}

#[test]
fn an_unknown_outer_address_is_no_mapping() {
    let grant = Answer::Grant {
        external: 1_111,
        lifetime: 600,
        ip: [0; 4],
    };
    let mut story = Story::new(Some(grant), None, false);
    story.begin();
    story.after(5_000);
    assert!(story.told.is_empty());
    assert!(story.requests().is_empty());
}

#[test]
fn a_restarted_gateway_is_asked_again_within_minutes() {
    let mut story = Story::new(Some(GRANT), None, false);
    story.begin();
    story.requests();
    story.after(290_000);
    story.gateway.epoch = 3;
    story.gateway.nat_pmp = Some(Answer::Grant {
        external: 6_666,
        lifetime: 7_200,
        ip: [203, 0, 113, 7],
    });
    story.after(20_000);
    assert_eq!(story.requests(), [nat_pmp::map_request(PORT, 5_555, 7_200).to_vec()]);
    assert_eq!(story.told[1], some("203.0.113.7:6666"));
}

#[test]
fn a_new_outer_address_is_noticed_within_minutes() {
    let mut story = Story::new(Some(GRANT), None, false);
    story.begin();
    story.gateway.nat_pmp = Some(Answer::Grant {
        external: 5_555,
        lifetime: 7_200,
        ip: [203, 0, 113, 8],
    });
    story.after(310_000);
    assert_eq!(story.told[1], some("203.0.113.8:5555"));
}

#[test]
fn a_mapping_that_cannot_be_renewed_is_told_to_its_end_and_no_longer() {
    let mut story = Story::new(Some(GRANT), None, false);
    story.begin();
    story.gateway.nat_pmp = None;
    story.after(7_100_000);
    assert_eq!(story.told.len(), 1);
    assert!(story.requests().len() > 3, "tried again and again");
    story.after(200_000);
    assert_eq!(story.told[1..], [None]);
    story.gateway.nat_pmp = Some(GRANT);
    story.after(600_000);
    assert_eq!(
        story.told[2],
        some("203.0.113.7:5555"),
        "and had back when the gateway is"
    );
}

#[test]
fn upnp_has_its_turn_after_a_quarter_second_of_silence() {
    let mut story = Story::new(None, None, true);
    story.begin();
    story.after(249);
    assert!(story.wishes.is_empty());
    story.after(1);
    let Some(Wish::New { description, external }) = story.wishes.pop() else {
        panic!()
    };
    assert!(external >= 1_024);
    let place = Place::new([192, 168, 1, 1].into(), [192, 168, 1, 2].into(), PORT).unwrap();
    let mut talk = Talk::new(place, description, external);
    let device = "<r><service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>\
        <controlURL>/c</controlURL></service><NewExternalIPAddress>203.0.113.7</NewExternalIPAddress></r>";
    while talk.next().is_some() {
        talk.handle(Some(Response { ok: true, body: device }));
    }
    let mapping = talk.into_mapping();
    story.mapper.handle_talk(mapping.clone(), story.now);
    story.run();
    assert_eq!(story.told, [Some(format!("203.0.113.7:{external}"))]);
    // Half a life later it is renewed; an answer that comes too late takes nothing away.
    story.after(3_600_000);
    assert!(matches!(&story.wishes[..], [Wish::Renew(again)] if Some(again) == mapping.as_ref()));
    story.after(11_000);
    story.mapper.handle_talk(mapping, story.now);
    story.run();
    assert_eq!((story.deleted, story.told.len()), (0, 1));
    story.mapper.release();
    story.run();
    assert_eq!((story.deleted, story.told.last().unwrap()), (1, &None));
}

#[test]
fn answers_to_nothing_and_for_others_are_ignored() {
    let mut story = Story::new(None, None, false);
    story.begin();
    let grant = Gateway {
        nat_pmp: Some(GRANT),
        pcp: Some(GRANT),
        igd: false,
        epoch: 1,
    };
    let mapped = grant.answer(&nat_pmp::map_request(PORT, 0, 60)).unwrap();
    story.mapper.handle_datagram(&mapped, story.now);
    let place = Place::new([192, 168, 1, 1].into(), [192, 168, 1, 2].into(), PORT).unwrap();
    let foreign = crate::portmap::pcp::map_request(&place, &[1; 12], 0, 60);
    story
        .mapper
        .handle_datagram(&grant.answer(&foreign).unwrap(), story.now);
    story.run();
    assert!(story.told.is_empty());
    let mut story = Story::new(None, Some(Answer::Nothing), false);
    story.begin();
    story.after(60);
    story
        .mapper
        .handle_datagram(&grant.answer(&foreign).unwrap(), story.now);
    story.run();
    assert!(story.told.is_empty(), "another nonce than ours");
}

#[test]
fn another_place_is_asked_anew() {
    let mut story = Story::new(Some(GRANT), None, false);
    story.begin();
    story.sent.clear();
    story
        .mapper
        .set_place(Place::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), PORT), story.now);
    story.run();
    assert_eq!(story.requests(), [nat_pmp::map_request(PORT, 5_555, 7_200).to_vec()]);
    assert_eq!(story.told, [some("203.0.113.7:5555"), None, some("203.0.113.7:5555")]);
    story.mapper.set_place(None, story.now);
    story.run();
    assert_eq!(story.told.last().unwrap(), &None);
}
