//! [`SharedStack`]: one stack between its driver and the owners of its sockets.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Stack;

/// Called, unlocked, when the driver should take a turn. It must not block; calls may come from any thread.
pub type WakeDriver = Arc<dyn Fn() + Send + Sync>;

/// A cloneable handle. Lock it for one operation or one turn, never across an await.
#[derive(Clone)]
pub struct SharedStack {
    stack: Arc<Mutex<Stack>>,
    wake_driver: WakeDriver,
}

impl SharedStack {
    /// Shares `stack`; `wake_driver` is what an owner's operation calls when it gave the driver work.
    #[must_use]
    pub fn sharing(stack: Stack, wake_driver: WakeDriver) -> Self {
        Self {
            stack: Arc::new(Mutex::new(stack)),
            wake_driver,
        }
    }

    /// Locks the stack, for a short time.
    #[must_use]
    pub fn lock(&self) -> StackGuard<'_> {
        // The stack holds no invariant that a panic elsewhere could break half-way for other sockets.
        let guard = self.stack.lock().unwrap_or_else(PoisonError::into_inner);
        StackGuard {
            guard: Some(guard),
            wake_driver: &self.wake_driver,
        }
    }
}

impl fmt::Debug for SharedStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedStack").finish_non_exhaustive()
    }
}

/// The locked stack. Dropping it unlocks first and wakes afterwards: a waker may run, or drop, anything, even a socket
/// of this very stack.
pub struct StackGuard<'a> {
    guard: Option<MutexGuard<'a, Stack>>,
    wake_driver: &'a WakeDriver,
}

impl Deref for StackGuard<'_> {
    type Target = Stack;

    fn deref(&self) -> &Stack {
        self.guard.as_ref().expect("the guard is taken only by drop")
    }
}

impl DerefMut for StackGuard<'_> {
    fn deref_mut(&mut self) -> &mut Stack {
        self.guard.as_mut().expect("the guard is taken only by drop")
    }
}

impl Drop for StackGuard<'_> {
    fn drop(&mut self) {
        let Some(mut guard) = self.guard.take() else { return };
        let wakeups = std::mem::take(&mut guard.wakeups);
        // `&&` keeps the note from being made when there was nothing to call for.
        let call_driver = std::mem::take(&mut guard.driver_due) && !std::mem::replace(&mut guard.driver_called, true);
        drop(guard);
        for waker in wakeups {
            waker.wake();
        }
        if call_driver {
            (self.wake_driver)();
        }
    }
}

impl fmt::Debug for StackGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StackGuard").finish_non_exhaustive()
    }
}
