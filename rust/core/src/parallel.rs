//! Work that the caller does, and helpers with it as far as they come in time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::helpers::helpers_of_this_process;
use crate::job::{Job, Open};
use crate::{Error, Result};

/// More threads than this never helped a copy.
const MOST_THREADS: usize = 16;

/// Number of threads callers asked for; 0 = as many as there are cores.
static WANTED: AtomicUsize = AtomicUsize::new(0);

/// Threads a large gather uses when the caller names no number.
pub fn num_threads() -> usize {
    match WANTED.load(Ordering::Relaxed) {
        0 => num_cores(),
        wanted => wanted,
    }
}

/// Cores this process may use. Asked once: the answer takes some 40 µs, as the system looks at control groups.
fn num_cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS))
}

/// Set the default number of threads of this process; `None` = as many as there are cores.
pub fn set_num_threads(count: Option<usize>) {
    WANTED.store(count.map_or(0, |count| count.clamp(1, MOST_THREADS)), Ordering::Relaxed);
}

/// Run `work` on this thread and on up to `threads - 1` helpers at once, and return when all that began have returned.
///
/// `work` must take its share from a common counter: a helper that has not begun when this thread is through is not waited
/// for. Where other programs or torch's spinning threads hold the other cores, it would begin milliseconds later.
///
/// # Panics
/// `work` panicked, here or on a helper.
pub fn run(threads: usize, work: &(dyn Fn() + Sync)) {
    let helpers = threads.min(MOST_THREADS).saturating_sub(1);
    match (helpers > 0).then(|| helpers_of_this_process(helpers)).flatten() {
        Some(pool) => {
            let job = Job::new(work);
            let open = Open(&job);
            pool.ask(helpers, &job);
            work();
            drop(open);
            assert!(!job.has_failed(), "a helper thread panicked");
        }
        None => work(),
    }
}

/// Time between two looks at the interrupt flag. By time, not by bytes: rows may come from a disk.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Do blocks `0..blocks` of some work, each once, on up to `threads` threads.
///
/// The first error ends it. `interrupted` is asked now and then, on the calling thread only; when it says yes, the work ends
/// with `Error::Interrupted`.
pub fn blocks(
    blocks: usize,
    threads: usize,
    interrupted: &(dyn Fn() -> bool + Sync),
    work: &(dyn Fn(usize) -> Result<()> + Sync),
) -> Result<()> {
    let caller = std::thread::current().id();
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let failure = Mutex::new(None);
    let fail = |error| {
        stop.store(true, Ordering::Relaxed);
        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    };
    run(threads.min(blocks), &|| {
        let is_caller = std::thread::current().id() == caller;
        let mut looked = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let block = next.fetch_add(1, Ordering::Relaxed);
            if block >= blocks {
                break;
            }
            if let Err(error) = work(block) {
                fail(error);
            }
            if is_caller && looked.elapsed() >= LOOK_EVERY {
                looked = Instant::now();
                if interrupted() {
                    fail(Error::Interrupted);
                }
            }
        }
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_done_once_when_run_returns() {
        for count in 0..3000_usize {
            let done: Vec<AtomicUsize> = (0..count % 40).map(|_| AtomicUsize::new(0)).collect();
            let next = AtomicUsize::new(0);
            run(3, &|| {
                while let Some(item) = done.get(next.fetch_add(1, Ordering::Relaxed)) {
                    item.fetch_add(1, Ordering::Relaxed);
                }
            });
            assert!(done.iter().all(|item| item.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn callers_share_the_helpers() {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..500 {
                        let done: Vec<AtomicUsize> = (0..round % 30).map(|_| AtomicUsize::new(0)).collect();
                        let next = AtomicUsize::new(0);
                        run(1 + round % 4, &|| {
                            while let Some(item) = done.get(next.fetch_add(1, Ordering::Relaxed)) {
                                item.fetch_add(1, Ordering::Relaxed);
                            }
                        });
                        assert!(done.iter().all(|item| item.load(Ordering::Relaxed) == 1));
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_of_a_helper_arrives_at_the_caller() {
        let caller = std::thread::current().id();
        let result = std::panic::catch_unwind(|| {
            let helped = AtomicBool::new(false);
            run(2, &|| {
                if std::thread::current().id() == caller {
                    while !helped.load(Ordering::Acquire) {
                        std::hint::spin_loop();
                    }
                } else {
                    helped.store(true, Ordering::Release);
                    panic!("on purpose");
                }
            });
        });
        assert!(result.is_err());
    }
}
