//! Gives commands their turn, and sees to it that none outlives what it was started for (S-43).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tracing::{debug, info, warn};

use super::exec::{self, CommandSpec, ExecFailure, Finished, HelperProgram};
use super::jobs::{Jobs, Submitted};
use super::{DaemonConfig, reaper};
use crate::escape::Escaped;
use crate::transport::websocket::{Outbox, SendError};
use crate::wire::ids::RequestId;
use crate::wire::v1::Message;

/// Commands whose background children live on; more of them end with their command.
const MAX_LEFTOVERS: usize = 1_024;

/// A command and where its answer goes.
#[derive(Debug)]
pub(super) struct Job {
    pub id: RequestId,
    pub spec: CommandSpec,
    pub outbox: Outbox,
    /// Becomes true, or loses its sender, when the connection that asked is gone.
    pub lost: watch::Receiver<bool>,
}

/// All commands of a daemon, over all its connections.
#[derive(Debug, Clone)]
pub(super) struct Commands(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    jobs: Mutex<Jobs<Job>>,
    helper: HelperProgram,
    keep_after_loss: Duration,
    leftovers: Arc<Semaphore>,
    stop: watch::Sender<bool>,
    /// Each task holds a clone of the sender; the receiver ends with the last.
    tasks: mpsc::Sender<()>,
    all_done: tokio::sync::Mutex<mpsc::Receiver<()>>,
}

impl Commands {
    pub(super) fn new(config: &DaemonConfig) -> Self {
        let (tasks, all_done) = mpsc::channel(1);
        Self(Arc::new(Inner {
            jobs: Mutex::new(Jobs::new(config.max_commands)),
            helper: config.helper.clone(),
            keep_after_loss: config.keep_after_loss,
            leftovers: Arc::new(Semaphore::new(MAX_LEFTOVERS)),
            stop: watch::channel(false).0,
            tasks,
            all_done: tokio::sync::Mutex::new(all_done),
        }))
    }

    /// Takes a command; what is returned is its answer already.
    pub(super) fn submit(&self, job: Job) -> Option<Message> {
        let id = job.id.clone();
        let submitted = self
            .0
            .jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .submit(id.clone(), job);
        match submitted {
            Submitted::Start(job) => {
                self.spawn(job);
                None
            }
            Submitted::Waits => None,
            Submitted::Full => Some(failed(id, "too many commands wait on this daemon already".to_owned())),
            Submitted::Duplicate => {
                warn!(request_id = %Escaped(id.as_str()), "a command with this id is running already, ignored");
                None
            }
        }
    }

    /// Ends everything and waits for it.
    pub(super) async fn stop(&self) {
        self.0
            .jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear_waiting();
        self.0.stop.send_replace(true);
        // Our own sender keeps the channel open, so wait for the others by count.
        let mut all_done = self.0.all_done.lock().await;
        while self.0.tasks.strong_count() > 1 {
            let _ = tokio::time::timeout(Duration::from_millis(10), all_done.recv()).await;
        }
    }

    fn spawn(&self, job: Job) {
        let (this, task) = (self.clone(), self.0.tasks.clone());
        tokio::spawn(async move {
            let id = job.id.clone();
            this.run(job).await;
            let next = this.0.jobs.lock().unwrap_or_else(PoisonError::into_inner).finished(&id);
            if let Some(next) = next {
                this.spawn(next);
            }
            drop(task);
        });
    }

    async fn run(&self, job: Job) {
        if *job.lost.borrow() || job.lost.has_changed().is_err() {
            debug!(request_id = %Escaped(job.id.as_str()), "not started, its connection is gone");
            return;
        }
        let mut stop = self.0.stop.subscribe();
        let (mut lost, keep) = (job.lost, self.0.keep_after_loss);
        let cancel = async move {
            let controller_lost = async {
                let _ = lost.wait_for(|lost| *lost).await;
                tokio::time::sleep(keep).await;
            };
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => "the daemon stops",
                () = controller_lost => "its controller was lost",
            }
        };
        let (result, leftover) = exec::run(&self.0.helper, job.spec, cancel).await;
        if let Err(ExecFailure::HelperLost { helper }) = result {
            reaper::sweep(helper).await;
        }
        let answer = answer(job.id.clone(), result);
        match job.outbox.send(&answer).await {
            Ok(()) => {}
            Err(SendError::Gone) => {
                info!(request_id = %Escaped(job.id.as_str()), "answer dropped, its connection is gone");
            }
            Err(SendError::Wire(error)) => {
                // The output is bounded to fit; an overlong error text is all that could get here.
                let _ = job
                    .outbox
                    .send(&failed(job.id, format!("the answer cannot be sent: {error}")))
                    .await;
            }
        }
        if let Some(leftover) = leftover {
            self.watch(leftover);
        }
    }

    fn watch(&self, leftover: exec::Leftover) {
        let (task, permit) = (self.0.tasks.clone(), Arc::clone(&self.0.leftovers).try_acquire_owned());
        let (mut stop, allowed) = (self.0.stop.subscribe(), permit.is_ok());
        tokio::spawn(async move {
            let end = async move {
                if allowed {
                    let _ = stop.wait_for(|stop| *stop).await;
                }
                "the daemon stops"
            };
            leftover.watch(end).await;
            drop((task, permit));
        });
    }
}

fn failed(request_id: RequestId, error: String) -> Message {
    Message::CommandError {
        request_id,
        error,
        stdout: None,
        stderr: None,
    }
}

fn answer(request_id: RequestId, result: Result<Finished, ExecFailure>) -> Message {
    match result {
        Ok(finished) => {
            let truncated = finished.stdout.truncated || finished.stderr.truncated;
            Message::CommandOutput {
                request_id,
                exit_code: finished.exit_code,
                duration_ms: u64::try_from(finished.duration.as_millis()).unwrap_or(u64::MAX),
                truncated,
                stdout_bytes: truncated.then_some(finished.stdout.total),
                stderr_bytes: truncated.then_some(finished.stderr.total),
                stdout: finished.stdout.text,
                stderr: finished.stderr.text,
                signal: finished.signal,
            }
        }
        Err(
            ref failure @ ExecFailure::TimedOut {
                ref stdout, ref stderr, ..
            },
        ) => Message::CommandError {
            request_id,
            error: failure.to_string(),
            stdout: Some(stdout.clone()),
            stderr: Some(stderr.clone()),
        },
        Err(failure) => failed(request_id, failure.to_string()),
    }
}
