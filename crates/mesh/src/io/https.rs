//! How far the relays are over TLS, and what stands in between: for networks in which no STUN server answers.
//!
//! All regions are asked at once, for five seconds at most: connect, then time one `GET /derp/probe`. A redirect is the
//! work of a login page ("captive portal"), a certificate that is not the relay's that of an intercepting proxy.

use std::time::{Duration, Instant};

use sandd_control_client::dial::{Dialer, request};
use sandd_control_client::netmap::RegionId;
use tokio::task::JoinSet;

use super::derp::Target;
use super::net_report::HttpsAnswers;

/// For all of it.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What a region's relay answered over TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HttpsAnswer {
    /// After this time.
    Latency(Duration),
    /// Something in between wants a person to log in.
    Captive,
    /// Something in between shows a certificate of its own.
    Intercepted(String),
    /// Nothing.
    Failed(String),
}

/// Asks one server of each region.
pub(crate) async fn measure(targets: Vec<(RegionId, Target)>, dialer: Dialer) -> HttpsAnswers {
    let mut asking = JoinSet::new();
    for (region, target) in targets {
        let dialer = dialer.clone();
        asking.spawn(async move { (region, ask(&target, &dialer).await) });
    }
    let mut answers = HttpsAnswers::new();
    let all = async {
        while let Some(answered) = asking.join_next().await {
            answers.extend(answered.ok());
        }
    };
    // Whoever has not answered by then is simply missing.
    let _ = tokio::time::timeout(TIMEOUT, all).await;
    answers
}

async fn ask(target: &Target, dialer: &Dialer) -> HttpsAnswer {
    let stream = match dialer.dial(target.dial()).await {
        Ok(stream) => stream,
        Err(error) if error.is_certificate() => return HttpsAnswer::Intercepted(error.to_string()),
        Err(error) => return HttpsAnswer::Failed(error.to_string()),
    };
    let began = Instant::now();
    match request(stream, &target.probe_request()).await {
        Ok(head) if head.status() < 300 => HttpsAnswer::Latency(began.elapsed()),
        Ok(head) if head.status() < 400 || head.status() == 511 => HttpsAnswer::Captive,
        Ok(head) => HttpsAnswer::Failed(format!("it answered {}", head.status())),
        Err(error) => HttpsAnswer::Failed(error.to_string()),
    }
}

/// The answers that are times.
pub(crate) fn latencies(answers: &HttpsAnswers) -> Vec<(RegionId, Duration)> {
    let times = answers.iter().filter_map(|(region, answer)| match answer {
        HttpsAnswer::Latency(rtt) => Some((*region, *rtt)),
        HttpsAnswer::Captive | HttpsAnswer::Intercepted(_) | HttpsAnswer::Failed(_) => None,
    });
    times.collect()
}
