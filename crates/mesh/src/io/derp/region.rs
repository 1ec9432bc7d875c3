//! [`RegionTask`]: keeps one region connected while that is wanted.
//!
//! ```text
//! [not wanted] ── home, or a packet ──▶ [connecting] ──▶ [connected] ── idle ──▶ [not wanted]
//!                                        ▲      │ fails       │ fails
//!                                        └──── [pause] ◀──────┘
//! ```
//!
//! A connection that does not answer is not given up before a second one is logged in beside it.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sandd_control_client::dial::Dialer;
use sandd_control_client::keys::NodePrivateKey;
use sandd_control_client::netmap::RegionId;
use tokio::sync::{Notify, mpsc};

use super::backoff::Backoff;
use super::connect::{Attempt, connect_anew};
use super::connection::Step;
use super::error::RelayError;
use super::memory::Memory;
use super::queue::SendQueue;
use super::target::Target;
use super::{DerpEvent, DropCounters};
use crate::io::or_never::or_never;

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
    trouble: Mutex<Option<String>>,
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
            trouble: Mutex::default(),
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

    /// Ends when [`Self::probe`] is called.
    pub(super) async fn network_changed(&self) {
        self.retry.notified().await;
    }

    /// What is wrong there, in words: why it is not connected, or what the relay says of itself.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
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
    pub(super) memory: Arc<Memory>,
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

type Standby<'a> = Pin<Box<dyn Future<Output = Box<Attempt>> + Send + 'a>>;

enum Turn {
    Step(Result<Step, RelayError>),
    Standby(Box<Attempt>),
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
            told_failure: false,
        }
    }

    /// Runs until it is aborted.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            self.shared.wanted().await;
            let ended = match connect_anew(&self.link, &self.shared).await {
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
            self.shared.set_trouble(Some(reason.clone()));
            let pause = backoff.pause(error.ending(), ended.admitted, random_share(), Instant::now());
            tracing::debug!(region = self.sink.region.0, %reason, ?pause, "relay is tried again");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.shared.network_changed() => backoff.reset(),
            }
        }
    }

    /// Keeps a connection, or its replacement, until it ends.
    async fn serve(&mut self, mut current: Attempt) -> Ended {
        let mut standby: Option<Standby<'_>> = None;
        let (link, shared, sink) = (&self.link, &self.shared, &self.sink);
        let error = loop {
            let turn = tokio::select! {
                step = current.connection.drive(shared, sink, true) => Turn::Step(step),
                ready = or_never(standby.as_mut()) => Turn::Standby(ready),
            };
            match turn {
                Turn::Step(Ok(Step::Admitted)) => {
                    learn(link, &current);
                    announce(shared, sink, current.connection.connect_time(), current.fast.is_some()).await;
                }
                Turn::Step(Ok(Step::Suspect)) => standby = Some(Box::pin(replacement(link, shared, sink))),
                Turn::Step(Ok(Step::Alive)) => standby = None,
                Turn::Step(Ok(Step::Idle)) => break None,
                // The replacement may be just about ready, but it may also take long: start afresh.
                Turn::Step(Err(error)) => break Some(error),
                Turn::Standby(next) => {
                    standby = None;
                    learn(link, &next);
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
        let stalled_fast_start = current.fast.is_some() && admitted.is_none() && error.is_some();
        if stalled_fast_start {
            let unanswered = matches!(error, Some(RelayError::TimedOut | RelayError::TooLong(_)));
            link.memory.fast_start_failed(&current.server, current.fast, unanswered);
        }
        self.told_failure &= admitted.is_none();
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

/// A second connection, up to its admission, however many attempts it takes: the first one decides how long there is
/// for them. What arrives meanwhile is delivered.
async fn replacement(link: &Link, shared: &Shared, sink: &Sink) -> Box<Attempt> {
    let mut backoff = Backoff::default();
    loop {
        let error = match admitted_attempt(link, shared, sink).await {
            Ok(attempt) => return attempt,
            Err(error) => error,
        };
        let pause = backoff.pause(error.ending(), None, random_share(), Instant::now());
        tracing::debug!(region = sink.region.0, error = %error.describe(), ?pause, "no second connection to the relay yet");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.network_changed() => {}
        }
    }
}

async fn admitted_attempt(link: &Link, shared: &Shared, sink: &Sink) -> Result<Box<Attempt>, RelayError> {
    let mut attempt = Box::new(connect_anew(link, shared).await?);
    while attempt.connection.admitted().is_none() {
        if let Err(error) = attempt.connection.drive(shared, sink, false).await {
            let unanswered = matches!(error, RelayError::TimedOut | RelayError::TooLong(_));
            if attempt.fast.is_some() {
                link.memory.fast_start_failed(&attempt.server, attempt.fast, unanswered);
            }
            return Err(error);
        }
    }
    Ok(attempt)
}

fn learn(link: &Link, attempt: &Attempt) {
    if let (Some(key), Some(_)) = (attempt.connection.server(), attempt.connection.admitted()) {
        link.memory.admitted(&attempt.server, key);
    }
}

async fn announce(shared: &Shared, sink: &Sink, took: Option<Duration>, fast_start: bool) {
    if let Some(took) = took {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        shared.connect_micros.store(micros, Ordering::Relaxed);
        tracing::debug!(region = sink.region.0, ?took, fast_start, "relay admitted us");
    }
    shared.set_trouble(None);
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
