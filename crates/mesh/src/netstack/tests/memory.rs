//! What a connection keeps in memory when nothing happens on it: what the allocator gave out and did not get back.

use std::task::Poll;
use std::time::Duration;

use super::super::ConnectionId;
use super::link::{CALM, Link, Side, Weather, noop, v4};

const PORT: u16 = 8765;
const CONNECTIONS: usize = 16;
/// Of one end.
const BAR: i64 = 16 * 1024;
const IDLE: Duration = Duration::from_secs(60);

type Ends = (ConnectionId, ConnectionId);

/// Opens connections, has `talk` use each, waits, and asserts the bar.
fn idle_ends_stay_below_the_bar(weather: Weather, talk: impl Fn(&mut Link, Ends)) {
    let mut link = Link::new(weather);
    let (listener, _) = link.b.tcp_listen(PORT, CONNECTIONS).unwrap();
    // What all connections share is there after the first one.
    let first = link.connect(listener, (v4(2), PORT).into());
    talk(&mut link, first);
    link.run_for(IDLE);
    let mut all = Vec::with_capacity(CONNECTIONS);
    let counted = allocation_counter::measure(|| {
        for _ in 0..CONNECTIONS {
            all.push(link.connect(listener, (v4(2), PORT).into()));
        }
        for ends in &all {
            talk(&mut link, *ends);
        }
        link.run_for(IDLE);
    });
    assert_eq!(link.a.connection_count(), CONNECTIONS + 1);
    assert_eq!(link.b.connection_count(), CONNECTIONS + 1);
    let each = counted.bytes_current / (2 * CONNECTIONS as i64);
    eprintln!("{each} octets an end");
    assert!(each <= BAR, "{each} octets");
}

/// `len` octets there and as many back at once, `piece` in one call.
fn exchange(link: &mut Link, (a, b): Ends, len: usize, piece: usize) {
    let (chunk, mut buffer) = (vec![7; piece], vec![0; 64 * 1024]);
    let (mut sent, mut received) = ([0; 2], [0; 2]);
    link.run_until(|link| {
        for (at, (stack, id)) in [(&mut link.a, a), (&mut link.b, b)].into_iter().enumerate() {
            while sent[at] < len {
                let wanted = piece.min(len - sent[at]);
                let Poll::Ready(count) = stack.poll_write(id, &noop(), &chunk[..wanted]) else {
                    break;
                };
                sent[at] += count.unwrap();
            }
            while let Poll::Ready(count) = stack.poll_read(id, &noop(), &mut buffer) {
                received[at] += count.unwrap();
            }
        }
        (received == [len; 2]).then_some(())
    });
}

#[test]
fn after_a_question_and_an_answer() {
    idle_ends_stay_below_the_bar(CALM, |link, ends| exchange(link, ends, 4_000, 4_000));
}

#[test]
fn after_bulk_with_losses() {
    let weather = Weather { loss: 5, ..CALM };
    idle_ends_stay_below_the_bar(weather, |link, ends| exchange(link, ends, 200_000, 64 * 1024));
}

/// Each octet was a segment of its own, and all were on their way at once.
#[test]
fn after_single_octets() {
    let slow = Weather {
        delay: Duration::from_millis(500),
        ..CALM
    };
    idle_ends_stay_below_the_bar(slow, |link, (a, b)| {
        for _ in 0..3_000 {
            for (stack, id) in [(&mut link.a, a), (&mut link.b, b)] {
                assert!(stack.poll_write(id, &noop(), &[7]).is_ready());
            }
            link.turn();
            link.now += Duration::from_micros(10);
        }
        for (side, id) in [(Side::A, a), (Side::B, b)] {
            let mut received = 0;
            link.run_until(|link| {
                while let Poll::Ready(bytes) = link.read(side, id) {
                    received += bytes.unwrap().len();
                }
                (received == 3_000).then_some(())
            });
        }
    });
}
