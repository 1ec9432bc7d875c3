//! What is left when somebody kills a command's helper: its tree falls to the daemon, which is a subreaper itself and
//! ends it (S-43).
//!
//! No orphan reaches the daemon in another way, since a helper outlives all its descendants. Only as process 1 of a
//! container are there others: they are told by their session, and reaped, not ended.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::process::{Child, Command};

/// Set when orphans fall to this process.
static IS_SUBREAPER: AtomicBool = AtomicBool::new(false);

/// Process ids of the helpers that live; held while one is started, so that no sweep sees one that is not in it yet.
static HELPERS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// A helper is no orphan as long as this lives.
#[derive(Debug)]
pub(super) struct KnownHelper(i32);

impl Drop for KnownHelper {
    fn drop(&mut self) {
        HELPERS.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

impl KnownHelper {
    /// Its process id, which is also its session.
    pub(super) fn pid(&self) -> i32 {
        self.0
    }
}

/// Starts a helper and remembers it.
pub(super) fn spawn_helper(command: &mut Command) -> std::io::Result<(Child, KnownHelper)> {
    let mut helpers = HELPERS.lock().unwrap_or_else(PoisonError::into_inner);
    let child = command.spawn()?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
    helpers.insert(pid);
    Ok((child, KnownHelper(pid)))
}

/// Makes the orphans of killed helpers fall to this process; for programs whose only children are helpers.
pub fn adopt_orphans() {
    #[cfg(target_os = "linux")]
    if rustix::process::set_child_subreaper(Some(rustix::process::getpid())).is_ok() {
        IS_SUBREAPER.store(true, Ordering::Relaxed);
    }
}

/// Ends every orphan that fell to this process; as process 1 only those in the session of the helper that was killed.
#[cfg(target_os = "linux")]
pub(super) async fn sweep(helper: i32) {
    use std::time::Duration;

    use super::tree;
    use rustix::process::{Pid, Signal, WaitOptions};

    let me = rustix::process::getpid();
    if !IS_SUBREAPER.load(Ordering::Relaxed) {
        return;
    }
    for _ in 0..100 {
        let orphans = {
            let helpers = HELPERS.lock().unwrap_or_else(PoisonError::into_inner);
            let mut orphans = tree::strange_children(me.as_raw_pid(), &helpers);
            orphans.retain(|&pid| !me.is_init() || tree::session(pid) == Some(helper));
            orphans
        };
        if orphans.is_empty() {
            return;
        }
        for pid in orphans.into_iter().filter_map(Pid::from_raw) {
            tree::signal_descendants(pid, &[Signal::STOP, Signal::KILL]);
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Ends every orphan that fell to this process.
#[cfg(not(target_os = "linux"))]
#[expect(clippy::unused_async, reason = "the same signature everywhere")]
pub(super) async fn sweep(_helper: i32) {}

/// As process 1 of a container: reaps what its former parents left behind, for ever.
pub async fn reap_as_init() {
    #[cfg(target_os = "linux")]
    if rustix::process::getpid().is_init() {
        use super::tree;
        use rustix::process::{Pid, WaitOptions};
        use tokio::signal::unix::{SignalKind, signal};

        let Ok(mut child_ended) = signal(SignalKind::child()) else {
            return;
        };
        while child_ended.recv().await.is_some() {
            let helpers = HELPERS.lock().unwrap_or_else(PoisonError::into_inner);
            for pid in tree::strange_children(1, &helpers)
                .into_iter()
                .filter_map(Pid::from_raw)
            {
                let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
            }
        }
    }
}
