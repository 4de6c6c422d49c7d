//! The thread pool: none at import, made on first use, one per process (a forked child makes its own).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, RwLock};

use rayon_core::{ThreadPool, ThreadPoolBuilder};

/// More threads than this never helped a copy.
const MOST_THREADS: usize = 16;

struct Helpers {
    pid: u32,
    count: usize,
    pool: ThreadPool,
}

static HELPERS: RwLock<Option<Arc<Helpers>>> = RwLock::new(None);
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

/// Run `work` on this thread and on up to `threads - 1` helpers at once, and return when all of them have returned.
///
/// `work` must take its share from a common counter: with no helper at hand this thread does all of it.
pub fn run(threads: usize, work: &(dyn Fn() + Sync)) {
    let helpers = threads.min(MOST_THREADS).saturating_sub(1);
    match (helpers > 0).then(|| helpers_of_this_process(helpers)).flatten() {
        Some(pool) => pool.pool.in_place_scope(|scope| {
            for _ in 0..helpers {
                scope.spawn(|_| work());
            }
            work();
        }),
        None => work(),
    }
}

/// The pool of this process with at least `count` threads. Never waits for a lock, which a fork may have left taken.
fn helpers_of_this_process(count: usize) -> Option<Arc<Helpers>> {
    let pid = std::process::id();
    if let Ok(current) = HELPERS.try_read()
        && let Some(helpers) = current.as_ref()
        && helpers.pid == pid
        && helpers.count >= count
    {
        return Some(Arc::clone(helpers));
    }
    let pool = ThreadPoolBuilder::new().num_threads(count).thread_name(|i| format!("iltools-{i}")).build().ok()?;
    let helpers = Arc::new(Helpers { pid, count, pool });
    if let Ok(mut current) = HELPERS.try_write()
        && let Some(old) = current.replace(Arc::clone(&helpers))
        && old.pid != pid
    {
        // The parent's threads do not exist here: its pool can be neither used nor shut down.
        std::mem::forget(old);
    }
    Some(helpers)
}

/// Tell the scheduler that this thread works in the background: waking it must not interrupt whoever wakes it.
///
/// Without this, on a machine whose other cores are busy, the thread that makes batches ahead begins its gather on the core
/// of the very loop that is to be spared it. A refusal costs only that.
#[allow(unsafe_code)]
pub fn work_in_the_background() {
    #[cfg(target_os = "linux")]
    // SAFETY: a plain system call on the calling thread (0); the parameter is a valid struct that outlives it.
    unsafe {
        let parameter: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameter);
    }
}
