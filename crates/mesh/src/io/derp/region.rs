//! [`RegionTask`]: keeps one region connected while that is wanted.
//!
//! ```text
//! [not wanted] ── home, or a packet ──▶ [connecting] ──▶ [connected] ── idle ──▶ [not wanted]
//!                                        ▲      │ fails       │ fails
//!                                        └──── [pause] ◀──────┘
//! ```
//!
//! A connection that does not answer is not given up before a second one is logged in beside it.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sandd_control_client::dial::Dialer;
use sandd_control_client::keys::NodePrivateKey;
use sandd_control_client::netmap::RegionId;
use tokio::sync::{Notify, mpsc};

use super::backoff::Backoff;
use super::connect::{Attempt, Known, connect};
use super::connection::Step;
use super::error::RelayError;
use super::queue::SendQueue;
use super::target::Target;
use super::{DerpEvent, DropCounters};

/// News about a connection waits this long for room; packets leave it some.
const NEWS_PATIENCE: Duration = Duration::from_secs(1);

/// What the pool and its region task share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) queue: SendQueue,
    home: AtomicBool,
    connected: AtomicBool,
    connect_micros: AtomicU64,
    probe: AtomicBool,
    retry: Notify,
    drops: Arc<DropCounters>,
}

impl Shared {
    pub(super) fn new(home: bool, drops: Arc<DropCounters>) -> Self {
        Self {
            queue: SendQueue::new(Arc::clone(&drops)),
            home: AtomicBool::new(home),
            connected: AtomicBool::new(false),
            connect_micros: AtomicU64::new(0),
            probe: AtomicBool::new(false),
            retry: Notify::new(),
            drops,
        }
    }

    pub(super) fn set_home(&self, home: bool) {
        self.home.store(home, Ordering::Relaxed);
        self.queue.wake();
    }

    pub(super) fn is_home(&self) -> bool {
        self.home.load(Ordering::Relaxed)
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    pub(super) fn connect_time(&self) -> Option<Duration> {
        match self.connect_micros.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }

    /// A connection proves itself now; a pause ends.
    pub(super) fn probe(&self) {
        self.probe.store(true, Ordering::Relaxed);
        self.queue.wake();
        self.retry.notify_waiters();
    }

    pub(super) fn take_probe(&self) -> bool {
        self.probe.swap(false, Ordering::Relaxed)
    }

    fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
        self.queue.set_flowing(connected);
    }

    async fn wanted(&self) {
        while !self.is_home() && self.queue.is_empty() {
            self.queue.filled().await;
        }
    }
}

/// What a region needs to connect.
pub(super) struct Link {
    pub(super) key: NodePrivateKey,
    pub(super) dialer: Dialer,
    pub(super) targets: Vec<Target>,
    pub(super) events: mpsc::Sender<DerpEvent>,
}

/// Where a connection puts what it receives.
pub(super) struct Sink {
    pub(super) region: RegionId,
    pub(super) events: mpsc::Sender<DerpEvent>,
    pub(super) drops: Arc<DropCounters>,
}

/// See the module's text.
pub(super) struct RegionTask {
    link: Link,
    sink: Sink,
    shared: Arc<Shared>,
    known: BTreeMap<String, Known>,
    told_failure: bool,
}

/// How a connection ended.
struct Ended {
    /// Nothing when it was idle.
    error: Option<RelayError>,
    admitted: Option<Instant>,
    /// A fast start that was not admitted: try again the long way before anything else.
    stalled_fast_start: bool,
}

type Standby<'a> = Pin<Box<dyn Future<Output = Result<Box<Attempt>, RelayError>> + Send + 'a>>;

enum Turn {
    Step(Result<Step, RelayError>),
    Standby(Result<Box<Attempt>, RelayError>),
}

impl RegionTask {
    pub(super) fn new(region: RegionId, link: Link, shared: Arc<Shared>) -> Self {
        let sink = Sink {
            region,
            events: link.events.clone(),
            drops: Arc::clone(&shared.drops),
        };
        Self {
            link,
            sink,
            shared,
            known: BTreeMap::new(),
            told_failure: false,
        }
    }

    /// Runs until it is aborted.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            self.shared.wanted().await;
            let ended = match connect(&self.link, &self.known).await {
                Ok(attempt) => self.serve(attempt).await,
                Err(error) => Ended {
                    error: Some(error),
                    admitted: None,
                    stalled_fast_start: false,
                },
            };
            self.shared.set_connected(false);
            if ended.stalled_fast_start {
                continue;
            }
            let reason = ended
                .error
                .as_ref()
                .map_or_else(|| "idle".to_owned(), RelayError::describe);
            if ended.admitted.is_some() || !std::mem::replace(&mut self.told_failure, true) {
                self.tell(DerpEvent::Disconnected {
                    region: self.sink.region,
                    error: reason.clone(),
                })
                .await;
            }
            let Some(error) = ended.error else { continue };
            let pause = backoff.pause(error.ending(), ended.admitted, random_share(), Instant::now());
            tracing::debug!(region = self.sink.region.0, %reason, ?pause, "relay is tried again");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.shared.retry.notified() => backoff.reset(),
            }
        }
    }

    /// Keeps a connection, or its replacement, until it ends.
    async fn serve(&mut self, mut current: Attempt) -> Ended {
        let mut lessons: Vec<(String, Known)> = Vec::new();
        let mut standby: Option<Standby<'_>> = None;
        let (shared, sink) = (&self.shared, &self.sink);
        let error = loop {
            let turn = tokio::select! {
                step = current.connection.drive(shared, sink, true) => Turn::Step(step),
                ready = settle(&mut standby) => Turn::Standby(ready),
            };
            match turn {
                Turn::Step(Ok(Step::Admitted)) => {
                    lessons.extend(lesson(&current));
                    announce(shared, sink, current.connection.connect_time(), current.fast).await;
                }
                Turn::Step(Ok(Step::Suspect)) => {
                    standby = Some(Box::pin(replacement(&self.link, &self.known, shared, sink)))
                }
                Turn::Step(Ok(Step::Alive)) => standby = None,
                Turn::Step(Ok(Step::Idle)) => break None,
                // The replacement may be just about ready, but it may also take long: start afresh.
                Turn::Step(Err(error)) | Turn::Standby(Err(error)) => break Some(error),
                Turn::Standby(Ok(next)) => {
                    standby = None;
                    lessons.extend(lesson(&next));
                    current = *next;
                    tracing::info!(
                        region = sink.region.0,
                        "relay fell silent, moved to a second connection"
                    );
                }
            }
        };
        drop(standby);
        let admitted = current.connection.admitted();
        let stalled_fast_start = current.fast && admitted.is_none() && error.is_some();
        if stalled_fast_start {
            let stalled = matches!(error, Some(RelayError::TimedOut | RelayError::TooLong(_)));
            lessons.push((
                current.server_name,
                if stalled { Known::NoFastStart } else { Known::StaleKey },
            ));
        }
        self.told_failure &= admitted.is_none();
        // That a fast start does not get through outlives any key.
        lessons.retain(|(name, _)| self.known.get(name) != Some(&Known::NoFastStart));
        self.known.extend(lessons);
        Ended {
            error,
            admitted,
            stalled_fast_start,
        }
    }

    async fn tell(&self, event: DerpEvent) {
        tell(&self.sink, event).await;
    }
}

async fn settle(standby: &mut Option<Standby<'_>>) -> Result<Box<Attempt>, RelayError> {
    match standby {
        Some(attempt) => attempt.await,
        None => std::future::pending().await,
    }
}

/// A second connection, up to its admission. What arrives on it meanwhile is delivered.
async fn replacement(
    link: &Link,
    known: &BTreeMap<String, Known>,
    shared: &Shared,
    sink: &Sink,
) -> Result<Box<Attempt>, RelayError> {
    let mut attempt = Box::new(connect(link, known).await?);
    while attempt.connection.admitted().is_none() {
        attempt.connection.drive(shared, sink, false).await?;
    }
    Ok(attempt)
}

fn lesson(attempt: &Attempt) -> Option<(String, Known)> {
    let key = attempt.connection.server()?;
    attempt
        .connection
        .admitted()
        .map(|_| (attempt.server_name.clone(), Known::Key(key)))
}

async fn announce(shared: &Shared, sink: &Sink, took: Option<Duration>, fast_start: bool) {
    if let Some(took) = took {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        shared.connect_micros.store(micros, Ordering::Relaxed);
        tracing::debug!(region = sink.region.0, ?took, fast_start, "relay admitted us");
    }
    shared.set_connected(true);
    tell(sink, DerpEvent::Connected { region: sink.region }).await;
}

async fn tell(sink: &Sink, event: DerpEvent) {
    if let Err(mpsc::error::TrySendError::Full(event)) = sink.events.try_send(event) {
        let _ = tokio::time::timeout(NEWS_PATIENCE, sink.events.send(event)).await;
    }
}

/// From 0 to 1. Without randomness everybody would come back at the same moment, no worse.
fn random_share() -> f64 {
    getrandom::u32().map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX))
}
