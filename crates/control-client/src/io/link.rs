//! Following the map on one connection: messages in, updates out, and the deadlines of both.

use std::pin::Pin;
use std::time::{Duration, Instant, SystemTime};

use super::chance;
use super::driver::{Driver, End, deliver};
use super::enroll::Why;
use super::ping::PingAnswers;
use super::session::{Connection, MapStream, is_unknown_node};
use crate::announce::{Announcement, UpdatePacer};
use crate::backoff::Backoff;
use crate::error::ControlError;
use crate::event::{ControlEvent, ControlState};
use crate::netmap::{MapNode, NetmapDelta, NetmapUpdate, RegionId};
use crate::wire::MapResponse;

/// The coordinator sends something at least every minute.
const WATCHDOG: Duration = Duration::from_secs(120);
/// Headscale never tells a deleted node on its stream; it says so to an update.
const LIVENESS: Duration = Duration::from_secs(300);
const SAVE_DELAY: Duration = Duration::from_secs(2);
/// A connection that lived this long was a success.
const HEALTHY: Duration = Duration::from_secs(10);
const MAX_PAUSE: f64 = 5.0;
/// The longest sleep, so that a clock set anew is noticed.
const MAX_SLEEP: Duration = Duration::from_secs(600);

type UpdateInFlight = Pin<Box<dyn Future<Output = (Announcement, Result<(), ControlError>)> + Send>>;

struct Link {
    connection: Connection,
    stream: MapStream,
    pacer: UpdatePacer,
    update: Option<UpdateInFlight>,
    update_backoff: Backoff,
    pings: PingAnswers,
    opened: Instant,
    heard: Instant,
    paused_until: Option<Instant>,
    liveness: Instant,
    save_at: Option<Instant>,
    first: bool,
}

impl Link {
    fn next_deadline(&self, expiry: Option<SystemTime>) -> Instant {
        let now = Instant::now();
        let expiry = expiry.map(|end| now + end.duration_since(SystemTime::now()).unwrap_or_default().min(MAX_SLEEP));
        let update = self.pacer.due().filter(|_| self.update.is_none());
        [Some(self.liveness), update, self.save_at, expiry, self.paused_until]
            .into_iter()
            .flatten()
            .fold(self.heard + WATCHDOG, Instant::min)
            .min(now + MAX_SLEEP)
    }
}

fn next_liveness(now: Instant) -> Instant {
    now + LIVENESS + LIVENESS.mul_f64(chance())
}

impl Driver {
    /// Follows the map until something ends it; a reason to register anew is no error.
    pub(super) async fn follow(&mut self, connection: &Connection) -> Result<Why, End> {
        let Some(node_key) = self.state.node_key.as_ref().map(|key| key.public()) else {
            return Ok(Why::Join);
        };
        let early = self.early_map.take();
        let announcement = self.shared.announcement();
        let opening = connection.clone();
        let opened = self.race(async move {
            if let Some(early) = early
                && let Some(opened) = early.take().await
            {
                return Ok(opened);
            }
            let request = announcement.map_request(node_key, true);
            Ok((opening.open_map(&request).await?, announcement))
        });
        let (stream, announcement) = match opened.await? {
            Ok(opened) => opened,
            Err(error) => return unknown_or_error(error),
        };
        let now = Instant::now();
        self.session.begin_stream();
        let mut link = Link {
            connection: connection.clone(),
            stream,
            pacer: UpdatePacer::new(announcement, now),
            update: None,
            update_backoff: Backoff::default(),
            pings: PingAnswers::default(),
            opened: now,
            heard: now,
            paused_until: None,
            liveness: next_liveness(now),
            save_at: None,
            first: true,
        };
        let end = self.serve(&mut link).await;
        if link.save_at.is_some() {
            self.saver.save_netmap(Some(self.session.map()));
        }
        if !link.first && link.opened.elapsed() >= HEALTHY {
            self.backoff.reset();
        }
        end
    }

    async fn serve(&mut self, link: &mut Link) -> Result<Why, End> {
        self.note_changes(link);
        loop {
            let deadline = link.next_deadline(self.session.next_expiry());
            let paused = link.paused_until.is_some();
            tokio::select! {
                biased;
                command = self.commands.recv() => return Err(command.map_or(End::Abandoned, End::Command)),
                message = link.stream.next(), if !paused => {
                    if let Some(why) = self.take_message(link, &message?).await? {
                        return Ok(why);
                    }
                }
                (told, result) = running(&mut link.update) => {
                    link.update = None;
                    match result {
                        Ok(()) => {
                            link.update_backoff.reset();
                            link.pacer.acknowledged(told);
                            self.note_changes(link);
                        }
                        Err(error) if is_unknown_node(&error) => return unknown_or_error(error),
                        Err(error) => {
                            tracing::debug!(%error, "coordinator did not take an update");
                            let now = Instant::now();
                            link.pacer.require(now + link.update_backoff.next_delay(now, chance()));
                        }
                    }
                }
                delivered = deliver(&self.events, &mut self.outbox) => delivered?,
                () = self.shared.changed.notified() => self.note_changes(link),
                () = tokio::time::sleep_until(deadline.into()) => {
                    if let Some(why) = self.handle_deadlines(link)? {
                        return Ok(why);
                    }
                }
            }
        }
    }

    async fn take_message(&mut self, link: &mut Link, json: &[u8]) -> Result<Option<Why>, End> {
        let now = Instant::now();
        link.heard = now;
        let message: MapResponse<MapNode> = serde_json::from_slice(json).map_err(|source| ControlError::Json {
            path: "/machine/map",
            source,
        })?;
        if let Some(ping) = &message.ping_request {
            link.pings.handle(ping, &self.config, &link.connection);
        }
        if let Some(debug) = &message.debug
            && debug.sleep_seconds > 0.0
        {
            link.paused_until = Some(now + Duration::from_secs_f64(debug.sleep_seconds.min(MAX_PAUSE)));
        }
        if !message.pop_browser_url.is_empty() {
            tracing::info!(url = ?message.pop_browser_url, "coordinator wants a page opened");
        }
        let keep_alive = message.keep_alive;
        let delta = self
            .session
            .apply(message, SystemTime::now())
            .map_err(ControlError::from)?;
        if link.first && !keep_alive {
            link.first = false;
            // What the registration changed is on disk before anybody builds on it.
            self.race(self.saver.flush()).await?.map_err(ControlError::from)?;
            self.publish(link, delta);
            self.tell(ControlState::Connected);
        } else {
            self.publish(link, delta);
        }
        Ok(self.self_expired())
    }

    /// A reason to register anew when our own key has ended; otherwise the membership is known to be good.
    fn self_expired(&mut self) -> Option<Why> {
        let map = self.session.map();
        let expired = map.self_node.as_ref().is_some_and(|node| node.expired);
        if expired {
            tracing::warn!("this node's key has expired");
            return Some(Why::Expired);
        }
        self.renewals = 0;
        None
    }

    fn publish(&mut self, link: &mut Link, delta: NetmapDelta) {
        if delta.is_empty() {
            return;
        }
        link.save_at.get_or_insert(Instant::now() + SAVE_DELAY);
        self.outbox.push(ControlEvent::Netmap(NetmapUpdate {
            map: self.session.map(),
            delta,
            cached: false,
        }));
    }

    /// The embedder has changed what is told of this node.
    fn note_changes(&mut self, link: &mut Link) {
        let current = self.shared.announcement();
        let home = current
            .net_info
            .as_ref()
            .and_then(|info| u16::try_from(info.preferred_derp).ok());
        let home = home.filter(|home| *home != 0).map(RegionId);
        let home = home.or(self.state.home);
        let relay_keys = self.shared.with(|state| state.relay_keys.clone());
        if home != self.state.home || relay_keys != self.state.relay_keys {
            self.state.home = home;
            self.state.relay_keys = relay_keys;
            self.saver.save(&self.state);
        }
        link.pacer.changed(&current, Instant::now());
    }

    fn handle_deadlines(&mut self, link: &mut Link) -> Result<Option<Why>, End> {
        let now = Instant::now();
        link.paused_until = link.paused_until.filter(|until| *until > now);
        if now >= link.heard + WATCHDOG {
            return Err(ControlError::TimedOut("for two minutes").into());
        }
        if now >= link.liveness {
            link.liveness = next_liveness(now);
            link.pacer.require(now);
        }
        if link.update.is_none() && link.pacer.due().is_some_and(|due| due <= now) {
            self.start_update(link, now);
        }
        if link.save_at.is_some_and(|at| at <= now) {
            link.save_at = None;
            self.saver.save_netmap(Some(self.session.map()));
        }
        let ended = self.session.expire(SystemTime::now());
        if ended.is_empty() {
            return Ok(None);
        }
        self.publish(link, ended);
        Ok(self.self_expired())
    }

    fn start_update(&mut self, link: &mut Link, now: Instant) {
        let Some(node_key) = self.state.node_key.as_ref().map(|key| key.public()) else {
            return;
        };
        let announcement = self.shared.announcement();
        let request = announcement.map_request(node_key, false);
        let connection = link.connection.clone();
        link.pacer.sending(now);
        link.update = Some(Box::pin(async move {
            let result = connection.update(&request).await;
            (announcement, result)
        }));
    }
}

async fn running(update: &mut Option<UpdateInFlight>) -> (Announcement, Result<(), ControlError>) {
    match update {
        Some(update) => update.await,
        None => std::future::pending().await,
    }
}

fn unknown_or_error(error: ControlError) -> Result<Why, End> {
    if !is_unknown_node(&error) {
        return Err(error.into());
    }
    let foreign = matches!(&error, ControlError::Status { text, .. } if text.contains("does not match"));
    Ok(if foreign { Why::ForeignKey } else { Why::Removed })
}
