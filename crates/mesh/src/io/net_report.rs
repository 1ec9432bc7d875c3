//! [`net_report`]: what was measured, as [`NetReport`] tells it.

use std::collections::BTreeMap;

use sandd_control_client::netmap::{DerpMap, RegionId};

use super::https::HttpsAnswer;
use super::reach::Reach;
use crate::status::{NetReport, RegionLatency};

/// What the relays answered over TLS, where they were asked.
pub(crate) type HttpsAnswers = BTreeMap<RegionId, HttpsAnswer>;

/// The report without what only a running node knows: the state of its relay.
pub(crate) fn net_report(reach: &Reach, map: &DerpMap, https: &HttpsAnswers) -> NetReport {
    let latency = reach.latency();
    let udp = reach.udp() == Some(true);
    let region = |(id, region): (&RegionId, &std::sync::Arc<sandd_control_client::netmap::DerpRegion>)| RegionLatency {
        region: id.0,
        name: region.name.clone(),
        latency_ms: latency.get(id).map(|rtt| rtt.as_secs_f64() * 1e3),
        over_tls: !udp && matches!(https.get(id), Some(HttpsAnswer::Latency(_))),
    };
    NetReport {
        udp,
        ipv4: reach.answers(false),
        ipv6: reach.answers(true),
        public_addresses: reach.mapped().collect(),
        mapping_varies: reach.varies(),
        port_mapped: reach.port_mapped(),
        obstacle: if udp { None } else { obstacle(https) },
        home_region: reach.home().map(|home| home.0),
        relay_connected: false,
        relay_trouble: None,
        regions: map.regions.iter().map(region).collect(),
    }
}

/// What all that answered say stands in between.
fn obstacle(https: &HttpsAnswers) -> Option<String> {
    let through = |answer: &HttpsAnswer| matches!(answer, HttpsAnswer::Latency(_));
    if https.values().any(through) {
        return None;
    }
    https.values().find_map(|answer| match answer {
        HttpsAnswer::Captive => Some("a login page answers in place of the relays: log in to this network".to_owned()),
        HttpsAnswer::Intercepted(error) => Some(format!(
            "something shows a certificate of its own in place of the relays' ({error}): this network intercepts TLS, or the clock is wrong"
        )),
        HttpsAnswer::Latency(_) | HttpsAnswer::Failed(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_stands_in_between_is_said_when_nothing_gets_through() {
        let answers = |list: &[HttpsAnswer]| -> HttpsAnswers {
            let numbered = list.iter().zip(1..);
            numbered.map(|(answer, id)| (RegionId(id), answer.clone())).collect()
        };
        let failed = HttpsAnswer::Failed("no answer".to_owned());
        let reached = HttpsAnswer::Latency(Duration::from_millis(5));
        assert_eq!(obstacle(&answers(&[])), None);
        assert_eq!(obstacle(&answers(std::slice::from_ref(&failed))), None);
        assert_eq!(obstacle(&answers(&[HttpsAnswer::Captive, reached])), None);
        let captive = obstacle(&answers(&[failed, HttpsAnswer::Captive])).unwrap();
        assert!(captive.contains("login page"), "{captive}");
        let intercepted = obstacle(&answers(&[HttpsAnswer::Intercepted("unknown issuer".to_owned())])).unwrap();
        assert!(intercepted.contains("unknown issuer"), "{intercepted}");
    }
}
