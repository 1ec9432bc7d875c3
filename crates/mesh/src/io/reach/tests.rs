//! Home region, STUN rounds and endpoints with invented time.

use std::net::Ipv4Addr;

use sandd_control_client::netmap::{DerpNode, DerpRegion};

use super::*;

fn region(id: u16) -> (RegionId, Arc<DerpRegion>) {
    let node = DerpNode {
        name: id.to_string(),
        host_name: "relay.test".to_owned(),
        cert_name: String::new(),
        ipv4: format!("192.0.2.{id}"),
        ipv6: "none".to_owned(),
        derp_port: 443,
        stun_port: Some(3478),
        stun_only: false,
        insecure_for_tests: false,
        stun_test_ip: String::new(),
    };
    let region = DerpRegion {
        id: RegionId(id),
        code: id.to_string(),
        name: id.to_string(),
        no_measure_no_home: false,
        avoid: false,
        nodes: vec![node],
    };
    (RegionId(id), Arc::new(region))
}

fn map(ids: &[u16]) -> Arc<DerpMap> {
    Arc::new(DerpMap {
        regions: ids.iter().map(|id| region(*id)).collect(),
        ..DerpMap::default()
    })
}

fn server(id: u8) -> StunServer {
    StunServer {
        region: RegionId(id.into()),
        addr: (Ipv4Addr::new(192, 0, 2, id), 3478).into(),
    }
}

fn answer(request: &[u8], mapped: &str) -> Vec<u8> {
    let tx = stun::parse_request(request).unwrap();
    stun::binding_response(&tx, mapped.parse().unwrap())
}

#[test]
fn the_only_region_is_home_at_once() {
    let now = Instant::now();
    let mut reach = Reach::new((1, None), None, now);
    reach.set_map(map(&[7]));
    assert_eq!(reach.home(), Some(RegionId(7)));
}

#[test]
fn the_last_home_is_kept_until_another_is_clearly_faster() {
    let now = Instant::now();
    let mut reach = Reach::new((1, None), Some(RegionId(2)), now);
    reach.set_map(map(&[1, 2]));
    reach.set_control_connected(true, now);
    assert_eq!(reach.home(), Some(RegionId(2)));
    reach.set_servers(vec![server(1), server(2)], now);
    let requests = reach.poll_requests(|| true, now);
    assert_eq!(requests.len(), 2);
    for (to, request) in requests {
        let millis = if to.ip() == server(1).addr.ip() { 10 } else { 90 };
        assert!(
            reach.handle_response(
                &answer(&request, "203.0.113.5:4000"),
                now + Duration::from_millis(millis)
            ) || millis == 90
        );
    }
    let later = now + Duration::from_millis(100);
    reach.poll_requests(|| true, later);
    assert_eq!(reach.home(), Some(RegionId(1)));
    assert_eq!(
        reach.endpoints()[0],
        ("203.0.113.5:4000".parse().unwrap(), EndpointKind::Stun)
    );
}

#[test]
fn answers_nobody_waits_for_are_ignored() {
    let now = Instant::now();
    let mut reach = Reach::new((1, None), None, now);
    reach.set_map(map(&[1]));
    reach.set_servers(vec![server(1)], now);
    let forged = stun::binding_response(&[7; 12], "198.51.100.66:666".parse().unwrap());
    assert!(!reach.handle_response(&forged, now));
    assert!(reach.endpoints().is_empty());
}

#[test]
fn an_unanswered_request_is_repeated_three_times() {
    let now = Instant::now();
    let mut reach = Reach::new((1, None), None, now);
    reach.set_map(map(&[1]));
    reach.set_servers(vec![server(1)], now);
    let mut sent = 0;
    let mut at = now;
    while reach.measuring() {
        sent += reach.poll_requests(|| true, at).len();
        at = reach.poll_timeout().max(at + Duration::from_millis(1));
    }
    assert_eq!(sent, 3);
}

#[test]
fn two_mappings_at_once_mean_a_hard_nat() {
    let now = Instant::now();
    let mut reach = Reach::new((1, None), None, now);
    reach.set_map(map(&[1]));
    reach.set_servers(vec![server(1)], now);
    let (_, request) = reach.poll_requests(|| true, now).remove(0);
    reach.handle_response(&answer(&request, "203.0.113.5:4000"), now);
    assert_eq!(reach.varies(), None);
    reach.observe_mapped(
        "198.51.100.7:41641".parse().unwrap(),
        "203.0.113.5:4000".parse().unwrap(),
        now,
    );
    assert_eq!(reach.varies(), Some(false));
    reach.observe_mapped(
        "198.51.100.8:41641".parse().unwrap(),
        "203.0.113.5:5111".parse().unwrap(),
        now,
    );
    assert_eq!(reach.varies(), Some(true));
    // Its router may still forward the port that we listen on.
    let told = reach.endpoints();
    assert!(
        told.iter()
            .any(|(addr, kind)| addr.port() == 1 && *kind == EndpointKind::StunLocalPort),
        "{told:?}"
    );
}

#[test]
fn a_home_whose_relay_stays_away_is_left_for_another_region() {
    let now = Instant::now();
    let mut reach = Reach::new((1, None), Some(RegionId(1)), now);
    reach.set_map(map(&[1, 2]));
    reach.relay_failed(RegionId(1), now);
    assert!(
        !reach.leave_failing_home(now + Duration::from_secs(4)),
        "a restart takes a moment"
    );
    assert!(reach.leave_failing_home(now + Duration::from_secs(5)));
    assert_eq!(reach.home(), Some(RegionId(2)));
    reach.relay_failed(RegionId(2), now + Duration::from_secs(6));
    assert!(
        !reach.leave_failing_home(now + Duration::from_secs(60)),
        "the first one is still excluded"
    );
}

#[test]
fn the_only_home_is_never_left() {
    let now = Instant::now();
    let mut reach = Reach::new((1, None), None, now);
    reach.set_map(map(&[1]));
    reach.relay_failed(RegionId(1), now);
    assert!(!reach.leave_failing_home(now + Duration::from_secs(60)));
    assert_eq!(reach.home(), Some(RegionId(1)));
}

#[test]
fn a_node_that_was_let_in_again_has_its_home_at_once() {
    let now = Instant::now();
    let mut reach = Reach::new((1, None), None, now);
    reach.set_map(map(&[1]));
    reach.set_map(map(&[]));
    reach.relay_failed(RegionId(1), now);
    assert_eq!(reach.home(), None, "removed: there is no relay");
    reach.set_map(map(&[1]));
    assert_eq!(reach.home(), Some(RegionId(1)));
}

#[test]
fn what_did_not_change_is_not_told_again() {
    let now = Instant::now();
    let mut reach = Reach::new((1, None), None, now);
    assert!(reach.take_changed(), "nothing has been told yet");
    reach.set_map(map(&[1]));
    reach.set_servers(vec![server(1)], now);
    let (_, request) = reach.poll_requests(|| true, now).remove(0);
    reach.handle_response(&answer(&request, "203.0.113.5:4000"), now);
    assert!(reach.take_changed());
    reach.poll_requests(|| true, now);
    assert!(reach.take_changed(), "the round ended");
    for second in 1..10 {
        reach.poll_requests(|| true, now + Duration::from_secs(second));
        reach.leave_failing_home(now + Duration::from_secs(second));
        assert!(!reach.take_changed(), "second {second}");
    }
}

#[test]
fn a_public_address_goes_with_the_interface_that_had_it() {
    let now = Instant::now();
    let [own, natted] = ["2001:db8::5", "203.0.113.5"].map(|ip| ip.parse::<IpAddr>().unwrap());
    let mut reach = Reach::new((1, Some(2)), None, now);
    reach.set_interfaces(&BTreeSet::from([own, "192.168.1.2".parse().unwrap()]), (1, Some(2)));
    reach.set_map(map(&[1]));
    reach.set_servers(vec![server(1), server(2)], now);
    let mapped = [SocketAddr::new(own, 2), SocketAddr::new(natted, 4000)];
    for ((_, request), seen) in reach.poll_requests(|| true, now).into_iter().zip(mapped) {
        assert!(reach.handle_response(&answer(&request, &seen.to_string()), now));
    }
    reach.take_changed();
    reach.set_interfaces(&BTreeSet::from(["10.0.0.7".parse().unwrap()]), (1, Some(2)));
    assert!(reach.take_changed());
    let told: Vec<_> = reach
        .endpoints()
        .into_iter()
        .map(|(addr, _)| addr.to_string())
        .collect();
    assert_eq!(told, ["203.0.113.5:4000", "10.0.0.7:1"]);
}

/// Answers every request of a round, the server of region `n` after `latency(n)` milliseconds.
fn measure(reach: &mut Reach, latency: impl Fn(u16) -> u64, now: Instant) {
    reach.kick(now);
    for (to, request) in reach.poll_requests(|| true, now) {
        let IpAddr::V4(ip) = to.ip() else { panic!("{to}") };
        let after = Duration::from_millis(latency(ip.octets()[3].into()));
        reach.handle_response(&answer(&request, "203.0.113.5:4000"), now + after);
    }
    reach.poll_requests(|| true, now + Duration::from_secs(3));
    assert!(!reach.measuring());
}

fn measured_home(old: u64, new: u64, connected: bool) -> Option<RegionId> {
    let now = Instant::now();
    let mut reach = Reach::new((1, None), Some(RegionId(1)), now);
    reach.set_map(map(&[1, 2]));
    reach.relay_connected(RegionId(1));
    reach.set_control_connected(connected, now);
    reach.set_servers(vec![server(1), server(2)], now);
    measure(&mut reach, |id| if id == 1 { old } else { new }, now);
    reach.home()
}

#[test]
fn a_home_that_works_is_left_for_a_clearly_faster_one_alone() {
    for (old, new, home) in [
        (90, 30, 2),
        (90, 70, 1),
        (12, 3, 1),
        (40, 20, 2),
        (30, 19, 2),
        (30, 21, 1),
    ] {
        assert_eq!(measured_home(old, new, true), Some(RegionId(home)), "{old} to {new}");
    }
}

#[test]
fn the_home_waits_for_the_coordinator_to_tell_of_it() {
    let now = Instant::now();
    assert_eq!(measured_home(90, 30, false), Some(RegionId(1)));
    let mut reach = Reach::new((1, None), Some(RegionId(1)), now);
    reach.set_map(map(&[1, 2]));
    reach.set_servers(vec![server(1), server(2)], now);
    measure(&mut reach, |id| if id == 1 { 90 } else { 30 }, now);
    assert_eq!(reach.home(), Some(RegionId(1)));
    reach.set_control_connected(true, now);
    assert_eq!(reach.home(), Some(RegionId(2)));
}

#[test]
fn one_slow_answer_does_not_move_the_home() {
    let now = Instant::now();
    let mut reach = Reach::new((1, None), Some(RegionId(1)), now);
    reach.set_map(map(&[1, 2]));
    reach.relay_connected(RegionId(1));
    reach.set_control_connected(true, now);
    reach.set_servers(vec![server(1), server(2)], now);
    measure(&mut reach, |id| if id == 1 { 20 } else { 40 }, now);
    // A full queue at home: it counts by its best of the last five minutes.
    let later = now + Duration::from_secs(60);
    measure(&mut reach, |id| if id == 1 { 300 } else { 40 }, later);
    assert_eq!(reach.home(), Some(RegionId(1)));
}

#[test]
fn without_any_answer_udp_is_blocked_and_tls_measures() {
    let now = Instant::now();
    let mut reach = Reach::new((1, None), None, now);
    reach.set_map(map(&[1, 2]));
    assert_eq!(reach.home(), Some(RegionId(1)), "nothing is waited for");
    reach.set_control_connected(true, now);
    reach.set_servers(vec![server(1), server(2)], now);
    assert_eq!((reach.udp(), reach.net_info().working_udp), (None, None));
    let end = now + Duration::from_secs(3);
    for at in [now, now + Duration::from_millis(200), end] {
        reach.poll_requests(|| true, at);
    }
    assert_eq!((reach.udp(), reach.net_info().working_udp), (Some(false), Some(false)));
    assert!(reach.take_wants_https() && !reach.take_wants_https());
    let millis = Duration::from_millis;
    reach.note_https(&[(RegionId(1), millis(80)), (RegionId(2), millis(20))], end);
    assert_eq!(reach.home(), Some(RegionId(2)));
    measure(&mut reach, |_| 10, end);
    assert_eq!(reach.udp(), Some(true));
}

#[test]
fn a_rebind_of_the_nat_is_told_and_is_no_hard_nat() {
    let now = Instant::now();
    let mut reach = Reach::new((1, None), None, now);
    reach.set_map(map(&[1]));
    reach.set_servers(vec![server(1)], now);
    for (second, mapped) in [(0, "203.0.113.5:4000"), (15, "203.0.113.5:4001")] {
        let at = now + Duration::from_secs(second);
        let (_, request) = reach.poll_requests(|| true, at).remove(0);
        assert!(reach.handle_response(&answer(&request, mapped), at));
        assert_eq!(reach.mapped().collect::<Vec<_>>(), [mapped.parse().unwrap()]);
        reach.poll_requests(|| true, at);
    }
    assert_eq!(reach.varies(), None);
}
