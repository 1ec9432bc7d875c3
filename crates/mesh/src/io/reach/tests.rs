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
    reach.observe("203.0.113.5:4000".parse().unwrap(), now);
    assert_eq!(reach.varies(), Some(false));
    reach.observe("203.0.113.5:5111".parse().unwrap(), now);
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
