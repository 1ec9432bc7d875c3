//! Bulk data arrives exactly, whatever the line does.

use std::task::Poll;
use std::time::Duration;

use proptest::prelude::*;

use super::link::{CALM, Link, Pattern, Side, Weather, noop, v4, v6};

const PORT: u16 = 8765;

/// Sends `len` bytes of the pattern from A to B and compares each; the invented time that it took.
fn transfer(weather: Weather, over_v6: bool, len: u64) -> Duration {
    transfer_over(Link::new(weather), over_v6, len).0
}

fn transfer_over(mut link: Link, over_v6: bool, len: u64) -> (Duration, Link) {
    let pattern = Pattern::new();
    let (listener, _) = link.b.tcp_listen(PORT, 16).unwrap();
    let remote = if over_v6 { v6(2) } else { v4(2) };
    let (sender, receiver) = link.connect(listener, (remote, PORT).into());
    let began = link.now;
    let (mut sent, mut received, mut closed) = (0, 0, false);
    let mut buffer = vec![0; 32 * 1024];
    link.run_until(|link| {
        while sent < len {
            let chunk = pattern.at(sent, (len - sent).min(16 * 1024) as usize);
            match link.a.poll_write(sender, &noop(), chunk) {
                Poll::Ready(count) => sent += count.unwrap() as u64,
                Poll::Pending => break,
            }
        }
        if sent == len && !closed {
            closed = true;
            link.a.tcp_shutdown(sender);
        }
        loop {
            match link.b.poll_read(receiver, &noop(), &mut buffer) {
                Poll::Ready(Ok(0)) => return Some(()),
                Poll::Ready(Ok(count)) => {
                    assert!(buffer[..count] == *pattern.at(received, count));
                    received += count as u64;
                }
                Poll::Ready(Err(error)) => panic!("after {received} bytes: {error}"),
                Poll::Pending => return None,
            }
        }
    });
    assert_eq!(received, len);
    (link.now - began, link)
}

#[test]
fn super_packets_go_both_ways_in_both_families() {
    for over_v6 in [false, true] {
        let mut link = Link::new(CALM);
        link.joins = true;
        let (_, link) = transfer_over(link, over_v6, 32 * 1024 * 1024);
        assert!(link.largest > 50_000, "{}", link.largest);
        // Far fewer packets than segments were handled.
        let (sent, taken) = (link.a.metrics().packets_out, link.b.metrics().packets_in);
        assert!(sent < 3_000 && taken < 3_000, "{sent} sent, {taken} taken");
    }
}

#[test]
fn a_hundred_megabytes_survive_loss_reordering_and_duplication() {
    let weather = Weather {
        delay: Duration::from_millis(10),
        jitter: Duration::from_millis(2),
        loss: 5,
        duplication: 5,
    };
    transfer(weather, false, 100 * 1024 * 1024);
}

#[test]
fn a_calm_line_is_filled() {
    let took = transfer(CALM, true, 32 * 1024 * 1024);
    // A window of 512 KiB each 10 ms is 50 MiB/s; slow start and acknowledgements take their share.
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_line_without_delay_works() {
    let weather = Weather {
        delay: Duration::ZERO,
        ..CALM
    };
    transfer(weather, false, 4 * 1024 * 1024);
}

/// The peer acknowledges all bytes, repeatedly, but has not seen the FIN behind them.
#[test]
fn a_lost_fin_is_sent_again_whatever_is_acknowledged_meanwhile() {
    let weather = Weather {
        delay: Duration::from_millis(24),
        jitter: Duration::from_millis(8),
        loss: 57,
        duplication: 78,
    };
    transfer(weather, false, 334_353);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_weather_is_survived(
        delay in 0_u64..100, jitter in 0_u64..50, loss in 0_u64..100, duplication in 0_u64..100,
        over_v6: bool, joins: bool, len in 0_u64..400_000,
    ) {
        let weather = Weather {
            delay: Duration::from_millis(delay),
            jitter: Duration::from_millis(jitter),
            loss,
            duplication,
        };
        let mut link = Link::new(weather);
        link.joins = joins;
        transfer_over(link, over_v6, len);
    }
}

#[test]
fn a_slow_reader_stops_the_writer_and_loses_nothing() {
    let pattern = Pattern::new();
    let mut link = Link::new(CALM);
    let (listener, _) = link.b.tcp_listen(PORT, 16).unwrap();
    let (sender, receiver) = link.connect(listener, (v4(2), PORT).into());
    let mut sent = 0_u64;
    let fill = |link: &mut Link, sent: &mut u64| {
        while let Poll::Ready(count) = link.write(Side::A, sender, pattern.at(*sent, 10_000)) {
            *sent += count.unwrap() as u64;
        }
    };
    for _ in 0..20 {
        fill(&mut link, &mut sent);
        link.run_for(Duration::from_secs(1));
    }
    // Both buffers are full, and no more.
    assert!(sent <= 2 * 512 * 1024, "{sent}");
    // A window that stays shut for long only costs probes.
    let carried = link.carried;
    link.run_for(Duration::from_secs(600));
    assert!(link.carried - carried < 100, "{} packets", link.carried - carried);
    let mut received = 0_u64;
    while received < 3_000_000 {
        fill(&mut link, &mut sent);
        if let Poll::Ready(bytes) = link.read(Side::B, receiver) {
            let bytes = bytes.unwrap();
            assert!(bytes == pattern.at(received, bytes.len()));
            received += bytes.len() as u64;
        }
        link.run_for(Duration::from_millis(50));
    }
}

#[test]
fn a_shut_window_does_not_stop_the_other_direction() {
    let pattern = Pattern::new();
    let mut link = Link::new(CALM);
    let (listener, _) = link.b.tcp_listen(PORT, 16).unwrap();
    let (a, b) = link.connect(listener, (v4(2), PORT).into());
    // A fills B, which does not read, and probes its window for a while.
    for _ in 0..5 {
        while link.write(Side::A, a, pattern.at(0, 10_000)).is_ready() {}
        link.run_for(Duration::from_secs(2));
    }
    let began = link.now;
    let (mut sent, mut received) = (0, 0);
    link.run_until(|link| {
        while let Poll::Ready(count) = link.write(Side::B, b, pattern.at(sent, 10_000)) {
            sent += count.unwrap() as u64;
        }
        while let Poll::Ready(bytes) = link.read(Side::A, a) {
            let bytes = bytes.unwrap();
            assert!(bytes == pattern.at(received, bytes.len()));
            received += bytes.len() as u64;
        }
        (received > 3_000_000).then_some(())
    });
    assert!(link.now - began < Duration::from_secs(2));
}

/// Both sides send, close and read at their own pace; then both let go.
fn conversation(weather: Weather, lens: [u64; 2], pauses: [u64; 2]) {
    let pattern = Pattern::new();
    // Small buffers, so that windows shut.
    let mut link = Link::with(weather, |config| {
        (config.receive_buffer, config.send_buffer) = (65_535, 20_000);
        // Probes of a shut window are a minute apart, and several may be lost in a row.
        config.stall_timeout = Duration::from_secs(40_000);
    });
    let (listener, _) = link.b.tcp_listen(PORT, 16).unwrap();
    let (a, b) = link.connect(listener, (v4(2), PORT).into());
    let sides = [(Side::A, a), (Side::B, b)];
    let mut sent = [0; 2];
    let mut received = [0; 2];
    let mut ended = [false; 2];
    let mut closed = [false; 2];
    let mut turns = 0_u64;
    let mut buffer = vec![0; 8 * 1024];
    link.run_until(|link| {
        turns += 1;
        for (me, (side, id)) in sides.into_iter().enumerate() {
            let len = lens[me];
            while sent[me] < len {
                let chunk = pattern.at(sent[me], (len - sent[me]).min(10_000) as usize);
                match link.write(side, id, chunk) {
                    Poll::Ready(count) => sent[me] += count.unwrap() as u64,
                    Poll::Pending => break,
                }
            }
            if sent[me] == len && !closed[me] {
                closed[me] = true;
                link.stack(side).tcp_shutdown(id);
            }
            if turns.is_multiple_of(pauses[me] + 1) && !ended[me] {
                match link.stack(side).poll_read(id, &noop(), &mut buffer) {
                    Poll::Ready(Ok(0)) => ended[me] = true,
                    Poll::Ready(Ok(count)) => {
                        assert!(buffer[..count] == *pattern.at(received[me], count));
                        received[me] += count as u64;
                    }
                    Poll::Ready(Err(error)) => panic!("{side:?} after {} bytes: {error}", received[me]),
                    Poll::Pending => {}
                }
            }
        }
        // A reader that pauses needs turns although nothing else happens.
        if !(ended[0] && ended[1]) && link.is_quiet() {
            link.now += Duration::from_millis(1);
        }
        (ended[0] && ended[1]).then_some(())
    });
    assert_eq!(received, [lens[1], lens[0]]);
    link.a.tcp_release(a);
    link.b.tcp_release(b);
    link.run_for(Duration::from_secs(120));
    assert_eq!((link.a.connection_count(), link.b.connection_count()), (0, 0));
    assert_eq!((link.a.poll_timeout(), link.b.poll_timeout()), (None, None));
    // With losses in a row a goodbye may take longer than anybody is patient; a doubled last word finds nobody.
    assert!(link.resets == 0 || weather.loss > 0 || weather.duplication > 0);
}

/// Each found a connection that stood still or lost its last byte, before our fork mended it.
#[test]
fn conversations_that_once_failed() {
    let cases = [
        // Both retransmit at the same moment, and have received all that the other one sends again.
        (0, 0, 50, 12, [3289, 24_777], [0, 0]),
        // An old segment says that the window is shut.
        (19, 10, 110, 26, [34_380, 209_712], [29, 6]),
        // A FIN behind bytes that do not fit into the window.
        (53, 23, 114, 121, [172_798, 208_416], [48, 2]),
        // A fast retransmit larger than the window, and window updates after the peer's FIN.
        (40, 29, 25, 116, [1241, 207_646], [40, 0]),
    ];
    for (delay, jitter, loss, duplication, lens, pauses) in cases {
        let (delay, jitter) = (Duration::from_millis(delay), Duration::from_millis(jitter));
        conversation(
            Weather {
                delay,
                jitter,
                loss,
                duplication,
            },
            lens,
            pauses,
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn both_sides_talk_and_close_in_any_weather(
        delay in 0_u64..60, jitter in 0_u64..30, loss in 0_u64..150, duplication in 0_u64..150,
        len_a in 0_u64..300_000, len_b in 0_u64..300_000, pause_a in 0_u64..50, pause_b in 0_u64..50,
    ) {
        let weather = Weather {
            delay: Duration::from_millis(delay),
            jitter: Duration::from_millis(jitter),
            loss,
            duplication,
        };
        conversation(weather, [len_a, len_b], [pause_a, pause_b]);
    }
}
