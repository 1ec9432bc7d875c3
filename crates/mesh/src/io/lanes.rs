//! [`Lanes`]: threads that seal and open runs of datagrams for the driver of a node, which stays the only owner of all else.
//!
//! The driver gives away whole [`Job`]s and goes on reading; results come back in any order and wait in their queue until
//! all before them are there, so what leaves and what is delivered has the order it would have without lanes. Nothing is
//! away between two turns. A job that nobody has begun is taken back rather than waited for, so lanes that get no processor
//! cost little. One lock a job, none a packet; the buffers go back and forth.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::engine::{Job, JobQueue};

/// Jobs away at most: beyond that nothing more is read.
const MAX_OUT: usize = 8;
/// Runs that may wait in a queue behind one that is away.
const MAX_HELD: usize = 16;

/// See the module's text. The threads start with the first job, and end when this is dropped.
pub(crate) struct Lanes {
    unstarted: usize,
    threads: Vec<JoinHandle<()>>,
    desk: Arc<Desk>,
    run: fn(&mut Job),
    out: usize,
    back: Vec<Job>,
}

struct Desk {
    papers: Mutex<Papers>,
    work: Condvar,
    done: Condvar,
}

#[derive(Default)]
struct Papers {
    todo: VecDeque<Job>,
    done: Vec<Job>,
    /// Threads that wait for work.
    idle: usize,
    /// The owner waits for a job to be done.
    awaited: bool,
    /// The threads are to end.
    closed: bool,
    /// One of them has panicked.
    broken: bool,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Papers> {
        self.papers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lanes {
    /// This many; with none the driver does everything.
    pub(crate) fn new(count: usize) -> Option<Self> {
        Self::with(count, Job::run)
    }

    /// Jobs are done by `run`.
    pub(crate) fn with(count: usize, run: fn(&mut Job)) -> Option<Self> {
        (count > 0).then(|| Self {
            unstarted: count,
            threads: Vec::new(),
            desk: Arc::new(Desk {
                papers: Mutex::new(Papers::default()),
                work: Condvar::new(),
                done: Condvar::new(),
            }),
            run,
            out: 0,
            back: Vec::new(),
        })
    }

    /// Moves work on: takes back what is done, gives away what waits, and lets `ready` take what has come to the front. The
    /// last run of a queue is kept, since it may be the only one; with `end` nothing more comes, and this returns when
    /// nothing is away.
    pub(crate) fn advance<Q: JobQueue>(&mut self, queue: &mut Q, end: bool, mut ready: impl FnMut(&mut Q)) {
        loop {
            self.collect(queue);
            while self.out < MAX_OUT
                && let Some(job) = queue.hand_over(usize::from(!end || self.out == 0))
            {
                self.give(job);
            }
            ready(queue);
            let full = self.out >= MAX_OUT || queue.held() >= MAX_HELD;
            if self.out == 0 || !(end || full) {
                return;
            }
            self.wait(queue);
        }
    }

    fn give(&mut self, job: Job) {
        self.start();
        self.out += 1;
        let mut papers = self.desk.lock();
        papers.todo.push_back(job);
        if papers.idle > 0 {
            self.desk.work.notify_one();
        }
    }

    fn collect(&mut self, queue: &mut impl JobQueue) {
        if self.out == 0 {
            return;
        }
        std::mem::swap(&mut self.desk.lock().done, &mut self.back);
        self.out -= self.back.len();
        for job in self.back.drain(..) {
            queue.put_back(job);
        }
    }

    /// Until a job is done: by this thread, if one is left.
    fn wait(&mut self, queue: &mut impl JobQueue) {
        let mut papers = self.desk.lock();
        if !papers.done.is_empty() {
            return;
        }
        if let Some(mut job) = papers.todo.pop_front() {
            drop(papers);
            (self.run)(&mut job);
            self.out -= 1;
            return queue.put_back(job);
        }
        papers.awaited = true;
        while papers.done.is_empty() {
            assert!(!papers.broken, "a lane has panicked");
            papers = self.desk.done.wait(papers).unwrap_or_else(PoisonError::into_inner);
        }
        papers.awaited = false;
    }

    /// As if the system refused them.
    #[cfg(test)]
    pub(crate) fn refuse_threads(&mut self) {
        self.unstarted = 0;
    }

    /// Starts the threads, once. Those that the system refuses are done without: [`Self::wait`] does their work.
    fn start(&mut self) {
        for number in 1..=std::mem::take(&mut self.unstarted) {
            let (desk, run) = (Arc::clone(&self.desk), self.run);
            let started = std::thread::Builder::new()
                .name(format!("sandd-lane-{number}"))
                .spawn(move || serve(&desk, run));
            match started {
                Ok(thread) => self.threads.push(thread),
                Err(error) => tracing::warn!(%error, "a thread for sealing and opening cannot be started"),
            }
        }
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.desk.lock().closed = true;
        self.desk.work.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve(desk: &Desk, run: fn(&mut Job)) {
    /// Tells the owner, who would wait for ever.
    struct Alarm<'a>(&'a Desk);
    impl Drop for Alarm<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                self.0.lock().broken = true;
                self.0.done.notify_all();
            }
        }
    }
    let _alarm = Alarm(desk);
    let mut papers = desk.lock();
    loop {
        if let Some(mut job) = papers.todo.pop_front() {
            drop(papers);
            run(&mut job);
            papers = desk.lock();
            papers.done.push(job);
            if papers.awaited {
                desk.done.notify_one();
            }
        } else if papers.closed {
            return;
        } else {
            papers.idle += 1;
            papers = desk.work.wait(papers).unwrap_or_else(PoisonError::into_inner);
            papers.idle -= 1;
        }
    }
}

impl std::fmt::Debug for Lanes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lanes({} jobs away)", self.out)
    }
}

#[cfg(test)]
mod tests;
