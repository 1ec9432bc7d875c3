//! Measuring the network: relays asked over TLS where UDP is blocked, and the reports that were asked for.

use std::sync::Arc;
use std::time::Instant;

use sandd_control_client::netmap::RegionId;
use tokio::sync::oneshot;

use super::Driver;
use crate::io::derp::targets;
use crate::io::https;
use crate::io::net_report::{HttpsAnswers, net_report};
use crate::io::or_never::or_never;
use crate::status::NetReport;

/// The relays' answers over TLS: those that are waited for, and the last ones.
#[derive(Debug, Default)]
pub(super) struct Https {
    pending: Option<oneshot::Receiver<HttpsAnswers>>,
    answers: HttpsAnswers,
}

impl Https {
    /// The answers that are waited for; never, when there are none.
    pub(super) async fn next(&mut self) -> HttpsAnswers {
        or_never(self.pending.as_mut()).await.unwrap_or_default()
    }
}

impl Driver {
    /// After a round has ended: what it leaves open, and whom it answers.
    pub(super) fn after_measuring(&mut self) {
        if self.reach.take_wants_https() {
            self.ask_over_https();
        }
        if !self.reach.measuring() && self.state.https.pending.is_none() {
            self.answer_netchecks();
        }
    }

    fn ask_over_https(&mut self) {
        let map = &self.engine.map().derp_map;
        let first = |(id, region): (&RegionId, &Arc<_>)| {
            let servers = targets(region, self.derp.control());
            Some((*id, servers.into_iter().next()?))
        };
        let asked = map.regions.iter().filter_map(first).collect();
        let (answer, answers) = oneshot::channel();
        let dialer = self.derp.dialer().clone();
        // Ends by itself after some seconds.
        self.runtime.spawn(async move {
            let _ = answer.send(https::measure(asked, dialer).await);
        });
        self.state.https.pending = Some(answers);
    }

    pub(super) fn receive_https(&mut self, answers: HttpsAnswers, now: Instant) {
        self.reach.note_https(&https::latencies(&answers), now);
        self.state.https = Https { pending: None, answers };
        self.after_measuring();
    }

    fn answer_netchecks(&mut self) {
        if self.state.netchecks.is_empty() {
            return;
        }
        let home = self.reach.home();
        let report = NetReport {
            relay_connected: home.is_some_and(|home| self.derp.is_connected(home)),
            relay_trouble: home.and_then(|home| self.derp.trouble(home)),
            ..net_report(&self.reach, &self.engine.map().derp_map, &self.state.https.answers)
        };
        for answer in self.state.netchecks.drain(..) {
            let _ = answer.send(report.clone());
        }
    }
}
