//! What is left when somebody kills a command's helper: its tree falls to the daemon, which is a subreaper itself and
//! ends it (S-43).
//!
//! No orphan reaches the daemon in another way, since a helper outlives all its descendants. Only as process 1 of a
//! container are there others, and those are reaped, not ended.

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

/// Ends every orphan that fell to this process.
#[cfg(target_os = "linux")]
pub(super) async fn sweep() {
    use std::time::Duration;

    use super::tree;
    use rustix::process::{Pid, Signal, WaitOptions};

    let me = rustix::process::getpid();
    if !IS_SUBREAPER.load(Ordering::Relaxed) || me.as_raw_pid() == 1 {
        return;
    }
    for _ in 0..100 {
        let orphans = {
            let helpers = HELPERS.lock().unwrap_or_else(PoisonError::into_inner);
            tree::strange_children(me.as_raw_pid(), &helpers)
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
pub(super) async fn sweep() {}
