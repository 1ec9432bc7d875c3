//! Both links with invented time.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::wire::v1::Metadata;

const HEARTBEAT: Duration = Duration::from_secs(5);

fn metadata() -> Metadata {
    Metadata {
        hostname: "h".into(),
        platform: "linux".into(),
        arch: "x86_64".into(),
        version: String::new(),
        labels: BTreeMap::new(),
    }
}

fn register(id: &str) -> Message {
    Message::Register {
        daemon_id: id.into(),
        metadata: metadata(),
        instance: None,
    }
}

fn ack(success: bool) -> Message {
    Message::RegisterAck {
        success,
        message: "m".into(),
    }
}

fn heartbeat_ack(success: bool) -> Message {
    Message::HeartbeatAck {
        success,
        reason: String::new(),
    }
}

fn transmits(next: impl FnMut() -> Option<Outgoing>) -> Vec<Outgoing> {
    std::iter::from_fn(next).collect()
}

fn registered_daemon(now: Instant) -> DaemonLink {
    let mut link = DaemonLink::new(HEARTBEAT, now);
    assert_eq!(transmits(|| link.poll_transmit()), [Outgoing::Register]);
    link.handle_message(ack(true), now);
    assert_eq!(link.poll_event(), Some(DaemonEvent::Registered { again: false }));
    assert_eq!(
        transmits(|| link.poll_transmit()),
        [Outgoing::Message(Message::Heartbeat)]
    );
    link
}

#[test]
fn a_daemon_keeps_what_comes_before_the_ack() {
    let now = Instant::now();
    let mut link = DaemonLink::new(HEARTBEAT, now);
    link.handle_message(Message::SessionClose { session_id: "s".into() }, now);
    assert_eq!(link.poll_event(), None);
    link.handle_message(ack(true), now);
    assert_eq!(link.poll_event(), Some(DaemonEvent::Registered { again: false }));
    assert!(matches!(
        link.poll_event(),
        Some(DaemonEvent::Deliver(Message::SessionClose { .. }))
    ));
}

#[test]
fn a_refused_daemon_ends() {
    let now = Instant::now();
    let mut link = DaemonLink::new(HEARTBEAT, now);
    link.handle_message(ack(false), now);
    assert_eq!(
        link.poll_event(),
        Some(DaemonEvent::Ended(LinkEnd::Refused("m".into())))
    );
    assert_eq!(link.poll_timeout(), None);
}

#[test]
fn a_daemon_waits_ten_seconds_for_its_ack() {
    let now = Instant::now();
    let mut link = DaemonLink::new(HEARTBEAT, now);
    assert_eq!(link.poll_timeout(), Some(now + REGISTER_TIMEOUT));
    link.handle_timeout(now + REGISTER_TIMEOUT);
    assert_eq!(link.poll_event(), Some(DaemonEvent::Ended(LinkEnd::NoRegisterAck)));
}

#[test]
fn a_daemon_registers_again_on_the_same_socket() {
    let now = Instant::now();
    let mut link = registered_daemon(now);
    link.handle_message(heartbeat_ack(false), now);
    link.handle_message(heartbeat_ack(false), now);
    assert_eq!(transmits(|| link.poll_transmit()), [Outgoing::Register]);
    link.handle_message(ack(true), now);
    assert_eq!(link.poll_event(), Some(DaemonEvent::Registered { again: true }));
}

#[test]
fn an_older_controller_that_never_acks_is_kept() {
    let start = Instant::now();
    let mut link = registered_daemon(start);
    let mut now = start;
    let mut heartbeats = 0;
    while now < start + Duration::from_secs(300) {
        now = link.poll_timeout().unwrap();
        link.handle_timeout(now);
        for outgoing in transmits(|| link.poll_transmit()) {
            match &outgoing {
                Outgoing::Message(Message::Heartbeat) => heartbeats += 1,
                Outgoing::Ping => link.handle_alive(now),
                Outgoing::Register | Outgoing::Message(_) => panic!("{outgoing:?}"),
            }
        }
        assert_eq!(link.poll_event(), None);
    }
    assert!((59..=60).contains(&heartbeats), "{heartbeats}");
}

#[test]
fn a_controller_that_stops_acking_is_given_up() {
    let now = Instant::now();
    let mut link = registered_daemon(now);
    link.handle_message(heartbeat_ack(true), now);
    let late = now + Duration::from_secs(30);
    while let Some(due) = link.poll_timeout().filter(|due| *due < late) {
        link.handle_alive(due);
        link.handle_timeout(due);
    }
    link.handle_timeout(late - Duration::from_millis(1));
    assert_eq!(link.poll_event(), None);
    link.handle_timeout(late);
    assert!(matches!(
        link.poll_event(),
        Some(DaemonEvent::Ended(LinkEnd::NoHeartbeatAck(_)))
    ));
}

fn registered_controller(now: Instant) -> ControllerLink {
    let mut link = ControllerLink::new(now);
    assert_eq!(link.poll_transmit(), None);
    link.handle_message(register("d"), now);
    assert!(matches!(link.poll_event(), Some(ControllerEvent::Register { .. })));
    link.accept(now);
    let [Outgoing::Message(Message::RegisterAck { success: true, .. })] = &transmits(|| link.poll_transmit())[..]
    else {
        panic!()
    };
    link
}

#[test]
fn a_controller_acks_each_heartbeat() {
    let now = Instant::now();
    let mut link = registered_controller(now);
    for _ in 0..3 {
        link.handle_message(Message::Heartbeat, now);
        assert_eq!(
            transmits(|| link.poll_transmit()),
            [Outgoing::Message(heartbeat_ack(true))]
        );
        assert_eq!(link.poll_event(), Some(ControllerEvent::Heartbeat));
    }
}

#[test]
fn a_second_id_on_one_socket_is_refused() {
    let now = Instant::now();
    let mut link = registered_controller(now);
    link.handle_message(register("e"), now);
    assert_eq!(link.poll_event(), None);
    assert!(matches!(
        link.poll_transmit(),
        Some(Outgoing::Message(Message::RegisterAck { success: false, .. }))
    ));
    link.handle_message(register("d"), now);
    assert!(matches!(link.poll_event(), Some(ControllerEvent::Register { .. })));
}

#[test]
fn a_silent_daemon_is_reaped_and_may_come_back_on_its_socket() {
    let now = Instant::now();
    let mut link = registered_controller(now);
    for at in [PING_AFTER, REAP_AFTER] {
        link.handle_alive(now + at);
        link.handle_timeout(now + at);
        assert_eq!(link.poll_event(), None);
    }
    let later = now + REAP_AFTER + Duration::from_millis(1);
    link.handle_alive(later);
    link.handle_timeout(later);
    assert_eq!(link.poll_event(), Some(ControllerEvent::Reaped));
    link.handle_message(Message::Heartbeat, later);
    let sent = transmits(|| link.poll_transmit());
    assert!(
        matches!(
            sent.last(),
            Some(Outgoing::Message(Message::HeartbeatAck { success: false, .. }))
        ),
        "{sent:?}"
    );
    link.handle_message(register("d"), later);
    assert!(matches!(link.poll_event(), Some(ControllerEvent::Register { .. })));
    link.accept(later);
    link.handle_message(Message::Heartbeat, later);
    assert_eq!(link.poll_event(), Some(ControllerEvent::Heartbeat));
}

#[test]
fn who_does_not_register_is_closed_after_ten_seconds() {
    let now = Instant::now();
    let mut link = ControllerLink::new(now);
    link.handle_message(register(""), now);
    link.poll_event();
    link.refuse("a daemon id must not be empty");
    assert!(matches!(
        link.poll_transmit(),
        Some(Outgoing::Message(Message::RegisterAck { success: false, .. }))
    ));
    link.handle_message(Message::Heartbeat, now);
    assert!(matches!(
        link.poll_transmit(),
        Some(Outgoing::Message(Message::HeartbeatAck { success: false, .. }))
    ));
    link.handle_timeout(now + REGISTER_TIMEOUT);
    assert_eq!(link.poll_event(), Some(ControllerEvent::Ended(LinkEnd::NoRegister)));
}

#[test]
fn dead_silence_ends_a_connection_after_pings() {
    let start = Instant::now();
    let mut link = registered_controller(start);
    let (mut pings, mut reaped, mut now) = (0, 0, start);
    loop {
        now = link.poll_timeout().unwrap().max(now);
        link.handle_timeout(now);
        pings += transmits(|| link.poll_transmit())
            .iter()
            .filter(|o| **o == Outgoing::Ping)
            .count();
        match link.poll_event() {
            Some(ControllerEvent::Ended(LinkEnd::Silent)) => break,
            Some(ControllerEvent::Reaped) => reaped += 1,
            other => assert_eq!(other, None),
        }
    }
    assert_eq!((now - start, pings, reaped), (DEAD_AFTER, 2, 1));
}

#[derive(Debug, Clone)]
enum Step {
    Say(usize),
    Wait(u64),
}

proptest! {
    /// Whatever the peer says and whenever: no panic, no timer in the past for ever, at most one end.
    #[test]
    fn links_survive_any_peer(steps in proptest::collection::vec(
        prop_oneof![(0_usize..8).prop_map(Step::Say), (0_u64..20_000).prop_map(Step::Wait)], 0..60,
    )) {
        let mut now = Instant::now();
        let (mut daemon, mut controller) = (DaemonLink::new(HEARTBEAT, now), ControllerLink::new(now));
        let (mut daemon_ends, mut controller_ends) = (0, 0);
        for step in steps {
            match step {
                Step::Say(which) => {
                    let message = [
                        register("d"), register("e"), Message::Heartbeat, ack(true), ack(false),
                        heartbeat_ack(true), heartbeat_ack(false), Message::Pong,
                    ][which].clone();
                    daemon.handle_message(message.clone(), now);
                    controller.handle_message(message, now);
                }
                Step::Wait(millis) => {
                    now += Duration::from_millis(millis);
                    daemon.handle_timeout(now);
                    controller.handle_timeout(now);
                    if let Some(at) = daemon.poll_timeout() { prop_assert!(at > now); }
                    if let Some(at) = controller.poll_timeout() { prop_assert!(at > now); }
                }
            }
            transmits(|| daemon.poll_transmit());
            transmits(|| controller.poll_transmit());
            while let Some(event) = daemon.poll_event() {
                daemon_ends += usize::from(matches!(event, DaemonEvent::Ended(_)));
            }
            while let Some(event) = controller.poll_event() {
                match event {
                    ControllerEvent::Register { daemon_id, .. } if daemon_id == "d" => controller.accept(now),
                    ControllerEvent::Register { .. } => controller.refuse("no"),
                    ControllerEvent::Ended(_) => controller_ends += 1,
                    ControllerEvent::Heartbeat | ControllerEvent::Deliver(_) | ControllerEvent::Reaped => {}
                }
            }
        }
        prop_assert!(daemon_ends <= 1 && controller_ends <= 1);
    }
}

/// A controller that was stopped for a minute, or whose machine slept, does not blame its daemons; nor do they blame it.
#[test]
fn ones_own_sleep_is_not_the_others_silence() {
    let start = Instant::now();
    let mut link = registered_controller(start);
    let later = start + Duration::from_secs(60);
    link.handle_timeout(later);
    assert_eq!(link.poll_event(), None);
    // From then on silence counts as ever.
    let (mut now, mut reaped) = (later, false);
    while now < later + DEAD_AFTER {
        now = link.poll_timeout().unwrap().max(now);
        link.handle_timeout(now);
        reaped |= link.poll_event() == Some(ControllerEvent::Reaped);
    }
    assert!(reaped);

    let mut link = DaemonLink::new(Duration::from_secs(5), start);
    link.handle_message(
        Message::RegisterAck {
            success: true,
            message: String::new(),
        },
        start,
    );
    link.handle_message(
        Message::HeartbeatAck {
            success: true,
            reason: String::new(),
        },
        start,
    );
    while link.poll_event().is_some() {}
    link.handle_timeout(later);
    assert_eq!(link.poll_event(), None);
    assert!(!transmits(|| link.poll_transmit()).is_empty(), "its heartbeat goes on");
}
