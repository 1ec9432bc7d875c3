//! UDP and ICMP echo.

use std::net::SocketAddr;
use std::task::Poll;
use std::time::Duration;

use super::super::SocketError;
use super::link::{CALM, Link, noop, v4, v6};

#[test]
fn datagrams_go_both_ways_in_both_families() {
    let mut link = Link::new(CALM);
    let (a, port_a) = link.a.udp_bind(0).unwrap();
    let (b, port_b) = link.b.udp_bind(5353).unwrap();
    assert_eq!(port_b, 5353);
    for (from, to) in [(v4(1), v4(2)), (v6(1), v6(2))] {
        for payload in [&b""[..], b"x", &[9; 1232]] {
            let remote = SocketAddr::new(to, port_b);
            assert_eq!(
                link.a.poll_send_to(a, &noop(), payload, remote),
                Poll::Ready(Ok(payload.len()))
            );
            link.run_for(Duration::from_secs(1));
            let mut buffer = [0; 2000];
            let Poll::Ready(Ok((count, source))) = link.b.poll_recv_from(b, &noop(), &mut buffer) else {
                panic!("nothing came")
            };
            assert_eq!(&buffer[..count], payload);
            assert_eq!(source, SocketAddr::new(from, port_a));
        }
    }
    let large = link.a.poll_send_to(a, &noop(), &[0; 1253], (v4(2), 5353).into());
    assert_eq!(
        large,
        Poll::Ready(Err(SocketError::TooLarge {
            size: 1253,
            limit: 1252
        }))
    );
}

#[test]
fn a_flooded_socket_drops_and_counts() {
    let mut link = Link::new(CALM);
    let (a, _) = link.a.udp_bind(0).unwrap();
    let (b, _) = link.b.udp_bind(5353).unwrap();
    for _ in 0..1000 {
        while link
            .a
            .poll_send_to(a, &noop(), b"flood", (v4(2), 5353).into())
            .is_pending()
        {
            link.turn();
        }
    }
    link.run_for(Duration::from_secs(1));
    assert_eq!(link.b.metrics().dropped_datagrams, 1000 - 512);
    let mut buffer = [0; 2000];
    let mut count = 0;
    while link.b.poll_recv_from(b, &noop(), &mut buffer).is_ready() {
        count += 1;
    }
    assert_eq!(count, 512);
}

#[test]
fn a_port_without_socket_is_said_to_be_unreachable() {
    let mut link = Link::new(CALM);
    let (a, _) = link.a.udp_bind(0).unwrap();
    for (to, protocol, kind) in [(v4(2), 1, 3), (v6(2), 58, 1)] {
        assert!(link.a.poll_send_to(a, &noop(), b"anybody?", (to, 9).into()).is_ready());
        link.turn();
        link.now += Duration::from_millis(10);
        let mut answers = Vec::new();
        // Look at the answer on the line instead of letting A take it.
        link.step();
        let now = link.now;
        link.b.poll(now);
        while let Some(packet) = link.b.poll_transmit() {
            answers.push(packet);
        }
        let answer = answers.first().expect("an answer");
        let (found, icmp) = if to.is_ipv4() {
            (answer[9], answer[20])
        } else {
            (answer[6], answer[40])
        };
        assert_eq!((found, icmp), (protocol, kind));
    }
}

#[test]
fn echoes_are_answered_and_timed() {
    let mut link = Link::new(CALM);
    for remote in [v4(2), v6(2)] {
        let id = link.a.echo_begin(remote).unwrap();
        let time = link.run_until(|link| match link.a.poll_echo(id, &noop()) {
            Poll::Ready(time) => Some(time),
            Poll::Pending => None,
        });
        assert_eq!(time, Ok(Duration::from_millis(10)));
        link.a.echo_end(id);
    }
    // Our own address answers as well, and at once.
    let id = link.a.echo_begin(v4(1)).unwrap();
    link.turn();
    link.turn();
    assert_eq!(link.a.poll_echo(id, &noop()), Poll::Ready(Ok(Duration::ZERO)));
    link.a.echo_end(id);
    assert_eq!(link.a.poll_timeout(), None);
}

#[test]
fn an_echo_without_answer_stays_pending_and_is_forgotten() {
    let mut link = Link::new(CALM);
    let id = link.a.echo_begin(v4(77)).unwrap();
    link.run_for(Duration::from_secs(5));
    assert!(link.a.poll_echo(id, &noop()).is_pending());
    link.a.echo_end(id);
    assert_eq!(link.a.poll_timeout(), None);
}
