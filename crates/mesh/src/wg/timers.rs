//! [`Timers`]: when a tunnel greets, renews, answers and gives up (WireGuard paper, section 6), with invented time.
//!
//! | what happened | after | then |
//! |---|---|---|
//! | we sent an initiation, no answer | 5 s + 0-333 ms | another one; given up after 90 s |
//! | the same while packets wait | 100, 250, 500, 1,000, 2,000 ms | the same message twice, then new ones |
//! | data came, nothing went out since | 10 s | an empty packet, which needs no answer |
//! | data went out, nothing came since | 15 s + 0-333 ms | a handshake |
//! | data keeps going out to a peer that used to answer at once | 1.5 s + 0-333 ms | a handshake, at most one a minute |
//! | nothing either way, persistent keepalive set | that time | an empty packet |
//!
//! The data path writes stamps and never moves a deadline back: [`Timers::armed`] is a time before which nothing is due.
//! When it has come, [`Timers::due`] looks at the stamps and [`Timers::rearm`] sets the true next one.

use std::time::{Duration, Instant};

/// Pause between two initiations, and the least distance of two that data asks for.
const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long unanswered initiations are repeated.
const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// How long data may stay without an answer of ours.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long data of ours may stay without a sign of the peer.
const SILENCE: Duration = Duration::from_secs(15);
/// The same when we keep on asking a peer that has answered at once lately: it may have lost the session. Going by this
/// alone would renew keys for every flow in one direction (docs/PROTOCOLS.md, "A peer that fell silent").
const PROMPT_SILENCE: Duration = Duration::from_millis(1_500);
/// Data over at least this time is asking; less is the end of a conversation, which needs no answer.
const INSISTENCE: Duration = Duration::from_millis(700);
/// Answers in a row after which a peer counts as one that answers at once.
const PROMPT_ANSWERS: u8 = 3;
/// Distance of two handshakes that the short silence asks for.
const PROMPT_PAUSE: Duration = Duration::from_secs(60);
/// Random part of all pauses, in milliseconds.
const MAX_JITTER_MS: u64 = 333;
/// Ages of an attempt at which its initiation is sent again while packets wait: a relay connection or the peer's network
/// map may be there a moment later.
const RETRY_LADDER: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_millis(1_000),
    Duration::from_millis(2_000),
];
/// Steps of the ladder that repeat the first message. A peer that has it already ignores them, so a long way does not
/// make it throw away a session that we are about to take.
const SAME_MESSAGE_STEPS: usize = 2;
/// Distance of the next look when something is due that could not be done.
const GRACE: Duration = Duration::from_millis(50);

/// An initiation to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Initiation {
    /// A new one.
    Fresh,
    /// The last one once more, byte for byte.
    Same,
}

/// What is due now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) initiation: Option<Initiation>,
    pub(crate) keepalive: bool,
    /// Nobody answered for 90 s: what waits is dropped.
    pub(crate) gave_up: bool,
}

/// What a tunnel holds, as far as it changes what is due.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Holding {
    /// Packets wait for a session.
    pub(crate) staged: bool,
    /// There is a session to send on.
    pub(crate) session: bool,
    /// When the oldest session ends.
    pub(crate) expiry: Option<Instant>,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Timers {
    last_sent: Option<Instant>,
    last_received: Option<Instant>,
    last_data_sent: Option<Instant>,
    /// Since when data of ours has had no answer.
    unanswered_since: Option<Instant>,
    /// The same, begun anew when the last question turned out to be none.
    asked_since: Option<Instant>,
    /// Since when the peer's data has had no answer.
    owed_since: Option<Instant>,
    attempt: Option<Attempt>,
    last_initiation: Option<Instant>,
    /// Answers in a row that came before the short silence was over.
    prompt: u8,
    last_prompt_handshake: Option<Instant>,
    persistent: Option<Duration>,
    armed: Option<Instant>,
    created: Instant,
    slack: Duration,
    jitter: Jitter,
}

/// A handshake of ours that nobody has answered yet.
#[derive(Debug)]
struct Attempt {
    started: Instant,
    step: usize,
    next: Instant,
}

impl Timers {
    /// Timers of a tunnel that has done nothing yet. `seed` is random.
    pub(crate) fn new(persistent: Option<Duration>, seed: u64, now: Instant) -> Self {
        let mut jitter = Jitter(seed);
        Self {
            last_sent: None,
            last_received: None,
            last_data_sent: None,
            unanswered_since: None,
            asked_since: None,
            owed_since: None,
            attempt: None,
            last_initiation: None,
            prompt: 0,
            last_prompt_handshake: None,
            persistent,
            armed: persistent.map(|_| now),
            created: now,
            slack: jitter.draw(),
            jitter,
        }
    }

    /// Nothing is due before this.
    pub(crate) fn armed(&self) -> Option<Instant> {
        self.armed
    }

    /// An initiation of ours waits for its answer.
    pub(crate) fn attempting(&self) -> bool {
        self.attempt.is_some()
    }

    /// When the last initiation was sent.
    pub(crate) fn last_initiation(&self) -> Option<Instant> {
        self.last_initiation
    }

    /// A random part of a pause.
    pub(crate) fn draw(&mut self) -> Duration {
        self.jitter.draw()
    }

    /// Something authentic was sent; `data` if it was more than a keepalive.
    pub(crate) fn sent(&mut self, data: bool, now: Instant) {
        self.last_sent = Some(now);
        self.owed_since = None;
        if !data {
            return;
        }
        self.last_data_sent = Some(now);
        if self.unanswered_since.is_none() {
            self.unanswered_since = Some(now);
            self.arm(now + SILENCE + self.slack);
        }
        if self.asked_since.is_none() {
            self.asked_since = Some(now);
            if let Some(at) = self.missed_at(now) {
                self.arm(at);
            }
        }
    }

    /// Something authentic was received; `data` if it was more than a keepalive.
    pub(crate) fn received(&mut self, data: bool, now: Instant) {
        self.last_received = Some(now);
        self.unanswered_since = None;
        if let Some(since) = self.asked_since.take() {
            let at_once = now.saturating_duration_since(since) < PROMPT_SILENCE;
            self.prompt = if at_once { self.prompt.saturating_add(1) } else { 0 };
        }
        if data && self.owed_since.is_none() {
            self.owed_since = Some(now);
            self.arm(now + KEEPALIVE_TIMEOUT);
        }
    }

    /// Whether data may ask for a handshake: none is under way, and the last initiation is not too near.
    pub(crate) fn may_initiate(&self, now: Instant) -> bool {
        let near = |at| now.saturating_duration_since(at) < REKEY_TIMEOUT;
        self.attempt.is_none() && !self.last_initiation.is_some_and(near)
    }

    /// A new initiation was sent.
    pub(crate) fn initiated(&mut self, staged: bool, now: Instant) {
        let next = now + REKEY_TIMEOUT + self.jitter.draw();
        let attempt = self.attempt.get_or_insert(Attempt {
            started: now,
            step: 0,
            next,
        });
        attempt.next = next;
        self.last_initiation = Some(now);
        self.sent(false, now);
        self.arm(next);
        if staged {
            self.staged(now);
        }
    }

    /// A packet waits for a session.
    pub(crate) fn staged(&mut self, now: Instant) {
        if let Some(step) = self.next_step() {
            self.arm(step.max(now));
        }
    }

    /// A session is there: nothing has to be repeated.
    pub(crate) fn completed(&mut self) {
        self.attempt = None;
        self.slack = self.jitter.draw();
    }

    /// A session came or went: not later than `at` the tunnel wants to look at it.
    pub(crate) fn arm(&mut self, at: Instant) {
        if self.armed.is_none_or(|armed| at < armed) {
            self.armed = Some(at);
        }
    }

    /// What is due now. The caller does it, reports what it sent, and calls [`Self::rearm`].
    pub(crate) fn due(&mut self, holding: Holding, now: Instant) -> Due {
        let mut due = self.due_attempt(holding, now);
        if self.owed_since.is_some_and(|since| now >= since + KEEPALIVE_TIMEOUT) {
            self.owed_since = None;
            due.keepalive = holding.session;
        }
        let silent = self
            .unanswered_since
            .is_some_and(|since| now >= since + SILENCE + self.slack);
        if silent {
            self.unanswered_since = None;
        }
        if (silent || self.is_missed(now)) && self.may_initiate(now) {
            due.initiation = Some(Initiation::Fresh);
        }
        if self.persistent_due().is_some_and(|at| now >= at) {
            if holding.session {
                due.keepalive = true;
            } else if self.may_initiate(now) {
                due.initiation = Some(Initiation::Fresh);
            }
        }
        due
    }

    fn due_attempt(&mut self, holding: Holding, now: Instant) -> Due {
        let mut due = Due::default();
        let Some(attempt) = &mut self.attempt else { return due };
        if now >= attempt.next {
            if now.saturating_duration_since(attempt.started) >= REKEY_ATTEMPT_TIME {
                self.attempt = None;
                self.unanswered_since = None;
                self.asked_since = None;
                due.gave_up = true;
            } else {
                due.initiation = Some(Initiation::Fresh);
            }
            return due;
        }
        let age = now.saturating_duration_since(attempt.started);
        let reached = RETRY_LADDER.iter().filter(|step| age >= **step).count();
        if holding.staged && reached > attempt.step {
            attempt.step = reached;
            due.initiation = Some(if reached <= SAME_MESSAGE_STEPS {
                Initiation::Same
            } else {
                Initiation::Fresh
            });
        }
        due
    }

    /// Sets the true next deadline.
    pub(crate) fn rearm(&mut self, holding: Holding, now: Instant) {
        let owed = self.owed_since.map(|since| since + KEEPALIVE_TIMEOUT);
        let unanswered = self.unanswered_since.map(|since| since + SILENCE + self.slack);
        let retry = self.attempt.as_ref().map(|attempt| attempt.next);
        let step = self.next_step().filter(|_| holding.staged);
        let earliest = [
            owed,
            unanswered,
            self.missed_at(now),
            retry,
            step,
            self.persistent_due(),
            holding.expiry,
        ]
        .into_iter()
        .flatten()
        .min();
        self.armed = earliest.map(|at| if at <= now { now + GRACE } else { at });
    }

    fn next_step(&self) -> Option<Instant> {
        let attempt = self.attempt.as_ref()?;
        RETRY_LADDER.get(attempt.step).map(|age| attempt.started + *age)
    }

    fn persistent_due(&self) -> Option<Instant> {
        // While an attempt runs, it has its own pauses.
        let interval = self.persistent.filter(|_| self.attempt.is_none())?;
        let last = self.last_sent.max(self.last_received);
        Some(last.map_or(self.created, |last| last + interval))
    }

    /// The peer has answered at once lately, and no handshake was spent on that for a while.
    fn is_prompt(&self, now: Instant) -> bool {
        let lately = |at| now.saturating_duration_since(at) < PROMPT_PAUSE;
        self.prompt >= PROMPT_ANSWERS && !self.last_prompt_handshake.is_some_and(lately)
    }

    /// When a peer that used to answer at once is missed, if it does not answer before.
    fn missed_at(&self, now: Instant) -> Option<Instant> {
        let since = self
            .asked_since
            .filter(|_| self.attempt.is_none() && self.is_prompt(now))?;
        let allowed = self.last_initiation.map_or(since, |at| at + REKEY_TIMEOUT);
        Some((since + PROMPT_SILENCE + self.slack).max(allowed))
    }

    /// A peer that used to answer at once does not, though we keep on asking.
    fn is_missed(&mut self, now: Instant) -> bool {
        let Some(since) = self.asked_since else { return false };
        if self.missed_at(now).is_none_or(|at| now < at) {
            return false;
        }
        self.asked_since = None;
        let insisting = self.last_data_sent.is_some_and(|last| last >= since + INSISTENCE);
        if insisting {
            self.prompt = 0;
            self.last_prompt_handshake = Some(now);
        }
        insisting
    }
}

/// Random parts of pauses, so that peers that lost each other at one moment do not call at one moment.
#[derive(Debug)]
struct Jitter(u64);

impl Jitter {
    fn draw(&mut self) -> Duration {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Duration::from_millis((mixed ^ (mixed >> 31)) % (MAX_JITTER_MS + 1))
    }
}
