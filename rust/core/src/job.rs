//! Work that its owner shares with whoever comes in time.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Thread;

/// Work that helpers may join until its owner closes it.
pub struct Job {
    work: *const (dyn Fn() + Sync),
    /// Number of helpers that are at work; with `CLOSED`, no others may begin.
    state: AtomicUsize,
    failed: AtomicBool,
    owner: Thread,
}

const CLOSED: usize = 1 << (usize::BITS - 1);

// SAFETY: `work` is `Sync`, and is called by helpers only while `run` keeps it alive (see `help`).
#[allow(unsafe_code)]
unsafe impl Send for Job {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Job {}

impl Job {
    /// Work that lasts longer than the job is open.
    pub fn new(work: &(dyn Fn() + Sync)) -> Arc<Self> {
        let work: *const (dyn Fn() + Sync + '_) = work;
        // SAFETY: only the lifetime in the type changes. `help` is the only place where the pointer is followed.
        #[allow(unsafe_code)]
        #[expect(clippy::transmute_ptr_to_ptr, reason = "a cast cannot lengthen a lifetime")]
        let work =
            unsafe { std::mem::transmute::<*const (dyn Fn() + Sync + '_), *const (dyn Fn() + Sync + 'static)>(work) };
        Arc::new(Self {
            work,
            state: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            owner: std::thread::current(),
        })
    }

    /// Whether a helper has panicked.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Whether helpers may still begin.
    pub fn is_open(&self) -> bool {
        self.state.load(Ordering::Relaxed) & CLOSED == 0
    }

    /// Do what is left of the work, unless it is closed.
    #[allow(unsafe_code)]
    pub fn help(&self) {
        let begin = |state| (state & CLOSED == 0).then_some(state + 1);
        if self.state.fetch_update(Ordering::Acquire, Ordering::Relaxed, begin).is_err() {
            return;
        }
        // SAFETY: counted in `state` before it was closed, and `run`, which borrows `work`, returns or unwinds only after it
        // has closed the job and seen no helper counted any more; this one is until below.
        let work = unsafe { &*self.work };
        // A panic must neither leave the owner waiting nor end the process.
        if std::panic::catch_unwind(AssertUnwindSafe(work)).is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        let owner = self.owner.clone();
        if self.state.fetch_sub(1, Ordering::Release) == CLOSED + 1 {
            owner.unpark();
        }
    }
}

/// Closes a job when dropped, also by a panic, and waits for the helpers that are at work.
pub struct Open<'a>(pub &'a Job);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.state.fetch_or(CLOSED, Ordering::Relaxed);
        // Who is at work is within its last block: most often done before a thread could be put to sleep.
        for _ in 0..SPINS {
            if self.0.state.load(Ordering::Acquire) == CLOSED {
                return;
            }
            std::hint::spin_loop();
        }
        while self.0.state.load(Ordering::Acquire) != CLOSED {
            std::thread::park();
        }
    }
}

/// Some tens of microseconds, about what a block takes.
const SPINS: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_that_comes_late_does_nothing() {
        let calls = AtomicUsize::new(0);
        let work = || {
            calls.fetch_add(1, Ordering::Relaxed);
        };
        let job = Job::new(&work);
        let open = Open(&job);
        job.help();
        drop(open);
        job.help();
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }
}
