//! [`Hooks`]: how a test makes the coordinator slow, silent or dishonest. Nothing here is on unless it was asked for.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sandd_control_client::wire::MapResponse;
use tokio::sync::watch;

use crate::membership::NodeId;

/// Messages that wait to be pushed to one node; the oldest goes.
const MAX_PUSHED: usize = 64;

/// What becomes of a map message.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum MapLie {
    /// Send it as it is now.
    Send,
    /// Send nothing.
    Drop,
    /// Send these bytes in its place, framed and packed as a message would be.
    Replace(Vec<u8>),
    /// Write these bytes into the stream's body in its place, without framing.
    Raw(Vec<u8>),
    /// End the stream.
    End,
}

/// An answer instead of the true one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CannedAnswer {
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub body: String,
}

type Liar = dyn Fn(NodeId, &mut MapResponse) -> MapLie + Send + Sync;

/// Switches for tests. Clones are the same switches.
#[derive(Clone)]
pub struct Hooks {
    inner: Arc<Inner>,
}

struct Inner {
    switches: Mutex<Switches>,
    cuts: watch::Sender<u64>,
    pushes: watch::Sender<u64>,
}

#[derive(Default)]
struct Switches {
    delay: Option<Duration>,
    refuse: bool,
    liar: Option<Arc<Liar>>,
    answers: BTreeMap<String, CannedAnswer>,
    pushed: BTreeMap<NodeId, VecDeque<Vec<u8>>>,
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hooks")
    }
}

impl Hooks {
    pub(crate) fn new() -> Self {
        Self {
            inner: Arc::new(Inner {
                switches: Mutex::default(),
                cuts: watch::Sender::new(0),
                pushes: watch::Sender::new(0),
            }),
        }
    }

    fn with<R>(&self, act: impl FnOnce(&mut Switches) -> R) -> R {
        act(&mut self.inner.switches.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits this long before each answer inside ts2021 and before each later map message.
    pub fn set_delay(&self, delay: Option<Duration>) {
        self.with(|switches| switches.delay = delay);
    }

    /// Drops every connection at once, control and relay, without a word.
    pub fn cut(&self) {
        self.inner.cuts.send_modify(|count| *count += 1);
    }

    /// While true, each new connection is closed as soon as it is accepted.
    pub fn set_refuse(&self, refuse: bool) {
        self.with(|switches| switches.refuse = refuse);
    }

    /// Shows every map message to `liar` before it is sent; none = the truth again.
    pub fn set_map_liar<F>(&self, liar: Option<F>)
    where
        F: Fn(NodeId, &mut MapResponse) -> MapLie + Send + Sync + 'static,
    {
        self.with(|switches| switches.liar = liar.map(|liar| Arc::new(liar) as Arc<Liar>));
    }

    /// Answers requests for `path` (`/key`, `/ts2021`, `/machine/register`, `/machine/map`, `/derp`, …) with this; none =
    /// the truth again.
    pub fn set_answer(&self, path: &str, answer: Option<CannedAnswer>) {
        self.with(|switches| match answer {
            Some(answer) => switches.answers.insert(path.to_owned(), answer),
            None => switches.answers.remove(path),
        });
    }

    /// Sends one more message on an open stream of a node. It does not count as told: the coordinator will not correct
    /// it.
    pub fn push(&self, node: NodeId, message: &MapResponse) {
        if let Ok(json) = serde_json::to_vec(message) {
            self.push_json(node, json);
        }
    }

    /// As [`Self::push`], with bytes that need not be JSON.
    pub fn push_json(&self, node: NodeId, json: Vec<u8>) {
        self.with(|switches| {
            let queue = switches.pushed.entry(node).or_default();
            if queue.len() == MAX_PUSHED {
                queue.pop_front();
            }
            queue.push_back(json);
        });
        self.inner.pushes.send_modify(|count| *count += 1);
    }

    pub(crate) fn take_pushed(&self, node: NodeId) -> Option<Vec<u8>> {
        self.with(|switches| switches.pushed.get_mut(&node).and_then(VecDeque::pop_front))
    }

    pub(crate) fn delay(&self) -> Option<Duration> {
        self.with(|switches| switches.delay)
    }

    pub(crate) fn refuses(&self) -> bool {
        self.with(|switches| switches.refuse)
    }

    pub(crate) fn answer(&self, path: &str) -> Option<CannedAnswer> {
        self.with(|switches| switches.answers.get(path).cloned())
    }

    pub(crate) fn lie(&self, node: NodeId, message: &mut MapResponse) -> MapLie {
        let liar = self.with(|switches| switches.liar.clone());
        liar.map_or(MapLie::Send, |liar| liar(node, message))
    }

    pub(crate) fn cuts(&self) -> watch::Receiver<u64> {
        self.inner.cuts.subscribe()
    }

    pub(crate) fn pushes(&self) -> watch::Receiver<u64> {
        self.inner.pushes.subscribe()
    }
}
