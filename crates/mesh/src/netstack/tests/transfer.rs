//! Bulk data arrives exactly, whatever the line does.

use std::task::Poll;
use std::time::Duration;

use proptest::prelude::*;

use super::link::{CALM, Link, Pattern, Side, Weather, noop, v4, v6};

const PORT: u16 = 8765;

/// Sends `len` bytes of the pattern from A to B and compares each; the invented time that it took.
fn transfer(weather: Weather, over_v6: bool, len: u64) -> Duration {
    let pattern = Pattern::new();
    let mut link = Link::new(weather);
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
    link.now - began
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_weather_is_survived(
        delay in 0_u64..100, jitter in 0_u64..50, loss in 0_u64..100, duplication in 0_u64..100,
        over_v6: bool, len in 0_u64..400_000,
    ) {
        let weather = Weather {
            delay: Duration::from_millis(delay),
            jitter: Duration::from_millis(jitter),
            loss,
            duplication,
        };
        transfer(weather, over_v6, len);
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
