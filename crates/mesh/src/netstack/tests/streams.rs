//! The life of connections: opening, refusing, closing, breaking.

use std::io::ErrorKind;
use std::task::Poll;
use std::time::Duration;

use super::super::{SocketError, StackConfig};
use super::link::{CALM, Link, Side, noop, v4, v6};

const PORT: u16 = 8765;

fn error_of(result: Poll<std::io::Result<impl std::fmt::Debug>>) -> ErrorKind {
    let Poll::Ready(Err(error)) = result else {
        panic!("{result:?}")
    };
    error.kind()
}

#[test]
fn a_connection_opens_talks_and_closes_in_both_families() {
    for address in [v4(2), v6(2)] {
        let mut link = Link::new(CALM);
        let (listener, _) = link.b.tcp_listen(PORT, 16).unwrap();
        let (a, b) = link.connect(listener, (address, PORT).into());
        let (local, remote) = link.b.tcp_addresses(b).unwrap();
        assert_eq!(local, (address, PORT).into());
        assert_eq!(link.a.tcp_addresses(a).unwrap(), (remote, local));
        assert!(link.write(Side::A, a, b"ping").is_ready());
        assert!(link.write(Side::B, b, b"pong").is_ready());
        link.a.tcp_shutdown(a);
        link.b.tcp_shutdown(b);
        assert_eq!(link.read_to_end(Side::B, b).unwrap(), b"ping");
        assert_eq!(link.read_to_end(Side::A, a).unwrap(), b"pong");
        link.a.tcp_release(a);
        link.b.tcp_release(b);
        link.run_for(Duration::from_secs(15));
        assert_eq!((link.a.connection_count(), link.b.connection_count()), (0, 0));
    }
}

#[test]
fn an_idle_connection_needs_no_turn() {
    let mut link = Link::new(CALM);
    let (listener, _) = link.b.tcp_listen(PORT, 16).unwrap();
    let (a, b) = link.connect(listener, (v4(2), PORT).into());
    assert!(link.write(Side::A, a, b"hello").is_ready());
    link.run_for(Duration::from_secs(5));
    assert!(link.read(Side::B, b).is_ready());
    link.run_for(Duration::from_secs(5));
    assert_eq!((link.a.poll_timeout(), link.b.poll_timeout()), (None, None));
    // And after a day it still works.
    link.now += Duration::from_secs(86_000);
    assert!(link.write(Side::A, a, b"again").is_ready());
    link.run_for(Duration::from_secs(1));
    assert!(matches!(link.read(Side::B, b), Poll::Ready(Ok(bytes)) if bytes == b"again"));
}

#[test]
fn a_port_without_listener_refuses() {
    let mut link = Link::new(CALM);
    for address in [v4(2), v6(2)] {
        let id = link.a.tcp_connect(None, (address, PORT).into()).unwrap();
        assert_eq!(link.opened(id), Err(SocketError::Refused));
        link.a.tcp_release(id);
    }
    link.run_for(Duration::from_secs(1));
    assert_eq!((link.a.connection_count(), link.b.connection_count()), (0, 0));
}

#[test]
fn a_silent_peer_times_out() {
    let mut link = Link::new(CALM);
    link.cut = true;
    let id = link.a.tcp_connect(None, (v4(2), PORT).into()).unwrap();
    let began = link.now;
    assert_eq!(link.opened(id), Err(SocketError::TimedOut));
    assert_eq!(link.now - began, Duration::from_secs(30));
    link.a.tcp_release(id);
    link.run_for(Duration::from_secs(1));
    assert_eq!(link.a.connection_count(), 0);
    assert_eq!(link.a.poll_timeout(), None);
}

#[test]
fn a_connect_survives_a_short_outage() {
    let mut link = Link::new(CALM);
    let (listener, _) = link.b.tcp_listen(PORT, 16).unwrap();
    link.cut = true;
    let id = link.a.tcp_connect(None, (v4(2), PORT).into()).unwrap();
    link.run_for(Duration::from_millis(1500));
    link.cut = false;
    assert_eq!(link.opened(id), Ok(()));
    link.run_for(Duration::from_secs(1));
    assert!(matches!(link.b.poll_accept(listener, &noop()), Poll::Ready(Some(_))));
}

#[test]
fn unreachable_things_are_refused_at_once() {
    let mut link = Link::new(CALM);
    for remote in [
        "127.0.0.1:80",
        "0.0.0.0:80",
        "224.0.0.1:80",
        "255.255.255.255:80",
        "100.64.0.2:0",
        "[::1]:80",
    ] {
        let remote = remote.parse().unwrap();
        assert_eq!(link.a.tcp_connect(None, remote), Err(SocketError::Unreachable(remote)));
    }
    link.a.set_addresses(&[v4(1)]);
    let remote = (v6(2), PORT).into();
    assert_eq!(link.a.tcp_connect(None, remote), Err(SocketError::NoAddress(remote)));
}

#[test]
fn half_closed_streams_still_carry_the_other_direction() {
    let mut link = Link::new(CALM);
    let (listener, _) = link.b.tcp_listen(PORT, 16).unwrap();
    let (a, b) = link.connect(listener, (v4(2), PORT).into());
    link.a.tcp_shutdown(a);
    assert_eq!(link.read_to_end(Side::B, b).unwrap(), b"");
    assert_eq!(error_of(link.write(Side::A, a, b"x")), ErrorKind::BrokenPipe);
    link.run_for(Duration::from_secs(3600));
    assert!(link.write(Side::B, b, b"late").is_ready());
    link.b.tcp_shutdown(b);
    assert_eq!(link.read_to_end(Side::A, a).unwrap(), b"late");
}

#[test]
fn what_was_received_can_be_read_long_after_the_close() {
    let mut link = Link::new(CALM);
    let (listener, _) = link.b.tcp_listen(PORT, 16).unwrap();
    let (a, b) = link.connect(listener, (v4(2), PORT).into());
    link.a.tcp_shutdown(a);
    assert!(link.write(Side::B, b, b"kept").is_ready());
    link.b.tcp_shutdown(b);
    link.b.tcp_release(b);
    link.run_for(Duration::from_secs(120));
    assert_eq!(link.a.poll_timeout(), None);
    assert_eq!(link.read_to_end(Side::A, a).unwrap(), b"kept");
    link.a.tcp_release(a);
    assert_eq!((link.a.connection_count(), link.b.connection_count()), (0, 0));
}

#[test]
fn a_reset_breaks_both_directions_but_not_what_is_already_here() {
    let mut link = Link::new(CALM);
    let (listener, _) = link.b.tcp_listen(PORT, 16).unwrap();
    let (a, b) = link.connect(listener, (v4(2), PORT).into());
    assert!(link.write(Side::A, a, b"unread").is_ready());
    assert!(link.write(Side::B, b, b"before").is_ready());
    link.run_for(Duration::from_secs(1));
    // Unread bytes make the release a reset.
    link.b.tcp_release(b);
    link.run_for(Duration::from_secs(1));
    assert_eq!(error_of(link.write(Side::A, a, b"x")), ErrorKind::ConnectionReset);
    assert!(matches!(link.read(Side::A, a), Poll::Ready(Ok(bytes)) if bytes == b"before"));
    assert_eq!(error_of(link.read(Side::A, a)), ErrorKind::ConnectionReset);
    link.a.tcp_release(a);
    assert_eq!((link.a.connection_count(), link.b.connection_count()), (0, 0));
}

#[test]
fn bytes_for_a_released_connection_are_answered_by_a_reset() {
    let mut link = Link::new(CALM);
    let (listener, _) = link.b.tcp_listen(PORT, 16).unwrap();
    let (a, b) = link.connect(listener, (v4(2), PORT).into());
    link.b.tcp_release(b);
    assert_eq!(link.read_to_end(Side::A, a).unwrap(), b"");
    assert!(link.write(Side::A, a, b"nobody there").is_ready());
    link.run_for(Duration::from_secs(1));
    assert_eq!(error_of(link.write(Side::A, a, b"x")), ErrorKind::ConnectionReset);
    assert_eq!(link.b.connection_count(), 0);
}

#[test]
fn a_release_still_delivers_what_was_written() {
    let mut link = Link::new(CALM);
    let (listener, _) = link.b.tcp_listen(PORT, 16).unwrap();
    let (a, b) = link.connect(listener, (v4(2), PORT).into());
    assert!(link.write(Side::A, a, &[7; 60_000]).is_ready());
    link.a.tcp_release(a);
    assert_eq!(link.read_to_end(Side::B, b).unwrap(), vec![7; 60_000]);
    link.b.tcp_release(b);
    link.run_for(Duration::from_secs(15));
    assert_eq!((link.a.connection_count(), link.b.connection_count()), (0, 0));
}

#[test]
fn a_released_connection_does_not_wait_for_ever() {
    let mut link = Link::new(CALM);
    let (listener, _) = link.b.tcp_listen(PORT, 16).unwrap();
    let (a, _b) = link.connect(listener, (v4(2), PORT).into());
    link.a.tcp_release(a);
    link.run_for(Duration::from_secs(5));
    assert_eq!(link.a.connection_count(), 1, "B has not closed its half");
    link.run_for(Duration::from_secs(30));
    assert_eq!(link.a.connection_count(), 0);
}

#[test]
fn unacknowledged_data_times_out_after_the_configured_time_and_not_before() {
    let mut link = Link::with(CALM, |config: &mut StackConfig| {
        config.stall_timeout = Duration::from_secs(120)
    });
    let (listener, _) = link.b.tcp_listen(PORT, 16).unwrap();
    let (a, _b) = link.connect(listener, (v4(2), PORT).into());
    link.run_for(Duration::from_secs(1000));
    link.cut = true;
    assert!(link.write(Side::A, a, b"lost").is_ready());
    link.run_for(Duration::from_secs(119));
    assert!(link.read(Side::A, a).is_pending());
    link.run_for(Duration::from_secs(2));
    assert_eq!(error_of(link.read(Side::A, a)), ErrorKind::TimedOut);
    assert_eq!(error_of(link.write(Side::A, a, b"x")), ErrorKind::TimedOut);
}

#[test]
fn data_survives_a_minute_without_path() {
    let mut link = Link::new(CALM);
    let (listener, _) = link.b.tcp_listen(PORT, 16).unwrap();
    let (a, b) = link.connect(listener, (v4(2), PORT).into());
    link.cut = true;
    assert!(link.write(Side::A, a, b"patience").is_ready());
    link.run_for(Duration::from_secs(60));
    link.cut = false;
    link.a.tcp_shutdown(a);
    assert_eq!(link.read_to_end(Side::B, b).unwrap(), b"patience");
}

#[test]
fn the_backlog_is_bounded_and_those_left_out_come_again() {
    let mut link = Link::new(CALM);
    let (listener, _) = link.b.tcp_listen(PORT, 4).unwrap();
    // Three from each of two peers: the third of the first is one too many for that peer, the others for the backlog.
    link.a.set_addresses(&[v4(1), v4(3)]);
    let mut dial = |local| link.a.tcp_connect(Some(local), (v4(2), PORT).into()).unwrap();
    let dialled = [v4(1), v4(1), v4(1), v4(3), v4(3), v4(3)].map(&mut dial);
    link.turn();
    link.now += Duration::from_millis(5);
    link.step();
    assert_eq!(link.b.connection_count(), 4);
    assert_eq!(link.b.metrics().dropped_backlog, 2);
    for _ in 0..6 {
        link.run_until(|link| match link.b.poll_accept(listener, &noop()) {
            Poll::Ready(accepted) => accepted,
            Poll::Pending => None,
        });
    }
    for id in dialled {
        assert_eq!(link.opened(id), Ok(()));
    }
}

#[test]
fn ending_a_listener_resets_what_nobody_accepted_and_frees_the_port() {
    let mut link = Link::new(CALM);
    let (listener, _) = link.b.tcp_listen(PORT, 4).unwrap();
    assert_eq!(link.b.tcp_listen(PORT, 4).unwrap_err(), SocketError::PortInUse(PORT));
    let id = link.a.tcp_connect(None, (v4(2), PORT).into()).unwrap();
    assert_eq!(link.opened(id), Ok(()));
    link.b.tcp_unlisten(listener);
    link.run_for(Duration::from_secs(1));
    assert_eq!(error_of(link.read(Side::A, id)), ErrorKind::ConnectionReset);
    assert_eq!(link.b.connection_count(), 0);
    assert!(link.b.tcp_listen(PORT, 4).is_ok());
    let (_, port) = link.b.tcp_listen(0, 4).unwrap();
    assert!(port >= 49_152);
}

#[test]
fn five_hundred_connections_open_talk_and_close() {
    let mut link = Link::new(CALM);
    let (listener, _) = link.b.tcp_listen(PORT, 1024).unwrap();
    let dialled: Vec<_> = (0..500_u16)
        .map(|index| {
            let id = link
                .a
                .tcp_connect(None, (if index % 2 == 0 { v4(2) } else { v6(2) }, PORT).into())
                .unwrap();
            (index, id)
        })
        .collect();
    link.run_for(Duration::from_secs(2));
    let mut accepted = Vec::new();
    while let Poll::Ready(Some(id)) = link.b.poll_accept(listener, &noop()) {
        accepted.push(id);
    }
    assert_eq!(accepted.len(), 500);
    for (index, id) in &dialled {
        assert_eq!(link.opened(*id), Ok(()));
        assert!(link.write(Side::A, *id, &index.to_be_bytes()).is_ready());
    }
    link.run_for(Duration::from_secs(2));
    let mut heard = std::collections::BTreeSet::new();
    for id in accepted {
        let Poll::Ready(Ok(bytes)) = link.read(Side::B, id) else {
            panic!("nothing to read")
        };
        heard.insert(bytes);
        link.b.tcp_release(id);
    }
    assert_eq!(heard.len(), 500);
    for (_, id) in dialled {
        link.a.tcp_release(id);
    }
    link.run_for(Duration::from_secs(45));
    assert_eq!((link.a.connection_count(), link.b.connection_count()), (0, 0));
    assert_eq!((link.a.poll_timeout(), link.b.poll_timeout()), (None, None));
}

#[test]
fn a_lost_address_ends_its_connections_and_leaves_the_others() {
    let mut link = Link::new(CALM);
    let (listener, _) = link.b.tcp_listen(PORT, 16).unwrap();
    let (a4, b4) = link.connect(listener, (v4(2), PORT).into());
    let (a6, b6) = link.connect(listener, (v6(2), PORT).into());
    link.a.set_addresses(&[v6(1), v4(9)]);
    assert_eq!(error_of(link.read(Side::A, a4)), ErrorKind::ConnectionAborted);
    assert_eq!(error_of(link.write(Side::A, a4, b"x")), ErrorKind::ConnectionAborted);
    assert!(link.write(Side::A, a6, b"still here").is_ready());
    link.a.tcp_shutdown(a6);
    assert_eq!(link.read_to_end(Side::B, b6).unwrap(), b"still here");
    assert!(link.read(Side::B, b4).is_pending());
    let (a, _) = link.connect(listener, (v4(2), PORT).into());
    assert_eq!(link.a.tcp_addresses(a).unwrap().0.ip(), v4(9));
}

#[test]
fn a_node_reaches_itself_without_the_line() {
    let mut link = Link::new(CALM);
    let (listener, _) = link.a.tcp_listen(PORT, 16).unwrap();
    let id = link.a.tcp_connect(None, (v4(1), PORT).into()).unwrap();
    assert_eq!(link.opened(id), Ok(()));
    let Poll::Ready(Some(accepted)) = link.a.poll_accept(listener, &noop()) else {
        panic!("not accepted")
    };
    assert!(link.write(Side::A, id, b"me").is_ready());
    link.a.tcp_shutdown(id);
    assert_eq!(link.read_to_end(Side::A, accepted).unwrap(), b"me");
    assert_eq!(link.carried, 0);
}

#[test]
fn ports_can_be_reused_while_the_old_connection_is_remembered() {
    let mut link = Link::new(CALM);
    let (listener, _) = link.b.tcp_listen(PORT, 16).unwrap();
    let (a, b) = link.connect(listener, (v4(2), PORT).into());
    // B closes first, so B keeps the tuple.
    link.b.tcp_release(b);
    link.run_for(Duration::from_secs(1));
    link.a.tcp_release(a);
    link.run_for(Duration::from_secs(1));
    // What is left is less than a connection.
    assert_eq!((link.a.connection_count(), link.b.connection_count()), (0, 0));
    assert_eq!((link.a.poll_timeout(), link.b.poll_timeout()), (None, None));
    for _ in 0..3 {
        let (a, b) = link.connect(listener, (v4(2), PORT).into());
        assert!(link.write(Side::A, a, b"new").is_ready());
        link.a.tcp_release(a);
        assert_eq!(link.read_to_end(Side::B, b).unwrap(), b"new");
        link.b.tcp_release(b);
    }
}

#[test]
fn a_repeated_fin_is_acknowledged_although_the_connection_is_gone() {
    let mut link = Link::new(CALM);
    let (listener, _) = link.b.tcp_listen(PORT, 16).unwrap();
    let (a, b) = link.connect(listener, (v4(2), PORT).into());
    link.a.tcp_shutdown(a);
    link.run_for(Duration::from_secs(1));
    link.b.tcp_release(b);
    // B's FIN arrives, the answer is lost.
    link.turn();
    link.now += Duration::from_millis(5);
    link.step();
    link.cut = true;
    link.a.tcp_release(a);
    link.turn();
    link.run_for(Duration::from_millis(100));
    assert_eq!((link.a.connection_count(), link.b.connection_count()), (0, 1));
    link.cut = false;
    link.run_for(Duration::from_secs(3));
    assert_eq!((link.b.connection_count(), link.resets), (0, 0));
}
